"""Real raylets for the tests of this folder, and benches on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from cluster.backend import ClusterUnavailable, Control
from cluster.ray import RayCluster
from cluster.testbed.ray import RayTestbed
from tests.contract.bench import Bench
from tests.testbeds import ray_testbed


@pytest.fixture(scope="session")
def bed() -> RayTestbed:
    """Two nodes with eight logical GPUs each, both alive."""
    return ray_testbed()


@pytest.fixture(scope="module")
def bench_at(bed: RayTestbed) -> Iterator[Callable[[Path], Bench]]:
    """A bench in a folder, on two nodes; what still runs on it when the module's tests are done is killed."""
    bed.up()
    folders: list[Path] = []

    def make(folder: Path) -> Bench:
        folder.mkdir(parents=True, exist_ok=True)
        folders.append(folder)
        options = {"address": bed.address}
        return Bench(folder=folder, make=RayCluster, options=options, name="ray", patience_s=200)

    yield make
    for folder in folders:
        cluster = RayCluster(folder, {"address": bed.address})
        cluster.control(cluster.handles(), Control.KILL)


@pytest.fixture
def bench(bed: RayTestbed, bench_at: Callable[[Path], Bench], tmp_path: Path) -> Iterator[Bench]:
    """A bench of one test, on two nodes that are alive whatever the test before did; its jobs end with it."""
    bed.up()
    bench = bench_at(tmp_path / "sweep")
    yield bench
    with suppress(ClusterUnavailable):  # the next test brings up what this one broke
        bench.cluster().control(RayCluster(bench.folder, bench.options).handles(), Control.KILL)
