"""The local backend's processes: what is left when one of them is killed, and that none belongs to the terminal."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.backend import NOTHING_STARTS, Control, JobState
from cluster.files import get_json, put_json
from cluster.local import LocalCluster
from cluster.local.queue import LocalFiles, Settings
from cluster.process import ProcessId
from tests.contract.bench import Bench


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """One worker on this machine."""
    return Bench(folder=tmp_path, make=LocalCluster, options={"workers": 1}, name="local")


def dispatcher_pid(bench: Bench) -> int:
    """The process that starts what waits."""
    return int(get_json(bench.folder / "cluster" / "local" / "dispatcher.json")["pid"])


def runner_pid(bench: Bench, handle: str) -> int:
    """The process that runs a job's command."""
    record = LocalCluster(bench.folder, {}).queue.run(handle)
    assert record is not None
    return record.runner.pid


def test_a_killed_dispatcher_is_noticed_and_replaced(bench: Bench) -> None:
    """With the dispatcher killed running jobs continue, waiting ones say so, and the next submission starts it."""
    handles = bench.cluster().submit([bench.request("a", until="gate"), bench.request("b")], token="t1")
    bench.wait_for_start("a")
    os.kill(dispatcher_pid(bench), signal.SIGKILL)
    bench.wait("the loss is told", lambda: "dispatcher" in bench.cluster().poll([handles["b"]])[handles["b"]].detail)
    bench.open("gate")
    assert bench.wait_for({"a": handles["a"]})["a"].state is JobState.COMPLETED
    assert bench.starts("b") == []
    bench.cluster().wake()
    assert bench.wait_for(handles)["b"].state is JobState.COMPLETED
    assert len(bench.starts("a")) == 1


def test_under_a_limit_of_0_the_limit_is_named(bench: Bench) -> None:
    """Nothing may start, so no dispatcher is at work: that is the limit's doing, not a death."""
    bench.cluster().limit(0)
    handles = bench.cluster().submit([bench.request("a")], token="t1")
    status = bench.cluster().poll([handles["a"]])[handles["a"]]
    assert (status.state, status.detail) == (JobState.PENDING, NOTHING_STARTS)
    bench.cluster().limit(None)
    assert bench.wait_for(handles)["a"].state is JobState.COMPLETED


def test_a_job_whose_runner_was_killed_still_counts_as_running(bench: Bench) -> None:
    """The command lives without its runner: RUNNING, its slot taken; when it ends, nobody has its exit code: FAILED."""
    handles = bench.cluster().submit([bench.request("a", until="gate"), bench.request("b")], token="t1")
    bench.wait_for_start("a")
    bench.wait("its process is recorded", lambda: LocalCluster(bench.folder, {}).queue.run(handles["a"]).child)
    os.kill(runner_pid(bench, handles["a"]), signal.SIGKILL)
    assert bench.cluster().poll([handles["a"]])[handles["a"]].state is JobState.RUNNING
    assert bench.starts("b") == []
    bench.open("gate")
    statuses = bench.wait_for(handles)
    assert (statuses["a"].state, statuses["b"].state) == (JobState.FAILED, JobState.COMPLETED)
    assert "no exit code" in statuses["a"].detail


def run_file(bench: Bench, handle: str) -> Path:
    """Where the backend says who runs a job."""
    return bench.folder / "cluster" / "local" / "runs" / f"{handle}.json"


def test_a_job_whose_record_is_removed_is_not_run_beside_itself(bench: Bench) -> None:
    """The command is found by its mark: RUNNING, no second one starts, and at its end the record is whole again."""
    handles = bench.cluster().submit([bench.request("a", until="gate")], token="t1")
    bench.wait_for_start("a")
    bench.wait("its process is recorded", lambda: LocalCluster(bench.folder, {}).queue.run(handles["a"]).child)
    bench.wait("the dispatcher ends", lambda: not LocalFiles(bench.folder).has_dispatcher())
    run_file(bench, handles["a"]).unlink()
    assert bench.cluster().poll([handles["a"]])[handles["a"]].state is JobState.RUNNING
    bench.cluster().wake()
    bench.wait("it is recorded again", run_file(bench, handles["a"]).exists)
    assert bench.cluster().poll([handles["a"]])[handles["a"]].state is JobState.RUNNING
    bench.open("gate")
    assert bench.wait_for(handles)["a"].state is JobState.COMPLETED
    assert len(bench.starts("a")) == 1


