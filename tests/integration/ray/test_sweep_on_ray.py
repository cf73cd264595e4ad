"""A real sweep on real raylets: the same rows as on this machine, whatever dies meanwhile and wherever it continues."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from cluster.backend import JobState
from cluster.ray import RayCluster
from cluster.ray.record import RayFiles
from cluster.testbed.machine import family, send
from cluster.testbed.ray import RayTestbed, TestbedError
from orchestrator import Sweep, cli
from orchestrator.status.states import CellState, JobStatus, SweepStatus
from tests.rows import assert_same_science, attempts
from tests.testbeds import slurm_testbed

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]

PATIENCE_S = 300.0
N_CELLS = 12


@pytest.fixture(scope="module")
def make(demo_model: Path, bed: RayTestbed) -> Callable[..., Sweep]:
    """Sweeps of twelve cells in two jobs of three cohorts each, one job a node."""

    def make(folder: Path, **sections: Any) -> Sweep:
        spec = {
            "name": "tiny",
            "model": {"path": str(demo_model), "dtype": "float32"},
            "task": "price_tagging",
            "grid": {
                "experiments": ["left_boundary", "bracket_identity"],
                "layers": [2],
                "positions": "80..81",
                "seeds": [42, 43, 44],
            },
            "data": {"n_train": 384, "n_eval": 64, "n_test": 128},
            "gate": {"task_accuracy": 0.5},
            "run": {"checkpoint_every_s": 0.5, "heartbeat_s": 0.5},
            "cluster": {"nodes": 2, "gpus_per_node": 1, "gpu": "cpu"},
            "local": {"workers": 2},
            "slurm": {"cpus": 8},
            "ray": {"address": bed.address, "cpus_per_job": bed.n_cpus},
        }
        (folder / "tiny.yaml").write_text(json.dumps(spec | sections), encoding="utf-8")  # JSON is YAML
        return Sweep.load(folder / "tiny.yaml", sweeps=folder / "sweeps")

    return make


@pytest.fixture(scope="module")
def local(make: Callable[..., Sweep], tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """The sweep after a run on this machine that nothing disturbed."""
    sweep = make(tmp_path_factory.mktemp("here"))
    assert sweep.run(poll_s=0.5).is_done
    return sweep


@pytest.fixture(scope="module")
def abandoned(make: Callable[..., Sweep], tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """The sweep at its end on Ray, where SIGKILL ended `causalsweep submit` as soon as there was a dispatcher."""
    folder = tmp_path_factory.mktemp("abandoned")
    sweep = make(folder)
    command = [sys.executable, "-m", "orchestrator", "submit", "tiny.yaml", "--on", "ray"]
    with subprocess.Popen(command, cwd=folder, start_new_session=True) as client:
        state = RayFiles(sweep.folder.root).root / "state"
        wait_until("a dispatcher", lambda: client.poll() is not None or any(state.glob("*.json")))
        os.killpg(client.pid, signal.SIGKILL)
    assert client.returncode == -signal.SIGKILL
    wait_for(sweep, "the last row", lambda status: status.is_done)
    return sweep


@pytest.fixture
def causalsweep(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """The document that a command prints of a sweep."""

    def said(sweep: Sweep, command: str) -> Any:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["causalsweep", command, str(sweep.folder.root), "--json"])
        try:
            cli.main()
        except SystemExit as end:
            code = end.code
        document = capsys.readouterr()
        assert not code, document.err
        return json.loads(document.out)

    return said


def test_an_abandoned_sweep_has_the_rows_of_a_local_run(abandoned: Sweep, local: Sweep) -> None:
    """The client is killed right after it has handed the jobs over: each runs once, one a node, the rows are equal to
    the local run's, and a second `submit` finds the jobs and sends none."""
    assert_same_science(abandoned.results(), local.results())
    assert abandoned.submit(on="ray").submission is None
    assert [record.attempt for record in attempts(abandoned)] == [1, 1]
    rows, jobs = abandoned.results(), abandoned.status().jobs
    assert set(rows["backend"]) == {"ray"}
    assert set(rows["host"]) == {"node-0", "node-1"}
    assert set(rows["scheduler_job_id"]) == {job.handle for job in jobs}


def test_faults_in_a_seeded_order_change_no_row(
    make: Callable[..., Sweep],
    local: Sweep,
    bed: RayTestbed,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    causalsweep: Callable[..., Any],
) -> None:
    """A worker, a raylet and the dispatcher die, in a random order at random moments of the training. After `resume`
    every cell is there once, every row is as if nothing had happened, `errors` blames the nodes alone, and `status`
    says how many seconds of work were done twice."""
    sweep = make(tmp_path)
    sweep.submit(on="ray")
    rng = random.Random(1)
    faults = [kill_a_worker, kill_a_raylet, kill_the_dispatcher]
    rng.shuffle(faults)
    n_hit = 0
    for fault in faults:
        wait_for(sweep, "training on node 1", lambda status: status.is_quiet or "node-1" in places(training(sweep)))
        time.sleep(rng.uniform(0, 0.5))
        n_hit += fault(bed, sweep)
        bed.up()
        if sweep.status().is_quiet:
            sweep.resume()
    finish(sweep)
    assert_same_science(sweep.results(), local.results())
    records = attempts(sweep)
    lost_s = sum(job["lost_s"] for job in causalsweep(sweep, "status")["jobs"])
    spent_s = sum((record.ended or record.updated) - record.started for record in records)
    measured = {"faults that hit": n_hit, "attempts": len(records), "seconds of work repeated": round(lost_s, 1)}
    request.node.user_properties.extend(measured.items())  # shown by --junitxml
    assert n_hit >= 2
    assert len(records) >= 2 + n_hit
    assert 0 < lost_s < spent_s / 2
    assert {fault["kind"] for fault in causalsweep(sweep, "errors")} == {"node"}


