"""A bench on the real two-node SLURM, and commands that its users would type."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.backend import Control
from cluster.slurm import SlurmCluster
from cluster.testbed.slurm import USABLE, SlurmTestbed
from tests.contract.bench import Bench
from tests.testbeds import slurm_testbed, start_requeued_jobs


def shell(*command: str) -> str:
    """What a SLURM command prints."""
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def testbed() -> Iterator[SlurmTestbed]:
    """The cluster; what a test breaks of it is mended after it."""
    testbed = slurm_testbed()
    yield testbed
    mend(testbed)


@pytest.fixture
def bench(testbed: SlurmTestbed, tmp_path: Path) -> Iterator[Bench]:
    """A sweep's folder on it; what still runs at the end of a test is killed."""
    bench = Bench(
        folder=tmp_path,
        make=SlurmCluster,
        options={},
        name="slurm",
        patience_s=60.0,
        hurry=start_requeued_jobs,
        describe=lambda: shell("scontrol", "show", "job"),
    )
    yield bench
    mend(testbed)
    cluster = SlurmCluster(tmp_path, {})
    cluster.control(cluster.handles(), Control.KILL)


def mend(testbed: SlurmTestbed) -> None:
    """Bring up what a test has broken."""
    if not set(testbed.status().values()) <= USABLE | {"up"}:
        testbed.up()
