"""A real sweep on a real SLURM: the same rows as on this machine, whatever breaks meanwhile."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from subprocess import CalledProcessError
from typing import Any

import pandas as pd
import pytest

from cluster.testbed.slurm import SlurmTestbed
from orchestrator import Sweep
from orchestrator.backends.submissions import read_submissions
from orchestrator.jobs.retry import Mode
from orchestrator.status.states import CellState, JobStatus, SweepStatus
from tests.integration.slurm.conftest import mend, shell
from tests.rows import assert_same_science, attempts
from tests.testbeds import start_requeued_jobs

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.timeout(900)]

PATIENCE_S = 300.0
CHECKPOINT_S = 0.5


@pytest.fixture(scope="module")
def make(demo_model: Path) -> Callable[..., Sweep]:
    """Sweeps of eight cells, packed into four jobs: two hypotheses, two layers, two positions."""

    def make(folder: Path, **sections: Any) -> Sweep:
        spec = {
            "name": "tiny",
            "model": {"path": str(demo_model), "dtype": "float32"},
            "task": "price_tagging",
            "grid": {"experiments": ["left_boundary", "bracket_identity"], "layers": [1, 3], "positions": "80..81"},
            "data": {"n_train": 6400, "n_eval": 64, "n_test": 128},
            "gate": {"task_accuracy": 0.5},
            "run": {"checkpoint_every_s": CHECKPOINT_S, "heartbeat_s": 0.5},
            "cluster": {"nodes": 2, "gpus_per_node": 2, "gpu": "cpu"},
            "local": {"workers": 2},
            "slurm": {"cpus": 8},  # two jobs a node, so that two cores are enough for all of them
        }
        folder.mkdir(exist_ok=True)
        path = folder / "tiny.yaml"
        path.write_text(json.dumps(spec | sections), encoding="utf-8")  # JSON is YAML
        return Sweep.load(path, sweeps=folder / "sweeps")

    return make


@pytest.fixture(scope="module")
def expected(make: Callable[..., Sweep], tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """The rows of a run on this machine that nothing disturbed."""
    sweep = make(tmp_path_factory.mktemp("here"))
    assert sweep.run(poll_s=0.5).is_done
    return sweep.results()


def wait_for(sweep: Sweep, what: str, is_so: Callable[[SweepStatus], bool]) -> SweepStatus:
    """The status once `is_so`; what SLURM puts off meanwhile is not."""
    end = time.monotonic() + PATIENCE_S
    while not is_so(status := sweep.status()):
        assert time.monotonic() < end, f"waited in vain for {what}: {status}\n{shell('scontrol', 'show', 'job')}"
        start_requeued_jobs()
        time.sleep(0.3)
    return status


def finish(sweep: Sweep) -> None:
    """Resume until every cell is done."""
    for _ in range(4):
        if wait_for(sweep, "the end of all jobs", lambda status: status.is_quiet).is_done:
            return
        sweep.resume(on="slurm")
    raise AssertionError(f"not done after four times resume: {sweep.errors()}")


def running(sweep: Sweep) -> list[JobStatus]:
    """The jobs that train just now."""
    return [job for job in sweep.status().jobs if job.progress and job.progress.steps_done and not job.progress.ended]


def test_the_rows_are_those_of_a_local_run(
    make: Callable[..., Sweep], expected: pd.DataFrame, testbed: SlurmTestbed, tmp_path: Path
) -> None:
    """Undisturbed on two nodes: equal rows, which name their node and SLURM's id."""
    sweep = make(tmp_path)
    receipt = sweep.submit(on="slurm")
    finish(sweep)
    assert_same_science(sweep.results(), expected)
    rows = sweep.results()
    assert set(rows["backend"]) == {"slurm"}
    assert receipt.submission is not None
    assert set(rows["scheduler_job_id"]) == set(receipt.submission.handles.values())


