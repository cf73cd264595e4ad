"""What is lost, and what is not, when processes and nodes of a real Ray cluster die."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.backend import HandleStatus, JobState
from cluster.process import ProcessId
from cluster.ray import RayCluster
from cluster.ray.reading import QUIET_S
from cluster.ray.record import RayFiles
from cluster.testbed.machine import family, send
from cluster.testbed.ray import RayTestbed
from tests.contract.bench import Bench
from tests.integration.ray.nodes import blind_node, third_node

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def running_child(bench: Bench, name: str) -> ProcessId:
    """The process of a job's latest start."""
    return ProcessId.of(bench.starts(name)[-1]["pid"])


def dispatcher(bench: Bench, token: str) -> ProcessId:
    """The process of a submission's dispatcher."""
    path = str(RayFiles(bench.folder).path(RayFiles(bench.folder).name(token)))
    (process,) = (one.identity for one in family() if one.command.strip().endswith(f"cluster.ray.dispatcher {path}"))
    return process


def test_a_killed_worker_process_takes_its_command_along(bench: Bench, bed: RayTestbed) -> None:
    """SIGKILL to the Ray process that runs a job: the command dies with it, and a daemon that it has left in a session
    of its own when the next job starts there, so that nothing is left on the GPU that Ray hands out again. The job runs
    a second time, which its status counts."""
    leave = "setsid sh -c 'echo $$ >> pids; exec sleep 600' & exec \"$@\""
    request = bench.request("a", until="gate")
    request = replace(request, argv=("sh", "-c", leave, "sh", *request.argv))
    pids = request.log.parent / "pids"
    handles = bench.cluster().submit([request], token="t1")
    bench.wait_for_start("a")
    bench.wait("the daemon", lambda: pids.exists() and pids.read_text().endswith("\n"))
    child, daemon = running_child(bench, "a"), ProcessId.of(int(pids.read_text()))
    bed.kill_worker()
    bench.wait("the command's end", lambda: not child.is_alive())
    bench.wait_for_start("a", n=2)
    bench.wait("the daemon's end", lambda: not daemon.is_alive())
    bench.wait("the second daemon", lambda: len(pids.read_text().splitlines()) == 2)
    assert ProcessId.of(int(pids.read_text().splitlines()[1])).is_alive()
    bench.open("gate")
    status = bench.wait_for(handles)["a"]
    assert (status.state, status.restarts) == (JobState.COMPLETED, 1)


def test_a_killed_command_runs_again_and_not_for_ever(bench: Bench) -> None:
    """SIGKILL to the command itself counts as a lost process; after `max_restarts` the job is given up."""
    cluster = bench.cluster(max_restarts=1)
    handles = cluster.submit([bench.request("a", until="gate")], token="t1")
    for n in (1, 2):
        bench.wait_for_start("a", n=n)
        send(running_child(bench, "a"), signal.SIGKILL)
    status = bench.wait_for(handles)["a"]
    assert status.state is JobState.NODE_FAIL
    assert "SIGKILL" in status.detail
    assert len(bench.starts("a")) == 2


def test_what_a_command_leaves_running_is_ended(bench: Bench) -> None:
    """A command starts a daemon in a session of its own and ends well: when the job is COMPLETED the daemon is gone."""
    leave = "setsid sh -c 'echo $$ > pid; exec sleep 600' & while [ ! -s pid ]; do sleep 0.01; done"
    request = replace(bench.request("a"), argv=("sh", "-c", leave))
    handles = bench.cluster().submit([request], token="t1")
    assert bench.wait_for(handles)["a"].state is JobState.COMPLETED
    pid = int((request.log.parent / "pid").read_text())
    with pytest.raises(ProcessLookupError):
        ProcessId.of(pid)


def test_a_lost_node_loses_no_job_and_is_used_when_it_returns(bench: Bench, bed: RayTestbed) -> None:
    """Two jobs fill a node each; node 1 dies: its job waits, the other runs on; it returns: the job runs there."""
    handles = bench.cluster().submit([bench.request(name, until="gate", n_gpus=8) for name in "ab"], token="t1")
    bench.wait_for_start("a", "b")
    lost = next(name for name in "ab" if bench.starts(name)[0]["CAUSALSWEEP_NODE"] == "node-1")
    bed.kill_node(1)
    waiting = bench.wait_for({lost: handles[lost]}, JobState.PENDING)[lost]
    assert waiting.detail == "again, after: Task failed because the node it was running on is dead or unavailable"
    bed.up()
    bench.wait_for_start(lost, n=2)
    # while Ray still holds the dead node for alive, a part of the id tells the two of that name apart
    assert bench.starts(lost)[1]["CAUSALSWEEP_NODE"].partition("#")[0] == "node-1"
    bench.open("gate")
    statuses = bench.wait_for(handles)
    assert {name: status.restarts for name, status in statuses.items()} == {lost: 1, "ba"["ab".index(lost)]: 0}
    assert {status.state for status in statuses.values()} == {JobState.COMPLETED}