def test_a_cancel_reaches_a_job_whose_record_is_removed(bench: Bench) -> None:
    """The order goes to the processes, not to what the files say of them."""
    handles = bench.cluster().submit([bench.request("a", "--stubborn", until="never")], token="t1")
    bench.wait_for_start("a")
    run_file(bench, handles["a"]).unlink()
    command = ProcessId.of(bench.starts("a")[0]["pid"])
    bench.cluster().control(list(handles.values()), Control.KILL)
    bench.wait("the command has ended", lambda: not command.is_alive())
    assert bench.wait_for(handles)["a"].state is JobState.CANCELLED


def test_a_command_that_its_killed_runner_never_recorded_is_found(bench: Bench) -> None:
    """The runner dies between the start of the command and its record: RUNNING until the command ends; a kill reaches
    it.
    """
    handles = bench.cluster().submit([bench.request("a", until="never")], token="t1")
    bench.wait_for_start("a")
    bench.wait("its process is recorded", lambda: LocalCluster(bench.folder, {}).queue.run(handles["a"]).child)
    os.kill(runner_pid(bench, handles["a"]), signal.SIGKILL)
    record = get_json(run_file(bench, handles["a"]))
    put_json(run_file(bench, handles["a"]), record | {"child": None})
    assert bench.cluster().poll([handles["a"]])[handles["a"]].state is JobState.RUNNING
    command = ProcessId.of(bench.starts("a")[0]["pid"])
    bench.cluster().control(list(handles.values()), Control.KILL)
    bench.wait("the command has ended", lambda: not command.is_alive())
    assert bench.wait_for(handles)["a"].state is JobState.FAILED


def test_a_record_that_cannot_be_written_costs_no_job(bench: Bench) -> None:
    """The runner says so in the log; the job runs on, is not started a second time, and comes to its end."""
    handles = bench.cluster().submit([bench.request("a", "--once-75", until="gate")], token="t1")
    path = run_file(bench, handles["a"])
    bench.wait("it is claimed", path.exists)
    path.unlink()
    path.mkdir()
    bench.wait_for_start("a")
    bench.open("gate")
    bench.wait("it comes to its end", lambda: bench.ends("a") == 1)
    bench.cluster().wake()
    bench.wait("the failure is in the log", lambda: "cannot be written" in LocalFiles(bench.folder).log.read_text())
    assert (len(bench.starts("a")), bench.ends("a")) == (2, 1)
    bench.wait("the dispatcher ends", lambda: not LocalFiles(bench.folder).has_dispatcher())