def test_faults_in_a_seeded_order_change_no_row(
    make: Callable[..., Sweep],
    expected: pd.DataFrame,
    testbed: SlurmTestbed,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    """Every kind of fault once, in a random order at random moments of the training. After `resume` every cell is
    there once, every row is as if nothing had happened, and no fault cost more than a checkpoint interval of work."""
    sweep = make(tmp_path)
    sweep.submit(on="slurm")
    rng = random.Random(11)
    faults = list(FAULTS)
    rng.shuffle(faults)
    n_hit = 0
    for fault in faults:
        wait_for(sweep, "training", lambda status: bool(running(sweep)) or status.is_quiet)
        time.sleep(rng.uniform(0, 1.0))
        n_hit += fault(testbed, sweep)
        mend(testbed)
        if sweep.status().is_quiet:
            sweep.resume(on="slurm")
    finish(sweep)
    records, jobs = attempts(sweep), sweep.status().jobs
    lost_s = sum(job.lost_s for job in jobs)
    measured = {"faults that hit": n_hit, "attempts": len(records), "seconds of work repeated": round(lost_s, 1)}
    request.node.user_properties.extend(measured.items())  # shown by --junitxml
    assert n_hit >= len(FAULTS) // 2
    assert len(records) > len(jobs)
    assert_same_science(sweep.results(), expected)
    # a job that is hit repeats what it did since its last checkpoint; writing one takes time too on a busy machine
    assert lost_s <= len(records) * (CHECKPOINT_S + 2.0)


def test_a_followup_job_heals_the_sweep(
    make: Callable[..., Sweep], expected: pd.DataFrame, testbed: SlurmTestbed, tmp_path: Path
) -> None:
    """`--auto`: a worker is killed and nobody asks for anything. SLURM starts the follow-up job, which resumes what
    failed and leaves a follow-up behind; that one finds nothing to do, and the queue is empty."""
    sweep = make(tmp_path)
    sweep.submit(on="slurm", auto=True)
    wait_for(sweep, "training", lambda status: bool(running(sweep)))
    assert kill_a_worker(testbed, sweep)
    wait_for(sweep, "the last cell", lambda status: status.is_done)
    first, *others = read_submissions(sweep.folder)
    assert (first.reason, [other.reason for other in others]) == (Mode.SUBMIT, [Mode.AUTO])
    end = time.monotonic() + PATIENCE_S
    while queue := shell("squeue", "-h"):
        assert time.monotonic() < end, queue
        time.sleep(0.5)
    assert len(read_submissions(sweep.folder)) == 2
    assert_same_science(sweep.results(), expected)


# ---------------------------------------------------------------------- faults: each says whether it hit a running job


def told(*command: str) -> bool:
    """Whether SLURM did it: the job may have ended just now."""
    try:
        shell(*command)
    except CalledProcessError:
        return False
    return True


def kill_a_worker(_testbed: SlurmTestbed, sweep: Sweep) -> bool:
    """SIGKILL to a process that trains."""
    for job in running(sweep)[:1]:
        with suppress(ProcessLookupError):
            os.kill(job.progress.pid, signal.SIGKILL)  # type: ignore[union-attr]
            return True
    return False


def warn_a_job(_testbed: SlurmTestbed, sweep: Sweep) -> bool:
    """The signal that comes before a preemption."""
    return any(told("scancel", "--batch", "--signal=USR2", job.handle) for job in running(sweep))


def requeue_a_job(_testbed: SlurmTestbed, sweep: Sweep) -> bool:
    """`scontrol requeue` by hand."""
    return any(told("scontrol", "requeue", job.handle) for job in running(sweep))


def lose_a_node(testbed: SlurmTestbed, sweep: Sweep) -> bool:
    """Power failure of a node, which then returns."""
    for job in running(sweep)[:1]:
        testbed.die(job.node)
        testbed.fail(job.node)
        testbed.start(job.node)
        return True
    return False


def cut_a_node_off(testbed: SlurmTestbed, sweep: Sweep) -> bool:
    """A node's daemon dies: its jobs run on unseen, and again elsewhere."""
    for job in running(sweep)[:1]:
        testbed.partition(job.node)
        testbed.fail(job.node)
        wait_for(sweep, "a copy", lambda status: len(attempts(sweep)) > len(status.jobs) or status.is_done)
        return True
    return False


def preempt_a_node(testbed: SlurmTestbed, sweep: Sweep) -> bool:
    """A job of higher rank takes a node for some seconds."""
    for job in running(sweep)[:1]:
        testbed.preempt(job.node, seconds=5)
        return True
    return False


def restart_the_controller(testbed: SlurmTestbed, sweep: Sweep) -> bool:
    """slurmctld dies and comes back."""
    hit = bool(running(sweep))
    testbed.controller_down()
    testbed.controller_up()
    return hit


def lose_the_database(testbed: SlurmTestbed, sweep: Sweep) -> bool:
    """slurmdbd dies; status is asked meanwhile."""
    hit = bool(running(sweep))
    failed = sweep.status().counts[CellState.FAILED]
    testbed.database_down()
    assert sweep.status().counts[CellState.FAILED] == failed
    testbed.database_up()
    return hit


def tear_a_shard(_testbed: SlurmTestbed, sweep: Sweep) -> bool:
    """A disk that filled up: the last bytes of a shard are gone."""
    for path in sorted(sweep.folder.shards.glob("*.parquet"))[:1]:
        path.write_bytes(path.read_bytes()[:-40])
        return True
    return False


FAULTS: tuple[Callable[[SlurmTestbed, Sweep], bool], ...] = (
    kill_a_worker,
    warn_a_job,
    requeue_a_job,
    lose_a_node,
    cut_a_node_off,
    preempt_a_node,
    restart_the_controller,
    lose_the_database,
    tear_a_shard,
)
