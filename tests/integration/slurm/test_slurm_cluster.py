"""The SLURM backend on a real two-node SLURM: placement, whole nodes, limits, chunks, follow-up jobs."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from typing import Any

import pytest

from cluster.backend import ClusterUsageError, Control, JobState
from cluster.slurm import sending
from tests.contract.bench import Bench
from tests.integration.slurm.conftest import shell

pytestmark = pytest.mark.slurm


def places(bench: Bench, names: Sequence[str]) -> list[tuple[str, str]]:
    """Node and GPU of each job's latest start."""
    starts = [bench.starts(name)[-1] for name in names]
    return [(start["CAUSALSWEEP_NODE"], start["CUDA_VISIBLE_DEVICES"]) for start in starts]


def test_sixteen_jobs_run_at_once_on_sixteen_gpus(bench: Bench) -> None:
    """16 of 18 jobs run at once, each on a (node, GPU) pair of its own, as the status says too; the others follow."""
    names = [f"j{i}" for i in range(18)]
    cluster = bench.cluster()
    handles = cluster.submit([bench.request(name, until="gate") for name in names], token="t1")
    bench.wait("16 starts", lambda: sum(bool(bench.starts(name)) for name in names) == 16)
    running = [name for name in names if bench.starts(name)]
    assert len(set(places(bench, running))) == 16
    statuses = bench.wait_for({name: handles[name] for name in running}, JobState.RUNNING)
    assert [(statuses[name].node, statuses[name].gpu) for name in running] == places(bench, running)
    assert {status.state for status in cluster.poll(list(handles.values())).values()} == {
        JobState.RUNNING,
        JobState.PENDING,
    }
    bench.open("gate")
    assert {status.state for status in bench.wait_for(handles).values()} == {JobState.COMPLETED}
    assert [len(bench.starts(name)) for name in names] == [1] * 18


def test_one_slurm_job_drives_a_whole_node(bench: Bench) -> None:
    """With gpus: 4, six jobs are two SLURM jobs on whole nodes, one process a GPU; one that fails takes none along."""
    cluster = bench.cluster(partition="whole", gpus=4)
    names = [f"j{i}" for i in range(6)]
    requests = [bench.request(name, *(["--code", "3"] if name == "j1" else []), until="gate") for name in names]
    handles = cluster.submit(requests, token="t1")
    bench.wait_for_start(*names)
    assert len(set(places(bench, names))) == 6
    assert {handle.partition(".")[0] for handle in handles.values()} == {handles["j0"][:-2], handles["j4"][:-2]}
    bench.wait("both nodes are taken whole", lambda: shell("squeue", "-h", "-t", "R", "-o", "%N").count("node") == 2)
    with pytest.raises(ClusterUsageError, match="name all of them"):
        cluster.control([handles["j0"]], Control.CANCEL)
    bench.open("gate")
    statuses = bench.wait_for(handles)
    assert statuses.pop("j1").state is JobState.FAILED
    assert {status.state for status in statuses.values()} == {JobState.COMPLETED}


def test_an_interrupted_whole_node_goes_on_with_what_is_left(bench: Bench) -> None:
    """SIGUSR2 to a SLURM job of two: the one that was done is not run again, the other resumes from its checkpoint."""
    handles = bench.cluster(partition="whole", gpus=2).submit(
        [bench.request("done"), bench.request("cut", until="gate")], token="t1"
    )
    bench.wait_for({"done": handles["done"]}, JobState.COMPLETED)
    shell("scancel", "--batch", "--signal=USR2", handles["cut"].partition(".")[0])
    bench.wait_for_start("cut", n=2)
    bench.open("gate")
    assert {status.state for status in bench.wait_for(handles).values()} == {JobState.COMPLETED}
    assert bench.starts("cut")[1]["step"] == bench.checkpoint("cut") > 0
    assert len(bench.starts("done")) == 1


