"""SLURM's commands as scripts on PATH, and the backend on them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.slurm import SlurmCluster, commands, sending
from cluster.slurm import options as options_module
from cluster.slurm.queue import shared_queue
from tests.unit.cluster.slurm.fake_slurm import FakeSlurm, requests


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeSlurm]:
    """A well-behaved one, to be spoilt by the test."""
    fake = FakeSlurm(tmp_path)
    monkeypatch.setenv("PATH", f"{fake.bin}:/usr/bin:/bin")
    monkeypatch.setattr(sending, "PAUSES_S", (0.0, 0.0))
    monkeypatch.setattr(commands, "RESTART_PAUSES_S", (0.0,))
    for cached in (options_module.known_options, shared_queue):
        cached.cache_clear()
    yield fake
    options_module.known_options.cache_clear()


@pytest.fixture
def cluster(slurm: FakeSlurm, tmp_path: Path) -> SlurmCluster:
    """The backend on it."""
    return SlurmCluster(tmp_path / "sweep", {})


@pytest.fixture
def handles(cluster: SlurmCluster) -> dict[str, str]:
    """Three jobs that were submitted while all was well."""
    return cluster.submit(requests(3, cluster.folder), token="t1")