def test_the_jobs_of_a_copied_folder_are_its_own(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A copy has the same handles and records: what runs in the original is not taken for the copy's."""
    handles = bench.cluster().submit([bench.request("a", until="gate")], token="t1")
    bench.wait_for_start("a")
    copy = tmp_path_factory.mktemp("copy") / "sweep"
    shutil.copytree(bench.folder, copy)
    (copy / "cluster" / "local" / "runs" / f"{handles['a']}.json").unlink()
    assert handles["a"] in LocalFiles(bench.folder).commands()
    assert LocalFiles(copy).commands() == {}
    bench.open("gate")
    bench.wait_for(handles)


def test_a_killed_command_is_failed_by_its_signal(bench: Bench) -> None:
    """SIGKILL of the command (the kernel short of memory, say) is FAILED and named."""
    handles = bench.cluster().submit([bench.request("a", until="gate")], token="t1")
    bench.wait_for_start("a")
    os.kill(bench.starts("a")[0]["pid"], signal.SIGKILL)
    status = bench.wait_for(handles)["a"]
    assert (status.state, status.detail) == (JobState.FAILED, "killed by SIGKILL")


def test_no_process_belongs_to_the_terminal(bench: Bench) -> None:
    """Dispatcher, runner and command are each outside the submitter's session, so Ctrl-C reaches none."""
    handles = bench.cluster().submit([bench.request("a", until="gate"), bench.request("b")], token="t1")
    bench.wait_for_start("a")
    pids = [dispatcher_pid(bench), runner_pid(bench, handles["a"]), bench.starts("a")[0]["pid"]]
    assert os.getsid(0) not in [os.getsid(pid) for pid in pids]
    bench.open("gate")
    bench.wait_for(handles)


def test_many_submitters_at_once_start_each_job_once(bench: Bench) -> None:
    """Four processes that submit at the same moment, each with its own token: every job runs once, one at a time."""
    children = []
    for child in range(4):
        pid = os.fork()
        if pid == 0:
            try:
                names = [f"c{child}-{i}" for i in range(3)]
                bench.cluster().submit([bench.request(name) for name in names], token=f"t{child}")
            finally:
                os._exit(0)
        children.append(pid)
    for pid in children:
        os.waitpid(pid, 0)
    handles = {f"c{child}-{i}": f"t{child}.{i}" for child in range(4) for i in range(3)}
    assert {status.state for status in bench.wait_for(handles).values()} == {JobState.COMPLETED}
    assert [len(bench.starts(name)) for name in handles] == [1] * 12


def test_each_slot_has_its_own_gpu(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine with GPUs two jobs side by side see one each, and a wide job sees two."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    cluster = LocalCluster(bench.folder, {})
    requests = [bench.request(name, until="gate") for name in "ab"] + [bench.request("wide", n_gpus=2)]
    handles = cluster.submit(requests, token="t1")
    bench.wait_for_start("a", "b")
    assert {bench.starts(name)[0]["CUDA_VISIBLE_DEVICES"] for name in "ab"} == {"4", "6"}
    bench.open("gate")
    assert bench.wait_for(handles)["wide"].gpu == "4,6"
    assert bench.starts("wide")[0]["CUDA_VISIBLE_DEVICES"] == "4,6"


def test_workers_share_the_gpus_evenly() -> None:
    """With more workers than GPUs the slots go round the GPUs."""
    settings = Settings(workers=4, devices=("0", "1"))
    assert [settings.gpus((slot,)) for slot in range(4)] == ["0", "1", "0", "1"]


@pytest.mark.parametrize("killed", [dispatcher_pid, None])
def test_kill_reaches_every_process(bench: Bench, killed: Callable[[Bench], int] | None) -> None:
    """A running job that does not listen, with and without its runner, and one that waits: none runs afterwards."""
    handles = bench.cluster().submit([bench.request("a", "--stubborn", until="gate"), bench.request("b")], token="t1")
    bench.wait_for_start("a")
    bench.wait("its process is recorded", lambda: LocalFiles(bench.folder).run(handles["a"]).child)  # type: ignore[union-attr]
    command = ProcessId.of(bench.starts("a")[0]["pid"])
    os.kill(killed(bench) if killed else runner_pid(bench, handles["a"]), signal.SIGKILL)
    bench.cluster().control(list(handles.values()), Control.KILL)
    bench.wait("the command's end", lambda: not command.is_alive())
    bench.cluster().wake()
    assert bench.wait_for(handles)["b"].state is JobState.CANCELLED
    assert bench.starts("b") == []


def test_a_stopped_dispatcher_starts_nothing_twice(bench: Bench) -> None:
    """SIGSTOP of the dispatcher while other commands come: nobody takes its place, and it resumes where it was."""
    first = bench.cluster().submit([bench.request("a", until="gate"), bench.request("b")], token="t1")
    bench.wait_for_start("a")
    stopped = dispatcher_pid(bench)
    os.kill(stopped, signal.SIGSTOP)
    bench.open("gate")
    bench.wait_for({"a": first["a"]})
    later = bench.cluster().submit([bench.request("c")], token="t2")
    bench.cluster().wake()
    assert dispatcher_pid(bench) == stopped
    assert bench.starts("b") == bench.starts("c") == []
    os.kill(stopped, signal.SIGCONT)
    bench.wait_for({**first, **later})
    assert [len(bench.starts(name)) for name in "abc"] == [1, 1, 1]