def test_a_killed_dispatcher_is_told_and_leaves_no_process(bench: Bench) -> None:
    """SIGKILL to the dispatcher: its jobs' processes end, they are NODE_FAIL and not RUNNING, what was done stays done,
    and a new submission runs."""
    requests = [bench.request("done"), bench.request("a", until="gate")]
    handles = bench.cluster().submit(requests, token="t1")
    bench.wait_for_start("a")
    bench.wait_for({"done": handles["done"]})
    child = running_child(bench, "a")
    send(dispatcher(bench, "t1"), signal.SIGKILL)
    bench.wait("the command's end", lambda: not child.is_alive())
    statuses = bench.wait_for(handles)
    assert (statuses["done"].state, statuses["a"].state) == (JobState.COMPLETED, JobState.NODE_FAIL)
    assert "dispatcher" in statuses["a"].detail
    bench.open("gate")
    again = bench.cluster().submit([bench.request("a", until="gate")], token="t2")
    assert bench.wait_for(again)["a"].state is JobState.COMPLETED


def test_a_restarted_head_is_survived_by_the_record(bench: Bench, bed: RayTestbed) -> None:
    """The head dies: what ended is not forgotten, what ran is never called COMPLETED. A new head at the address: it is
    NODE_FAIL, and a new submission runs."""
    handles = bench.cluster().submit([bench.request("done"), bench.request("a", until="gate")], token="t1")
    bench.wait_for_start("a")
    bench.wait_for({"done": handles["done"]})
    bed.kill_node(0)
    states = {name: bench.cluster().poll([handle])[handle].state for name, handle in handles.items()}
    assert states["done"] is JobState.COMPLETED
    assert states["a"] in (JobState.RUNNING, JobState.UNKNOWN)
    bed.up()
    statuses = bench.wait_for(handles)
    assert (statuses["done"].state, statuses["a"].state) == (JobState.COMPLETED, JobState.NODE_FAIL)
    bench.open("gate")
    again = bench.cluster().submit([bench.request("a", until="gate")], token="t2")
    assert bench.wait_for(again)["a"].state is JobState.COMPLETED


def test_a_head_that_is_back_while_nodes_live_on(bench: Bench, bed: RayTestbed) -> None:
    """The head dies and a new one takes its address at once; node 1 and its job still live. The job is NODE_FAIL and
    stays so, its process ends, and a new submission runs it to its end."""
    request = bench.request("a", until="gate", n_gpus=8)
    handles = bench.cluster().submit([bench.request("b", until="gate", n_gpus=8), request], token="t1")
    bench.wait_for_start("a", "b")
    remote = next(name for name in "ab" if bench.starts(name)[0]["CAUSALSWEEP_NODE"] == "node-1")
    child = running_child(bench, remote)
    bed.kill_node(0)
    bed.start_head_again()
    statuses = bench.wait_for(handles)
    assert {status.state for status in statuses.values()} == {JobState.NODE_FAIL}
    bench.wait("the old command's end", lambda: not child.is_alive())
    bed.up()
    bench.open("gate")
    again = bench.cluster().submit([request], token="t2")
    assert bench.wait_for(again)["a"].state is JobState.COMPLETED
    assert {status.state for status in bench.cluster().poll(list(handles.values())).values()} == {JobState.NODE_FAIL}


def test_a_stopped_dispatcher_is_waited_for(bench: Bench) -> None:
    """SIGSTOP for 20 seconds, longer than a dispatcher may be quiet: its Ray Job runs, so its jobs are not given up,
    and each runs once."""
    handles = bench.cluster().submit([bench.request("a", until="gate"), bench.request("b", until="gate")], token="t1")
    bench.wait_for_start("a", "b")
    process = dispatcher(bench, "t1")
    send(process, signal.SIGSTOP)
    end = time.monotonic() + QUIET_S + 5.0
    while time.monotonic() < end:
        seen = bench.cluster().poll(list(handles.values()))
        assert {status.state for status in seen.values()} == {JobState.RUNNING}
        time.sleep(1.0)
    send(process, signal.SIGCONT)
    bench.open("gate")
    assert {status.state for status in bench.wait_for(handles).values()} == {JobState.COMPLETED}
    assert len(bench.starts("a")) == len(bench.starts("b")) == 1


