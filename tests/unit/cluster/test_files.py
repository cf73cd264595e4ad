"""A backend's files: whole or not at all, and an error that names the file."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from cluster.backend import AbstractCluster, ClusterUnavailable, JobRequest
from cluster.files import create_json, put_json
from cluster.local import LocalCluster
from cluster.process import only_sender
from cluster.ray import RayCluster
from cluster.ray import slurm as ray_slurm
from cluster.ray.slurm import RaySlurmCluster
from cluster.slurm import SlurmCluster

BACKENDS: dict[str, Callable[[Path], AbstractCluster]] = {
    "local": lambda folder: LocalCluster(folder, {}),
    "slurm": lambda folder: SlurmCluster(folder, {}),
    "ray": lambda folder: RayCluster(folder, {"address": "http://127.0.0.1:1"}),
    "ray-slurm": lambda folder: RaySlurmCluster(folder, {"time": "1:00:00"}),
}


def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no file be written from now on."""

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)


@pytest.mark.parametrize("write", [put_json, create_json])
def test_a_file_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path, object], object]
) -> None:
    """The error has the file's own name, and nothing is left beside it."""
    full_disk(monkeypatch)
    with pytest.raises(OSError, match="No space left on device") as caught:
        write(tmp_path / "limit.json", 1)
    assert caught.value.filename == str(tmp_path / "limit.json")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_limit_that_cannot_be_written_names_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    """On every backend, and the limit is as it was."""
    cluster = BACKENDS[backend](tmp_path)
    full_disk(monkeypatch)
    with pytest.raises(OSError, match="No space left on device") as caught:
        cluster.limit(1)
    assert Path(caught.value.filename).name == "limit.json"
    assert list(tmp_path.rglob("limit.json")) == []


def test_one_process_sends_the_jobs_of_a_token(tmp_path: Path) -> None:
    """A second one is told, and may once the first has ended."""
    lock = tmp_path / "lock"
    with only_sender(lock, "t1"), pytest.raises(ClusterUnavailable, match="t1: another"), only_sender(lock, "t1"):
        pass
    with only_sender(tmp_path / "lock", "t1"):
        pass


def test_two_that_submit_one_allocation_send_it_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray inside SLURM: a second command with the same token, while the first waits for sbatch, sends nothing."""
    monkeypatch.setattr(ray_slurm, "installed_ray", lambda: "")
    monkeypatch.setattr(ray_slurm, "require", lambda _program: None)
    monkeypatch.setattr(ray_slurm.Site, "ask", lambda _options: SimpleNamespace(check=lambda *_: None))
    request = JobRequest(name="a", label="a", argv=("true",), log=tmp_path / "logs" / "a.log", time_s=1.0, n_gpus=0)
    sent = []

    def send(cluster: RaySlurmCluster, name: str, _site: object, _slurm: object) -> str:
        sent.append(name)
        with pytest.raises(ClusterUnavailable, match="another process"):
            BACKENDS["ray-slurm"](tmp_path).submit([request], token="t1")
        return "7"

    monkeypatch.setattr(RaySlurmCluster, "_send", send)
    first = BACKENDS["ray-slurm"](tmp_path).submit([request], token="t1")
    assert BACKENDS["ray-slurm"](tmp_path).submit([request], token="t1") == first
    assert len(sent) == 1
