"""The Ray backend without Ray: what it refuses, and what it makes of the record and of a cluster's answers."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from platform import node, python_version
from typing import Any

import pytest

from cluster.backend import NOTHING_STARTS, ClusterUnavailable, ClusterUsageError, Control, JobRequest, JobState
from cluster.ray import RayCluster
from cluster.ray.api import RayApi
from cluster.ray.record import DispatcherState, JobRecord, Order, Phase, RayFiles, RayJobOptions
from tests.fake_ray import FakeRay, fake_ray


@pytest.fixture
def ray() -> Iterator[FakeRay]:
    """A cluster that answers as this environment's Ray would."""
    with fake_ray() as server:
        yield server


def request(folder: Path, name: str = "a", *, n_gpus: int = 1) -> JobRequest:
    """Some job."""
    return JobRequest(
        name=name, label=f"{name} (7 cells)", argv=(sys.executable,), log=folder / "a.log", time_s=1.0, n_gpus=n_gpus
    )


def free_port() -> int:
    """A port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def files_below(folder: Path) -> list[Path]:
    """Every file."""
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, ["ray.address", "http://"]),
        ({"address": "auto"}, ["ray.address", "'auto'", "never"]),
        ({"address": "127.0.0.1:6379"}, ["ray.address", "6379", "http://"]),
        ({"address": "http://h:1", "adress": "x"}, ["ray.adress", "unknown", "address"]),
        ({"address": "http://h:1", "cpus_per_job": "many"}, ["ray.cpus_per_job", "'many'"]),
        ({"address": "http://h:1", "max_restarts": -1}, ["ray.max_restarts", "-1"]),
        ({"address": "http://h:1", "resources": ["a"]}, ["ray.resources", "['a']"]),
    ],
)
def test_a_wrong_option_is_named(options: dict[str, Any], words: list[str], tmp_path: Path) -> None:
    """The message has the key, what was found and what is expected."""
    with pytest.raises(ClusterUsageError) as raised:
        RayCluster(tmp_path, options)
    assert [word for word in words if word not in str(raised.value)] == []


@pytest.mark.parametrize(
    ("address", "tunnel"), [("http://127.0.0.1:8266", "8266:127.0.0.1:8266"), ("https://head", "443:head:443")]
)
def test_where_to_look_on(address: str, tunnel: str, tmp_path: Path) -> None:
    """The dashboard's address, and the line that takes it to the user's own machine through this one."""
    watch = RayCluster(tmp_path, {"address": address}).watch
    assert watch == (f"dashboard: {address}", f"from your own machine: ssh -N -L {tunnel} {node()}")


def test_no_ray_at_the_address_is_told_at_once(tmp_path: Path) -> None:
    """Where nothing listens, submit says so within two seconds, how to mend it, and leaves nothing behind."""
    address = f"http://127.0.0.1:{free_port()}"
    began = time.monotonic()
    with pytest.raises(ClusterUsageError, match="ray start --head") as raised:
        RayCluster(tmp_path, {"address": address}).submit([request(tmp_path)], token="t")
    assert address in str(raised.value)
    assert time.monotonic() - began < 2
    assert files_below(tmp_path) == []


def test_another_server_at_the_address_is_told(ray: FakeRay, tmp_path: Path) -> None:
    """A web server that is not Ray's is recognised as such."""
    ray.serve("/api/v0/cluster_metadata", "<html>It works!</html>")
    with pytest.raises(ClusterUsageError, match="not as Ray's dashboard"):
        RayCluster(tmp_path, {"address": ray.address}).submit([request(tmp_path)], token="t")


@pytest.mark.parametrize("theirs", [{"rayVersion": "2.1.0"}, {"pythonVersion": "3.8.1"}])
def test_other_versions_are_refused_with_both_named(ray: FakeRay, theirs: dict[str, str], tmp_path: Path) -> None:
    """Ray itself would fail only on the head node, minutes later."""
    same = {"rayVersion": version("ray"), "pythonVersion": python_version()}
    ray.serve("/api/v0/cluster_metadata", {"data": same | theirs})
    with pytest.raises(ClusterUsageError) as raised:
        RayCluster(tmp_path, {"address": ray.address}).submit([request(tmp_path)], token="t")
    assert next(iter(theirs.values())) in str(raised.value)
    assert version("ray") in str(raised.value)
    assert "the environment that `ray start` ran in" in str(raised.value)
    assert files_below(tmp_path) == []


