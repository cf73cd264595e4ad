"""Ray inside an allocation of the real SLURM: it comes up by itself, lets nobody else in, and leaves nothing behind."""

from __future__ import annotations

import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.backend import ClusterUsageError, Control, JobState
from cluster.ray.allocation import Allocation, read_allocation, token_path
from cluster.ray.record import RayFiles
from cluster.ray.slurm import RaySlurmCluster
from cluster.testbed.machine import family
from tests.contract.bench import Bench
from tests.testbeds import slurm_testbed

pytestmark = [pytest.mark.ray, pytest.mark.slurm, pytest.mark.slow]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """Allocations of two whole nodes."""
    slurm_testbed().up()
    options = {"nodes": 2, "gpus": 8, "cpus": 8, "time": "1:00:00"}
    bench = Bench(folder=tmp_path / "sweep", make=RaySlurmCluster, options=options, name="ray", patience_s=240)
    bench.folder.mkdir()
    yield bench
    for job in shell("squeue", "-h", "-o", "%i").split():
        shell("scancel", job)


def shell(*command: str) -> str:
    """What a SLURM command prints."""
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def allocation_of(bench: Bench, token: str) -> Allocation:
    """Where the Ray cluster of a submission is."""
    record = RayFiles(bench.folder)
    found = read_allocation(record, record.name(token))
    assert found is not None
    return found


def left_behind(bench: Bench, allocation: Allocation) -> list[str]:
    """What is left of an allocation: SLURM jobs, processes, its temporary folder, its token."""
    record = RayFiles(bench.folder)
    found = [f"SLURM job {job}" for job in shell("squeue", "-h", "-o", "%i").split()]
    found += [one.command for one in family() if allocation.temp in one.command or str(record.root) in one.command]
    found += [str(path) for path in (Path(allocation.temp), token_path(record, record.name("t1"))) if path.exists()]
    return found


def test_an_allocation_runs_the_jobs_and_leaves_nothing_behind(bench: Bench) -> None:
    """Four jobs run at once on the GPUs of both nodes; who has no token is turned away; the same submit again sends no
    second allocation; with the last job SLURM's job ends, and processes, folder and token are gone."""
    requests = [bench.request(f"j{index}", until="gate", n_gpus=4) for index in range(4)]
    handles = bench.cluster().submit(requests, token="t1")
    assert bench.cluster().submit(requests, token="t1") == handles
    assert len(shell("squeue", "-h", "-o", "%i").split()) == 1
    bench.wait_for_start(*handles)
    starts = [bench.starts(name)[0] for name in handles]
    places = {(start["CAUSALSWEEP_NODE"], gpu) for start in starts for gpu in start["CUDA_VISIBLE_DEVICES"].split(",")}
    assert places == {(node, str(gpu)) for node in ("node1", "node2") for gpu in range(8)}
    assert all(float(start["CAUSALSWEEP_DEADLINE"]) > start["time"] + 1800 for start in starts)
    allocation = allocation_of(bench, "t1")
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
            f"{allocation.dashboard}/api/jobs/", timeout=10
        )
    assert allocation.host in bench.cluster().watch[0]
    bench.open("gate")
    assert {status.state for status in bench.wait_for(handles).values()} == {JobState.COMPLETED}
    bench.wait("nothing is left", lambda: left_behind(bench, allocation) == [])


def test_a_cancelled_allocation_takes_its_jobs_along(bench: Bench) -> None:
    """scancel while a job runs: it is CANCELLED, what was done stays done, and nothing is left behind."""
    handles = bench.cluster(nodes=1).submit([bench.request("done"), bench.request("a", until="gate")], token="t1")
    bench.wait_for_start("a")
    bench.wait_for({"done": handles["done"]})
    shell("scancel", shell("squeue", "-h", "-o", "%i"))
    statuses = bench.wait_for(handles)
    assert (statuses["done"].state, statuses["a"].state) == (JobState.COMPLETED, JobState.CANCELLED)
    bench.wait("nothing is left", lambda: left_behind(bench, allocation_of(bench, "t1")) == [])


def test_an_allocation_that_is_not_wanted_any_more_is_withdrawn(bench: Bench) -> None:
    """CANCEL of every job while SLURM's job still waits: it leaves the queue, and the jobs are CANCELLED."""
    handles = bench.cluster(begin="now+1hour").submit([bench.request("a")], token="t1")
    assert bench.wait_for(handles, JobState.PENDING)["a"].detail
    bench.cluster().control(list(handles.values()), Control.CANCEL)
    assert bench.wait_for(handles)["a"].state is JobState.CANCELLED
    assert shell("squeue", "-h") == ""


def test_what_cannot_run_is_refused(bench: Bench) -> None:
    """More GPUs than a node gives, no time limit, an option without meaning, no such partition: named, nothing sent."""
    for options, words in (
        ({"gpus": 2}, "needs 3 GPUs.*ray_slurm.gpus is 2"),
        ({"nodes": 0}, "ray_slurm.nodes: 0"),
        ({"warn_s": 60}, "ray_slurm.warn_s"),
        ({"partition": "nowhere"}, "nowhere"),
        ({"nodes": 5}, "sbatch refused"),
    ):
        with pytest.raises(ClusterUsageError, match=words):
            bench.cluster(**options).submit([bench.request("a", n_gpus=3)], token="t1")
    with pytest.raises(ClusterUsageError, match=r"ray_slurm\.time: missing"):
        RaySlurmCluster(bench.folder, {"nodes": 1})
    assert shell("squeue", "-h") == ""