@pytest.mark.slurm
def test_a_sweep_moves_between_slurm_and_ray(
    make: Callable[..., Sweep], local: Sweep, bed: RayTestbed, tmp_path: Path
) -> None:
    """Begun on SLURM and cancelled, continued on Ray and cancelled, ended on SLURM: the rows are equal again, and
    each stage gave some of them."""
    slurm_testbed()
    make(tmp_path, slurm={"cpus": 8, "array_parallelism": 1}).submit(on="slurm")  # a job for the later stages
    sweep = make(tmp_path)
    stop_at_the_first_row(sweep)
    RayCluster(sweep.folder.root, {"address": bed.address}).limit(1)
    sweep.resume(on="ray")
    stop_at_the_first_row(sweep)
    sweep.resume(on="slurm")
    assert wait_for(sweep, "the end", lambda status: status.is_quiet).is_done
    assert_same_science(sweep.results(), local.results())
    rows = sweep.results()
    stages = zip(rows["job"].str.partition("-")[0], rows["backend"], strict=True)
    assert set(stages) == {("r1", "slurm"), ("r2", "ray"), ("r3", "slurm")}


def test_the_folder_tells_all_when_ray_is_gone(
    abandoned: Sweep,
    local: Sweep,
    bed: RayTestbed,
    causalsweep: Callable[..., Any],
) -> None:
    """With the cluster down every command works from the folder, and its document has the keys that it has after a
    local run; there is nothing to cancel and nothing to resume."""
    bed.kill_node(1)
    bed.kill_node(0)
    assert bed.status() == []
    try:
        commands = ("status", "results", "check", "logs", "report", "cancel", "resume")
        mine, theirs = ({name: causalsweep(sweep, name) for name in commands} for sweep in (abandoned, local))
        assert keys_in(mine) == keys_in(theirs)
        assert mine["status"]["cells"]["done"] == len(mine["results"]) == N_CELLS
        assert {job["node"] for job in mine["status"]["jobs"]} == {"node-0", "node-1"}
        assert mine["check"]["is_done"]
        assert causalsweep(abandoned, "errors") == []
        assert "6 cells done" in mine["logs"]["text"]
        assert mine["resume"]["n_jobs"] == 0
        assert "left_boundary" in Path(mine["report"]["path"]).read_text(encoding="utf-8")
    finally:
        bed.up()


# ---------------------------------------------------------------------- what is looked at


def training(sweep: Sweep) -> list[JobStatus]:
    """The jobs that train just now."""
    alive = {one.identity.pid for one in family() if "-m workers" in one.command}
    jobs = [job for job in sweep.status().jobs if job.state is JobState.RUNNING]
    return [job for job in jobs if job.progress and job.progress.steps_done and job.progress.pid in alive]


def places(jobs: Iterable[JobStatus]) -> set[str]:
    """The nodes that the jobs are on."""
    return {job.node for job in jobs}


def keys_in(document: Any) -> Any:
    """The keys of a JSON document, without the values and however long its lists are."""
    if isinstance(document, dict):
        return {key: keys_in(value) for key, value in document.items()}
    return [keys_in(one) for one in document[:1]] if isinstance(document, list) else ()


def wait_for(sweep: Sweep, what: str, is_so: Callable[[SweepStatus], bool]) -> SweepStatus:
    """The status once `is_so`."""
    seen: list[SweepStatus] = []

    def look() -> bool:
        seen[:] = [sweep.status()]
        return is_so(seen[0])

    try:
        wait_until(what, look)
    except AssertionError as error:
        raise AssertionError(f"{error}: {seen}") from None
    return seen[0]


def stop_at_the_first_row(sweep: Sweep) -> None:
    """Cancel the sweep's jobs as soon as there is one more row than now, and wait for their end."""
    n_before = sweep.status().counts[CellState.DONE]
    wait_for(sweep, "a row", lambda status: status.counts[CellState.DONE] > n_before)
    sweep.cancel()
    assert not wait_for(sweep, "the end of its jobs", lambda status: status.is_quiet).is_done


def finish(sweep: Sweep) -> None:
    """Resume until every cell is done."""
    for _ in range(3):
        if wait_for(sweep, "the end of all jobs", lambda status: status.is_quiet).is_done:
            return
        sweep.resume()
    raise AssertionError(f"not done after three times resume: {sweep.errors()}")


def wait_until(what: str, is_so: Callable[[], bool]) -> None:
    """Returns once `is_so()`; fails the test where that takes too long."""
    end = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.2)


# ---------------------------------------------------------------------- faults: each says whether it hit a job


def kill_a_worker(bed: RayTestbed, sweep: Sweep) -> bool:
    """SIGKILL to the Ray process around a job."""
    hit = bool(training(sweep))
    with suppress(TestbedError):  # the last job has ended just now
        bed.kill_worker()
    return hit


def kill_a_raylet(bed: RayTestbed, sweep: Sweep) -> bool:
    """SIGKILL to the raylet of the node that is not the head."""
    hit = "node-1" in places(training(sweep))
    bed.kill_raylet(1)
    return hit


def kill_the_dispatcher(_bed: RayTestbed, sweep: Sweep) -> bool:
    """SIGKILL to the process that hands out the jobs, which end with it."""
    hit, folder = bool(training(sweep)), str(RayFiles(sweep.folder.root).root)
    for one in family():
        if " cluster.ray.dispatcher " in one.command and folder in one.command:
            send(one.identity, signal.SIGKILL)
    wait_for(sweep, "the end of its jobs", lambda status: status.is_quiet)
    return hit