def test_a_dispatcher_that_was_given_up_ends(bench: Bench) -> None:
    """Somebody has written down its end, as after a long silence: it cancels its jobs, each of which writes its
    checkpoint, and ends."""
    handles = bench.cluster().submit([bench.request("a", until="gate")], token="t1")
    bench.wait_for_start("a")
    child, process = running_child(bench, "a"), dispatcher(bench, "t1")
    lost = HandleStatus(state=JobState.NODE_FAIL, detail="given up")
    RayFiles(bench.folder.resolve()).put_end(handles["a"].rpartition(".")[0], lost)
    bench.wait("the command's end", lambda: not child.is_alive())
    bench.wait("the dispatcher's end", lambda: not process.is_alive())
    assert bench.checkpoint("a") is not None


def test_a_client_killed_while_it_submits(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGKILL to the client as soon as Ray has the submission: the jobs run, and the same token finds them."""
    requests = [bench.request("a"), bench.request("b")]
    with monkeypatch.context() as patch:
        patch.setattr(RayCluster, "_begun", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        pid = os.fork()
        if pid == 0:
            bench.cluster().submit(requests, token="t1")
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    bench.wait("both ended", lambda: bench.ends("a") == bench.ends("b") == 1)
    statuses = bench.wait_for(bench.cluster().submit(requests, token="t1"))
    assert {status.state for status in statuses.values()} == {JobState.COMPLETED}
    assert len(bench.starts("a")) == len(bench.starts("b")) == 1


FILL = """
import numpy, ray, sys, time
ray.init(address=sys.argv[1], log_to_driver=False)
held = [ray.put(numpy.zeros(2 * 2**20)) for _ in range(8)]
print("full", flush=True)
time.sleep(600)
"""


def test_a_full_object_store_does_no_harm(bench: Bench, bed: RayTestbed) -> None:
    """Another program fills the object store (128 MiB held, it has 80): jobs come and go, for they use none of it."""
    env = {**os.environ, "RAY_AUTH_MODE": "disabled"}
    filler = subprocess.Popen(
        [sys.executable, "-c", FILL, bed.gcs], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=env, text=True
    )
    try:
        assert filler.stdout is not None
        assert any(line == "full\n" for line in filler.stdout)
        statuses = bench.wait_for(bench.cluster().submit([bench.request("a"), bench.request("b")], token="t1"))
        assert {status.state for status in statuses.values()} == {JobState.COMPLETED}
    finally:
        filler.kill()
        filler.communicate()


def test_a_node_that_joins_is_used(bench: Bench, bed: RayTestbed) -> None:
    """Two jobs fill the two nodes and two wait. A third node joins: it gets the jobs that wait, and the others notice
    nothing."""
    requests = [bench.request(name, until="gate" if name in "ab" else "", n_gpus=8) for name in "abcd"]
    handles = bench.cluster().submit(requests, token="t1")
    bench.wait_for_start("a", "b")
    before = bench.cluster().poll([handles["c"], handles["d"]])
    assert {status.state for status in before.values()} == {JobState.PENDING}
    with third_node(bed):
        statuses = bench.wait_for({name: handles[name] for name in "cd"})
        assert {(status.state, status.node) for status in statuses.values()} == {(JobState.COMPLETED, "node-2")}
        assert {bench.ends(name) for name in "ab"} == {0}
        bench.open("gate")
        statuses = bench.wait_for(handles)
    assert {(status.state, status.restarts) for status in statuses.values()} == {(JobState.COMPLETED, 0)}


@pytest.mark.parametrize("hidden", ["sweep", "bin"])
def test_a_node_that_joins_blind_gets_no_second_job(bench: Bench, bed: RayTestbed, tmp_path: Path, hidden: str) -> None:
    """A node joins a running submission and does not see the folder, or the jobs' program: the job that it is given
    goes back into the queue and says why, runs elsewhere, and the node is left out from then on."""
    program = tmp_path / "bin" / "python"
    program.parent.mkdir()
    program.symlink_to(sys.executable)
    requests = [bench.request(name, until="gate", n_gpus=8) for name in "abc"]
    requests = [replace(request, argv=(str(program), *request.argv[1:])) for request in requests]
    handles = bench.cluster().submit(requests, token="t1")
    bench.wait_for_start("a", "b")
    with blind_node(bed, tmp_path / hidden):
        bench.wait("the job's return", lambda: bench.cluster().poll([handles["c"]])[handles["c"]].restarts == 1)
        waiting = bench.cluster().poll([handles["c"]])[handles["c"]]
        why = {"sweep": f"{requests[2].log}: No such file or directory", "bin": f"{program}: no such program"}[hidden]
        assert waiting.state is JobState.PENDING
        assert waiting.detail == f"again, after: node-2 cannot run it: {why}"
        bench.open("gate")
        statuses = bench.wait_for(handles)
    assert {status.state for status in statuses.values()} == {JobState.COMPLETED}
    assert (statuses["c"].restarts, statuses["c"].node in ("node-0", "node-1")) == (1, True)