def test_more_gpus_than_a_node_has_are_refused(ray: FakeRay, tmp_path: Path) -> None:
    """A task that no node can ever hold would wait for ever in Ray."""
    with pytest.raises(ClusterUsageError, match=r"b needs 9 GPU.*n0 8 GPU.*lower jobs\.gpus"):
        RayCluster(tmp_path, {"address": ray.address}).submit([request(tmp_path, "b", n_gpus=9)], token="t")
    assert files_below(tmp_path) == []


def test_a_token_is_sent_where_ray_keeps_it(ray: FakeRay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With RAY_AUTH_MODE=token the token of RAY_AUTH_TOKEN_PATH goes along; without, none does."""
    path = tmp_path / "token"
    path.write_text("secret\n")
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(path))
    cluster = RayCluster(tmp_path, {"address": ray.address})
    with pytest.raises(ClusterUsageError):
        cluster.submit([request(tmp_path, n_gpus=9)], token="t")
    assert set(ray.tokens) == {None}
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    ray.tokens.clear()
    with pytest.raises(ClusterUsageError):
        cluster.submit([request(tmp_path, n_gpus=9)], token="t")
    assert set(ray.tokens) == {"Bearer secret"}


def test_a_cluster_that_wants_its_token_says_how(ray: FakeRay, tmp_path: Path) -> None:
    """401 becomes the three variables to set."""
    ray.serve("/api/v0/cluster_metadata", "Unauthorized: Missing authentication token", status=401)
    with pytest.raises(ClusterUsageError, match="RAY_AUTH_MODE=token"):
        RayCluster(tmp_path, {"address": ray.address}).submit([request(tmp_path)], token="t")


# ---------------------------------------------------------------- while the dispatcher starts


def test_a_busy_head_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A question that stays without an answer once is not the end of a submission."""
    handles = recorded(tmp_path, JobRecord(), heartbeat_age_s=0, phase=Phase.PROBING)

    def no_answer(_api: RayApi, _name: str) -> None:
        recorded(tmp_path, JobRecord(), heartbeat_age_s=0, phase=Phase.RUNNING)
        raise ClusterUnavailable("busy")

    monkeypatch.setattr(RayApi, "job", no_answer)
    assert RayCluster(tmp_path, {"address": "http://h:1"}).submit([request(tmp_path, "j0")], token="t") == handles


def test_a_head_that_dies_meanwhile_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing answers any more, that is what is said, and the same call continues later."""
    recorded(tmp_path, JobRecord(), heartbeat_age_s=0, phase=Phase.PROBING)
    monkeypatch.setattr("cluster.ray.backend.SILENT_S", 0.3)
    with pytest.raises(ClusterUnavailable, match="no Ray at"):
        RayCluster(tmp_path, {"address": f"http://127.0.0.1:{free_port()}"}).submit(
            [request(tmp_path, "j0")], token="t"
        )


# ---------------------------------------------------------------- what poll makes of the record


def recorded(folder: Path, *jobs: JobRecord, heartbeat_age_s: float, phase: Phase = Phase.RUNNING) -> dict[str, str]:
    """The handles of a submission whose dispatcher wrote this down so long ago."""
    record = RayFiles(folder)
    requests = [request(folder, f"j{index}") for index in range(len(jobs))]
    submission = record.add("t", requests, RayJobOptions())
    updated = time.time() - heartbeat_age_s
    record.put_state(submission.name, DispatcherState(phase=phase, updated=updated, message="why", jobs=jobs))
    return submission.handles()


RUNNING = JobRecord(state=JobState.RUNNING, node="n0", gpu="3", started=1.0)
DONE = JobRecord(state=JobState.COMPLETED, node="n0", gpu="2", started=1.0, ended=3.5)


def test_a_finished_record_needs_no_ray(tmp_path: Path) -> None:
    """What has ended is read from the folder when the cluster is long gone."""
    handles = recorded(tmp_path, DONE, heartbeat_age_s=1e6, phase=Phase.ENDED)
    status = RayCluster(tmp_path, {"address": f"http://127.0.0.1:{free_port()}"}).poll([handles["j0"]])[handles["j0"]]
    assert (status.state, status.node, status.gpu, status.elapsed_s) == (JobState.COMPLETED, "n0", "2", 2.5)


@pytest.mark.parametrize(
    ("heartbeat_age_s", "state"), [(1, JobState.RUNNING), (60, JobState.UNKNOWN), (600, JobState.NODE_FAIL)]
)
def test_without_ray_the_heartbeat_decides(heartbeat_age_s: float, state: JobState, tmp_path: Path) -> None:
    """Fresh: it runs. Quiet: not known. Quiet for longer than Ray's processes outlive their head: lost."""
    handles = recorded(tmp_path, RUNNING, DONE, heartbeat_age_s=heartbeat_age_s)
    cluster = RayCluster(tmp_path, {"address": f"http://127.0.0.1:{free_port()}"})
    seen = cluster.poll(list(handles.values()))
    assert (seen[handles["j0"]].state, seen[handles["j1"]].state) == (state, JobState.COMPLETED)


@pytest.mark.parametrize(
    ("answer", "state", "word"),
    [
        ({"status": "RUNNING"}, JobState.RUNNING, ""),
        ({"status": "FAILED", "message": "exit code 137"}, JobState.NODE_FAIL, "exit code 137"),
        ({"status": "STOPPED"}, JobState.CANCELLED, "stopped"),
    ],
)
def test_what_ray_says_of_the_dispatcher(
    ray: FakeRay, answer: dict[str, str], state: JobState, word: str, tmp_path: Path
) -> None:
    """A dispatcher that ended while its jobs were active has taken them along, whatever its last heartbeat."""
    handles = recorded(tmp_path, RUNNING, heartbeat_age_s=1)
    ray.serve(f"/api/jobs/{handles['j0'].rpartition('.')[0]}", answer)
    status = RayCluster(tmp_path, {"address": ray.address}).poll([handles["j0"]])[handles["j0"]]
    assert status.state is state
    assert word in status.detail


def test_how_a_dispatcher_died_is_not_forgotten_with_the_cluster(ray: FakeRay, tmp_path: Path) -> None:
    """What Ray said once is in the folder: told again without a question, also when nothing answers any more."""
    handles = recorded(tmp_path, RUNNING, heartbeat_age_s=60)
    ray.serve(f"/api/jobs/{handles['j0'].rpartition('.')[0]}", {"status": "FAILED", "message": "exit code 137"})
    first = RayCluster(tmp_path, {"address": ray.address}).poll([handles["j0"]])
    gone = RayCluster(tmp_path, {"address": f"http://127.0.0.1:{free_port()}"})
    assert gone.poll([handles["j0"]]) == first
    assert RayCluster(tmp_path, {"address": ray.address}).poll([handles["j0"]]) == first
    assert len(ray.asked) == 1


def test_what_was_given_up_stays_given_up(ray: FakeRay, tmp_path: Path) -> None:
    """A new head does not know it; then the head does not answer, or knows it and calls it alive: it stays lost."""
    handles = recorded(tmp_path, RUNNING, heartbeat_age_s=60)
    (name, handle) = handles["j0"].rpartition(".")[0], handles["j0"]
    first = RayCluster(tmp_path, {"address": ray.address}).poll([handle])
    assert first[handle].state is JobState.NODE_FAIL
    gone = RayCluster(tmp_path, {"address": f"http://127.0.0.1:{free_port()}"})
    assert gone.poll([handle]) == first
    ray.serve(f"/api/jobs/{name}", {"status": "RUNNING"})
    assert RayCluster(tmp_path, {"address": ray.address}).poll([handle]) == first


def test_what_nobody_answers_for_is_given_up_for_good(ray: FakeRay, tmp_path: Path) -> None:
    """Without an answer for longer than Ray's processes outlive their head, and an answer afterwards."""
    handles = recorded(tmp_path, RUNNING, heartbeat_age_s=600)
    first = RayCluster(tmp_path, {"address": f"http://127.0.0.1:{free_port()}"}).poll([handles["j0"]])
    ray.serve(f"/api/jobs/{handles['j0'].rpartition('.')[0]}", {"status": "RUNNING"})
    assert RayCluster(tmp_path, {"address": ray.address}).poll([handles["j0"]]) == first


def test_a_moved_sweep_ends_the_dispatcher_of_before(ray: FakeRay, tmp_path: Path) -> None:
    """It reads no orders here: Ray is told to stop it. One of this folder is only given the order."""
    own, other = tmp_path / "own", tmp_path / "other"
    handles = recorded(own, RUNNING, heartbeat_age_s=1)
    RayCluster(own, {"address": ray.address}).control(list(handles.values()), Control.CANCEL)
    assert ray.asked == []
    own.rename(other)
    RayCluster(other, {"address": ray.address}).control(list(handles.values()), Control.CANCEL)
    assert ray.asked == [f"/api/jobs/{handles['j0'].rpartition('.')[0]}/stop"]


@pytest.mark.parametrize(("heartbeat_age_s", "state"), [(1, JobState.RUNNING), (60, JobState.NODE_FAIL)])
def test_a_head_that_was_restarted_knows_nothing(
    ray: FakeRay, heartbeat_age_s: float, state: JobState, tmp_path: Path
) -> None:
    """Another cluster at the address (404) proves nothing while the dispatcher is heard, and its end when it is not."""
    handles = recorded(tmp_path, RUNNING, heartbeat_age_s=heartbeat_age_s)
    assert RayCluster(tmp_path, {"address": ray.address}).poll([handles["j0"]])[handles["j0"]].state is state


def test_one_question_whatever_the_number_of_jobs(ray: FakeRay, tmp_path: Path) -> None:
    """A thousand running jobs of one submission cost one call."""
    handles = recorded(tmp_path, *[RUNNING] * 1000, heartbeat_age_s=1)
    ray.serve(f"/api/jobs/{handles['j0'].rpartition('.')[0]}", {"status": "RUNNING"})
    RayCluster(tmp_path, {"address": ray.address}).poll(list(handles.values()))
    assert len(ray.asked) == 1


def test_orders_are_read_once_and_in_order(tmp_path: Path) -> None:
    """Each order is obeyed once, oldest first; what is finished or was never submitted gets none."""
    handles = recorded(tmp_path, RUNNING, RUNNING, DONE, heartbeat_age_s=1)
    cluster = RayCluster(tmp_path, {"address": "http://127.0.0.1:1"})
    cluster.control([handles["j0"], "other.0"], Control.HOLD)
    cluster.control([handles["j2"]], Control.CANCEL)
    cluster.control([handles["j1"], handles["j0"]], Control.RELEASE)
    seen: set[str] = set()
    name = handles["j0"].rpartition(".")[0]
    assert RayFiles(tmp_path).orders(name, seen) == [
        Order(action=Control.HOLD, indices=(0,)),
        Order(action=Control.RELEASE, indices=(1, 0)),
    ]
    assert RayFiles(tmp_path).orders(name, seen) == []


def test_two_sweeps_never_share_a_name_on_the_cluster(tmp_path: Path) -> None:
    """Folders of the same name and the same token give two Ray Jobs, each id fit for a URL and a file name."""
    first, second = RayFiles(tmp_path / "a" / "my sweep!").name("t1"), RayFiles(tmp_path / "b" / "my sweep!").name("t1")
    assert first != second
    assert first.startswith("my-sweep--t1-")


def test_a_hanging_address_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A port that accepts and never answers costs the time limit, not for ever."""
    monkeypatch.setattr("cluster.ray.api.TIMEOUT_S", 0.2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        cluster = RayCluster(tmp_path, {"address": f"http://127.0.0.1:{silent.getsockname()[1]}"})
        with pytest.raises(ClusterUsageError, match=r"did not answer within"):
            cluster.submit([request(tmp_path)], token="t")
        with pytest.raises(ClusterUnavailable):
            cluster._api.job("x")


def test_under_a_limit_of_0_a_waiting_job_names_it(tmp_path: Path) -> None:
    """What waits because nothing may start says so; what runs, runs on."""
    handles = recorded(tmp_path, JobRecord(), RUNNING, heartbeat_age_s=0)
    cluster = RayCluster(tmp_path, {"address": f"http://127.0.0.1:{free_port()}"})
    cluster.limit(0)
    statuses = cluster.poll(list(handles.values()))
    details = [statuses[handle].detail for handle in handles.values()]
    assert details == [NOTHING_STARTS, ""]
