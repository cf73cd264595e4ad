"""What every backend keeps (cluster/backend.py), each run against the real thing."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import pytest

from cluster.backend import AvoidsNodes, ClusterUsageError, Control, FollowsUp, JobState, KnowsItsSlots
from cluster.process import ProcessId
from cluster.registry import spec_key
from tests.contract.bench import Bench


def test_each_job_runs_once_and_is_completed(bench: Bench) -> None:
    """Every request gets a handle of its own, is run once and is COMPLETED."""
    requests = [bench.request(f"j{i}") for i in range(5)]
    handles = bench.cluster().submit(requests, token="t1")
    assert handles.keys() == {request.name for request in requests}
    assert len(set(handles.values())) == 5
    statuses = bench.wait_for(handles)
    assert {status.state for status in statuses.values()} == {JobState.COMPLETED}
    assert [len(bench.starts(request.name)) for request in requests] == [1] * 5


def test_a_token_submits_once(bench: Bench) -> None:
    """Submitting again with the same token, from another object, gives the same handles and starts nothing."""
    requests = [bench.request("a"), bench.request("b")]
    first = bench.cluster().submit(requests, token="t1")
    bench.wait_for(first)
    assert bench.cluster().submit(requests, token="t1") == first
    last = bench.cluster().submit([bench.request("c")], token="t2")
    bench.wait_for(last)
    assert len(bench.starts("a")) == len(bench.starts("b")) == len(bench.starts("c")) == 1


def test_jobs_outlive_the_submitting_process(bench: Bench) -> None:
    """A process that submits and is killed at once leaves jobs that run to their end."""
    requests = [bench.request("a"), bench.request("b", until="gate")]
    child = os.fork()
    if child == 0:
        try:
            bench.cluster().submit(requests, token="t1")
        finally:
            os.kill(os.getpid(), 9)
    os.waitpid(child, 0)
    bench.open("gate")
    handles = bench.cluster().submit(requests, token="t1")  # what the dead one would have been told
    statuses = bench.wait_for(handles)
    assert {status.state for status in statuses.values()} == {JobState.COMPLETED}
    assert len(bench.starts("a")) == len(bench.starts("b")) == 1


def test_the_output_is_appended_to_the_log(bench: Bench) -> None:
    """The log keeps what it held and gains the job's output."""
    request = bench.request("a")
    request.log.parent.mkdir(parents=True)
    request.log.write_text("before\n")
    bench.wait_for(bench.cluster().submit([request], token="t1"))
    text = request.log.read_text()
    assert text.startswith("before\n")
    assert "a starts at step 0" in text


def test_a_job_knows_where_it_runs(bench: Bench) -> None:
    """The job's environment names the backend, the handle and the node, and holds what the request adds."""
    handles = bench.cluster().submit([bench.request("a")], token="t1")
    status = bench.wait_for(handles)["a"]
    (seen,) = bench.starts("a")
    assert seen["CAUSALSWEEP_BACKEND"] == bench.name
    assert seen["CAUSALSWEEP_SCHEDULER_JOB_ID"] == handles["a"]
    assert seen["CAUSALSWEEP_NODE"] == status.node != ""
    assert seen["TINY_COLOUR"] == "red"


def test_a_running_job_is_shown_as_running(bench: Bench) -> None:
    """A job that runs is RUNNING on a node, for more and more seconds."""
    handles = bench.cluster().submit([bench.request("a", until="gate")], token="t1")
    bench.wait_for_start("a")
    status = bench.wait_for(handles, JobState.RUNNING)["a"]
    assert status.node == bench.starts("a")[0]["CAUSALSWEEP_NODE"]
    bench.open("gate")
    assert bench.wait_for(handles)["a"].state is JobState.COMPLETED


def test_a_failing_command_is_failed(bench: Bench) -> None:
    """Another exit code than 0 and 75 is FAILED, the code named, and the job is not run again."""
    handles = bench.cluster().submit([bench.request("a", "--code", "3")], token="t1")
    status = bench.wait_for(handles)["a"]
    assert status.state is JobState.FAILED
    assert "3" in status.detail
    assert status.exit_code == 3
    assert len(bench.starts("a")) == 1


def test_a_command_that_does_not_exist_is_failed(bench: Bench) -> None:
    """A job whose program is missing is FAILED, and the others run."""
    request = bench.request("a")
    missing = type(request)(name="b", label="b", argv=("/nowhere/program",), log=request.log, time_s=1.0)
    statuses = bench.wait_for(bench.cluster().submit([missing, request], token="t1"))
    assert statuses["b"].state is JobState.FAILED
    assert statuses["a"].state is JobState.COMPLETED