def test_a_limit_holds_over_several_submissions(bench: Bench) -> None:
    """Three submissions and a limit of two: never more than two jobs at once, and all of them run."""
    cluster = bench.cluster(array_parallelism=2)
    handles: dict[str, str] = {}
    for token in ("t1", "t2", "t3"):
        handles |= cluster.submit([bench.request(f"{token}-{i}") for i in range(3)], token=token)
    seen: set[int] = set()

    def all_ended() -> bool:
        states = shell("squeue", "-h", "-r", "-o", "%T").split()
        seen.add(states.count("RUNNING"))
        return not states

    bench.wait("the queue is empty", all_ended)
    assert max(seen) <= 2
    assert {status.state for status in bench.wait_for(handles).values()} == {JobState.COMPLETED}


def test_more_jobs_than_an_array_may_have_are_split(bench: Bench) -> None:
    """With MaxArraySize 1001, 1,005 jobs are arrays of 1,001 and 4: all known, none twice, and all cancelled."""
    cluster = bench.cluster(array_parallelism=1)
    handles = cluster.submit([bench.request(f"j{i}", until="gate") for i in range(1005)], token="t1")
    jobs = shell("squeue", "-h", "-r", "-o", "%F_%K").split()
    assert sorted(jobs) == sorted(handles.values())
    assert sorted(job.partition("_")[0] for job in jobs).count(handles["j0"].partition("_")[0]) == 1001
    cluster.control(list(handles.values()), Control.KILL)
    assert {status.state for status in bench.wait_for(handles).values()} == {JobState.CANCELLED}


def test_a_followup_job_runs_when_all_have_ended(bench: Bench) -> None:
    """It waits for a job that fails and one that succeeds, and asks for no GPU."""
    cluster = bench.cluster()
    handles = cluster.submit([bench.request("bad", "--code", "3"), bench.request("good", until="gate")], token="t1")
    request = bench.request("after", n_gpus=0)
    followup = cluster.submit_followup(request, after=list(handles.values()), token="t1-auto")
    assert cluster.submit_followup(request, after=list(handles.values()), token="t1-auto") == followup
    bench.wait_for({"bad": handles["bad"]})
    assert bench.cluster().poll([followup])[followup].state is JobState.PENDING
    bench.open("gate")
    assert bench.wait_for({"after": followup})["after"].state is JobState.COMPLETED
    assert bench.ends("good") == 1
    (start,) = bench.starts("after")
    assert start.get("CUDA_VISIBLE_DEVICES", "") == ""


@pytest.mark.parametrize("step", ["place_tasks", "send_array"])
def test_a_submitter_killed_half_way_loses_and_doubles_nothing(
    bench: Bench, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after sbatch, before or after the id is written down: the array is held, and the next call finishes it."""
    requests = [bench.request("a"), bench.request("b")]
    child = os.fork()
    if child == 0:
        real = getattr(sending, step)

        def killed(*arguments: Any) -> None:
            if step == "send_array":
                real(*arguments)
            os.kill(os.getpid(), signal.SIGKILL)

        setattr(sending, step, killed)
        bench.cluster().submit(requests, token="t1")
        os._exit(1)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert shell("squeue", "-h", "-r", "-o", "%r").split() == ["JobHeldUser"] * 2
    handles = bench.cluster().submit(requests, token="t1")
    assert {status.state for status in bench.wait_for(handles).values()} == {JobState.COMPLETED}
    assert len(bench.starts("a")) == len(bench.starts("b")) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"partition": "nowhere"}, r"slurm\.partition: 'nowhere'; there is gpu, high, whole"),
        ({"gpus": 9}, r"configuration is not available.*slurm\.gpus"),
        ({"gpus": "h100:1"}, r"slurm\.gpus"),
        ({"mem": "900G"}, r"slurm\.mem"),
        ({"constraint": "fast"}, r"slurm\.constraint"),
    ],
)
def test_what_can_never_run_is_refused_at_once(bench: Bench, options: dict[str, Any], message: str) -> None:
    """The message says what is wrong and how to mend it, and nothing is left in the queue."""
    with pytest.raises(ClusterUsageError, match=message):
        bench.cluster(**options).submit([bench.request("a")], token="t1")
    assert shell("squeue", "-h") == ""
