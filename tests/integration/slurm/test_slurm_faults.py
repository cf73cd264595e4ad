"""Faults of a real two-node SLURM while jobs run: each job comes to its end once, from where it was."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest

from cluster.backend import ClusterUnavailable, JobState, NothingSent
from cluster.testbed.slurm import SlurmTestbed
from tests.contract.bench import Bench
from tests.integration.slurm.conftest import shell

pytestmark = pytest.mark.slurm


def start(bench: Bench, *names: str) -> dict[str, str]:
    """The handles of jobs that run and wait for the gate."""
    handles = bench.cluster().submit([bench.request(name, until="gate") for name in names], token="t1")
    bench.wait_for_start(*names)
    bench.wait_for(handles, JobState.RUNNING)
    return handles


def goes_on(bench: Bench, handles: dict[str, str], name: str) -> None:
    """The job starts again from its checkpoint, under the same handle, and comes to its end once."""
    bench.wait_for_start(name, n=2)
    bench.open("gate")
    status = bench.wait_for(handles)[name]
    assert status.state is JobState.COMPLETED
    assert status.restarts >= 1
    assert bench.starts(name)[1]["step"] == bench.checkpoint(name) > 0
    assert bench.starts(name)[1]["CAUSALSWEEP_SCHEDULER_JOB_ID"] == handles[name]
    assert (len(bench.starts(name)), bench.ends(name)) == (2, 1)


def node_of(bench: Bench, name: str) -> str:
    """Where the job runs."""
    return str(bench.starts(name)[-1]["CAUSALSWEEP_NODE"])


def test_a_killed_worker_is_failed_alone(bench: Bench) -> None:
    """SIGKILL of one job's process: FAILED, named; its neighbour continues."""
    handles = start(bench, "a", "b")
    os.kill(bench.starts("a")[0]["pid"], signal.SIGKILL)
    status = bench.wait_for({"a": handles["a"]})["a"]
    assert (status.state, status.detail) == (JobState.FAILED, "killed by SIGKILL")
    bench.open("gate")
    assert bench.wait_for(handles)["b"].state is JobState.COMPLETED


@pytest.mark.parametrize("flags", [("--batch", "--signal=USR2"), ("--full", "--signal=TERM")])
def test_a_signal_makes_a_job_write_its_checkpoint_and_go_on(bench: Bench, flags: tuple[str, ...]) -> None:
    """`scancel --signal` with the warning or with SIGTERM: requeued, and on from the checkpoint."""
    handles = start(bench, "a")
    shell("scancel", *flags, handles["a"])
    goes_on(bench, handles, "a")


def test_a_requeue_by_hand_goes_on(bench: Bench) -> None:
    """`scontrol requeue`: the job gets SIGTERM, writes its checkpoint, and comes back from there."""
    handles = start(bench, "a")
    shell("scontrol", "requeue", handles["a"])
    goes_on(bench, handles, "a")


def test_a_preempted_job_goes_on_elsewhere(bench: Bench, testbed: SlurmTestbed) -> None:
    """A job of higher rank takes the node: the job writes its checkpoint on the warning and resumes."""
    handles = start(bench, "a")
    preemptor = testbed.preempt(node_of(bench, "a"))
    goes_on(bench, handles, "a")
    assert bench.starts("a")[0]["CAUSALSWEEP_NODE"] != bench.starts("a")[1]["CAUSALSWEEP_NODE"]
    shell("scancel", preemptor)


def test_the_time_limit_is_known_and_survived(bench: Bench) -> None:
    """The job is told its deadline; when the limit comes near it writes its checkpoint and resumes."""
    handles = start(bench, "a")
    end = float(shell("env", "SLURM_TIME_FORMAT=%s", "squeue", "-h", "-o", "%e", "-j", handles["a"]))
    assert float(bench.starts("a")[0]["CAUSALSWEEP_DEADLINE"]) == end
    shell("scontrol", "update", f"jobid={handles['a']}", "endtime=now+40")  # SLURM looks every 30 s
    goes_on(bench, handles, "a")


def test_a_dead_node_gives_its_jobs_to_another(bench: Bench, testbed: SlurmTestbed) -> None:
    """Power failure: no checkpoint was written, so the job starts anew; its end is one."""
    handles = start(bench, "a", "b")
    node = node_of(bench, "a")
    testbed.die(node)
    testbed.fail(node)  # rather than wait for the 40 s after which SLURM notices
    bench.wait_for_start("a", n=2)
    testbed.start(node)
    bench.open("gate")
    statuses = bench.wait_for(handles)
    assert {status.state for status in statuses.values()} == {JobState.COMPLETED}
    assert (bench.ends("a"), bench.ends("b")) == (1, 1)


def test_an_orphan_beside_its_copy_does_no_harm(bench: Bench, testbed: SlurmTestbed) -> None:
    """A node that was cut off: its job runs on unseen while a copy runs elsewhere; the job is COMPLETED once."""
    handles = start(bench, "a")
    node = node_of(bench, "a")
    testbed.partition(node)
    testbed.fail(node)
    bench.wait_for_start("a", n=2)
    first, second = bench.starts("a")
    os.kill(first["pid"], 0)  # the orphan lives
    assert first["CAUSALSWEEP_NODE"] != second["CAUSALSWEEP_NODE"]
    bench.open("gate")
    bench.wait("both end", lambda: bench.ends("a") == 2)
    assert bench.wait_for(handles)["a"].state is JobState.COMPLETED
    testbed.start(node)


def test_a_controller_that_dies_loses_no_job(bench: Bench, testbed: SlurmTestbed) -> None:
    """slurmctld killed once it has saved its state, as it does every few seconds: the job continues without it."""
    handles = start(bench, "a")
    saved = testbed.folder / "spool" / "controller" / "job_state"
    changed = time.time()
    shell("scontrol", "update", f"jobid={handles['a']}", "comment=changed")
    bench.wait("the controller saves its state", lambda: saved.stat().st_mtime > changed)
    testbed.controller_down()
    with suppress(ClusterUnavailable):
        assert not bench.cluster().poll(list(handles.values()))[handles["a"]].state.is_finished()
    testbed.controller_up()
    bench.open("gate")
    assert bench.wait_for(handles)["a"].state is JobState.COMPLETED
    assert (len(bench.starts("a")), bench.ends("a")) == (1, 1)


def test_a_controller_that_is_not_there_was_sent_nothing(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody listens where the configuration says: the jobs are known not to have been sent, so that they may run
    elsewhere."""
    conf = "ClusterName=gone\nSlurmctldHost=localhost(127.0.0.1)\nSlurmctldPort=1\nMessageTimeout=1\nNodeName=n1\n"
    (tmp_path / "slurm.conf").write_text(conf + "PartitionName=p Nodes=n1\n")
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "slurm.conf"))
    with pytest.raises(NothingSent, match="Unable to contact slurm controller"):
        bench.cluster().submit([bench.request("a")], token="t1")


def test_status_needs_no_database(bench: Bench, testbed: SlurmTestbed) -> None:
    """slurmdbd killed: running jobs are as squeue says, ended ones as their tasks wrote down."""
    handles = start(bench, "a", "b")
    testbed.database_down()
    os.kill(bench.starts("b")[0]["pid"], signal.SIGKILL)
    statuses = bench.wait_for({"b": handles["b"]})
    assert (statuses["b"].state, "SIGKILL" in statuses["b"].detail) == (JobState.FAILED, True)
    assert bench.wait_for({"a": handles["a"]}, JobState.RUNNING)
    testbed.database_up()
    bench.open("gate")
    assert bench.wait_for(handles)["a"].state is JobState.COMPLETED