def test_an_interrupted_command_goes_on(bench: Bench) -> None:
    """A command that ends with 75 is run again, resumes from its checkpoint and is COMPLETED."""
    handles = bench.cluster().submit([bench.request("a", "--once-75")], token="t1")
    status = bench.wait_for(handles)["a"]
    assert status.state is JobState.COMPLETED
    assert [start["step"] for start in bench.starts("a")] == [0, 1]


def test_a_command_that_is_always_interrupted_is_given_up(bench: Bench) -> None:
    """A command that ends with 75 each time is run again as often as its request allows, not without end."""
    request = replace(bench.request("a", "--code", "75"), max_restarts=2)
    status = bench.wait_for(bench.cluster().submit([request], token="t1"))["a"]
    assert status.state.is_finished()
    assert (status.state is JobState.COMPLETED, status.exit_code) == (False, 75)
    assert len(bench.starts("a")) == 3


def test_cancel_lets_a_running_job_write_its_checkpoint(bench: Bench) -> None:
    """CANCEL of a running job: it is told, writes its checkpoint, is CANCELLED and does not run again."""
    cluster = bench.cluster()
    handles = cluster.submit([bench.request("a", until="gate"), bench.request("b", until="gate")], token="t1")
    bench.wait_for_start("a", "b")
    cluster.control([handles["a"]], Control.CANCEL)
    assert bench.wait_for({"a": handles["a"]})["a"].state is JobState.CANCELLED
    assert bench.checkpoint("a") is not None
    bench.open("gate")
    assert bench.wait_for(handles)["b"].state is JobState.COMPLETED
    assert (len(bench.starts("a")), bench.ends("a")) == (1, 0)


def test_kill_ends_a_job_that_does_not_listen(bench: Bench) -> None:
    """KILL of a running job that ignores SIGTERM: CANCELLED, and its process is gone."""
    cluster = bench.cluster()
    handles = cluster.submit([bench.request("a", "--stubborn", until="gate")], token="t1")
    bench.wait_for_start("a")
    process = ProcessId.of(bench.starts("a")[0]["pid"])
    cluster.control(list(handles.values()), Control.KILL)
    assert bench.wait_for(handles)["a"].state is JobState.CANCELLED
    bench.wait("the process is gone", lambda: not process.is_alive())


def test_a_held_job_waits_until_it_is_released(bench: Bench) -> None:
    """HOLD of a waiting job keeps it from starting; RELEASE lets it go."""
    cluster = bench.cluster()
    cluster.limit(1)
    first = cluster.submit([bench.request("first", until="gate")], token="t1")
    bench.wait_for_start("first")
    later = cluster.submit([bench.request("held"), bench.request("free")], token="t2")
    cluster.control([later["held"]], Control.HOLD)
    assert bench.wait_for({"held": later["held"]}, JobState.HELD)
    bench.open("gate")
    bench.wait_for({**first, "free": later["free"]})
    assert bench.starts("held") == []
    cluster.control([later["held"]], Control.RELEASE)
    assert bench.wait_for(later)["held"].state is JobState.COMPLETED


def test_wake_starts_nothing_twice(bench: Bench) -> None:
    """Waking a backend that has nothing to do does nothing: before the first job, beside a running one, after it."""
    bench.cluster().wake()
    handles = bench.cluster().submit([bench.request("a", until="gate")], token="t1")
    bench.wait_for_start("a")
    bench.cluster().wake()
    bench.open("gate")
    bench.wait_for(handles)
    bench.cluster().wake()
    last = bench.cluster().submit([bench.request("b")], token="t2")
    bench.wait_for(last)
    assert (len(bench.starts("a")), len(bench.starts("b"))) == (1, 1)


def test_wake_leaves_what_is_held(bench: Bench) -> None:
    """A job that the user holds is not released by waking the backend."""
    cluster = bench.cluster()
    cluster.limit(1)
    first = cluster.submit([bench.request("first", until="gate")], token="t1")
    bench.wait_for_start("first")
    later = cluster.submit([bench.request("held"), bench.request("free")], token="t2")
    cluster.control([later["held"]], Control.HOLD)
    assert bench.wait_for({"held": later["held"]}, JobState.HELD)
    bench.cluster().wake()
    bench.open("gate")
    bench.wait_for({**first, "free": later["free"]})
    assert bench.starts("held") == []


def test_a_backend_that_knows_its_slots_has_some(bench: Bench) -> None:
    """What is planned for without `cluster:` is at least one job, named after a key of the backend's own block."""
    cluster = bench.cluster()
    assert isinstance(cluster, KnowsItsSlots) == hasattr(cluster, "slots")
    if isinstance(cluster, KnowsItsSlots):
        assert cluster.slots().n_jobs >= 1
        assert cluster.slots().key.startswith(f"{spec_key(bench.name)}.")


