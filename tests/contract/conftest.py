"""The backends that the contract suite runs against: one entry each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.backend import Control
from cluster.local import LocalCluster
from cluster.ray import RayCluster
from cluster.slurm import SlurmCluster
from tests.contract.bench import Bench
from tests.testbeds import ray_testbed, slurm_testbed, start_requeued_jobs


@pytest.fixture(
    params=[
        "local",
        pytest.param("slurm", marks=pytest.mark.slurm),
        pytest.param("ray", marks=pytest.mark.ray),
    ]
)
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    """A bench for each backend; what still runs on it at the end of a test is killed."""
    yield from BENCHES[request.param](request, tmp_path)


def local_bench(_request: pytest.FixtureRequest, folder: Path) -> Iterator[Bench]:
    """Two workers on this machine."""
    bench = Bench(folder=folder, make=LocalCluster, options={"workers": 2}, name="local")
    yield bench
    queue = LocalCluster(folder, {}).queue
    handles = [f"{token}.{index}" for token in queue.tokens() for index in range(len(queue.batch(token)))]
    LocalCluster(folder, {}).control(handles, Control.KILL)


def ray_bench(_request: pytest.FixtureRequest, folder: Path) -> Iterator[Bench]:
    """Two raylets with eight logical GPUs each."""
    options = {"address": ray_testbed().address}
    bench = Bench(folder=folder, make=RayCluster, options=options, name="ray", patience_s=150)
    yield bench
    RayCluster(folder, options).control(RayCluster(folder, options).handles(), Control.KILL)


def slurm_bench(_request: pytest.FixtureRequest, folder: Path) -> Iterator[Bench]:
    """Two nodes with eight pretend GPUs each."""
    slurm_testbed()
    bench = Bench(folder=folder, make=SlurmCluster, options={}, name="slurm", patience_s=120, hurry=start_requeued_jobs)
    yield bench
    SlurmCluster(folder, {}).control(SlurmCluster(folder, {}).handles(), Control.KILL)


BENCHES = {"local": local_bench, "slurm": slurm_bench, "ray": ray_bench}