def test_a_backend_avoids_nodes_or_refuses_the_option(bench: Bench) -> None:
    """Where nodes can be avoided jobs run beside one that is; elsewhere `avoid` is an unknown option, not ignored."""
    cluster = bench.cluster()
    if isinstance(cluster, AvoidsNodes):
        options = cluster.avoiding({"avoid": ["n9"]}, ["n8", "n9"])
        assert options == {"avoid": ["n8", "n9"]}
        handles = bench.cluster(**options).submit([bench.request("a")], token="t1")
        assert bench.wait_for(handles)["a"].state is JobState.COMPLETED
    else:
        with pytest.raises(ClusterUsageError, match="avoid"):
            bench.cluster(avoid=["n8"])


def test_a_followup_waits_for_the_others(bench: Bench) -> None:
    """Where a job can follow others it starts when they have ended; elsewhere there is no such method."""
    cluster = bench.cluster()
    assert isinstance(cluster, FollowsUp) == hasattr(cluster, "submit_followup")
    if isinstance(cluster, FollowsUp):
        handles = cluster.submit([bench.request("a", until="gate")], token="t1")
        bench.wait_for_start("a")
        last = bench.request("last", n_gpus=0)
        handle = cluster.submit_followup(last, after=list(handles.values()), token="t2")
        assert bench.cluster().poll([handle])[handle].state in (JobState.PENDING, JobState.HELD)
        bench.open("gate")
        assert bench.wait_for({"last": handle})["last"].state is JobState.COMPLETED
        assert bench.starts("last")[0]["time"] > bench.starts("a")[0]["time"]


def test_cancel_drops_a_waiting_job(bench: Bench) -> None:
    """CANCEL of a job that has not started: it never does."""
    cluster = bench.cluster()
    cluster.limit(1)
    handles = cluster.submit([bench.request("a", until="gate"), bench.request("b")], token="t1")
    bench.wait_for_start("a")
    cluster.control([handles["b"]], Control.CANCEL)
    bench.open("gate")
    statuses = bench.wait_for(handles)
    assert statuses["a"].state is JobState.COMPLETED
    assert statuses["b"].state is JobState.CANCELLED
    assert bench.starts("b") == []


def test_the_limit_can_be_changed_while_jobs_run(bench: Bench) -> None:
    """With a limit of 1 the second job waits; raising it lets it start beside the first."""
    cluster = bench.cluster()
    cluster.limit(1)
    handles = cluster.submit([bench.request("a", until="gate"), bench.request("b", until="gate")], token="t1")
    bench.wait("one start", lambda: bool(bench.starts("a") or bench.starts("b")))
    states = sorted(status.state for status in cluster.poll(list(handles.values())).values())
    assert states == [JobState.PENDING, JobState.RUNNING]
    cluster.limit(None)
    bench.wait_for_start("a", "b")
    bench.open("gate")
    bench.wait_for(handles)


def test_control_leaves_finished_jobs_alone(bench: Bench) -> None:
    """A job that is COMPLETED stays so, whatever it is told."""
    cluster = bench.cluster()
    handles = cluster.submit([bench.request("a")], token="t1")
    bench.wait_for(handles)
    for action in Control:
        cluster.control(list(handles.values()), action)
    assert bench.cluster().poll(list(handles.values()))[handles["a"]].state is JobState.COMPLETED


def test_an_unknown_handle_is_unknown(bench: Bench) -> None:
    """A handle that was never given out is UNKNOWN, not FAILED; no handles, no answer."""
    assert bench.cluster().poll(["999999999_0"])["999999999_0"].state is JobState.UNKNOWN
    assert bench.cluster().poll([]) == {}


def test_another_process_sees_the_same(bench: Bench) -> None:
    """A poll from a process that did not submit says the same."""
    handles = bench.cluster().submit([bench.request("a")], token="t1")
    bench.wait_for(handles)
    backend = type(bench.cluster())
    program = (
        f"import sys; from pathlib import Path; from {backend.__module__} import {backend.__name__} as Backend\n"
        f"status = Backend(Path({str(bench.folder)!r}), {dict(bench.options)!r}).poll([{handles['a']!r}])\n"
        f"print(status[{handles['a']!r}].state)"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "COMPLETED"


def test_an_unknown_option_is_refused_by_name(bench: Bench) -> None:
    """An option that the backend does not know raises at once, named."""
    with pytest.raises(ClusterUsageError, match="warkers"):
        bench.cluster(warkers=3)


def test_more_gpus_than_there_are_is_refused(bench: Bench) -> None:
    """A job that can never run is refused when it is submitted, and nothing is queued."""
    with pytest.raises(ClusterUsageError, match="999"):
        bench.cluster().submit([bench.request("a", n_gpus=999)], token="t1")
    assert bench.starts("a") == []


def test_doctor_has_a_remedy_for_what_is_wrong(bench: Bench) -> None:
    """Each finding says what was found, and a bad one what to do."""
    findings = bench.cluster().doctor()
    assert findings
    assert all(finding.found for finding in findings)
    assert all(finding.ok or finding.remedy for finding in findings)
