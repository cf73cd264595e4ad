"""Where a folder lies: what only this machine sees, and what the nodes may see too."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from cluster.slurm.site import file_system, is_local


@pytest.fixture
def mounts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A root disk, a share of all nodes, one mounted over another, and one in memory."""
    table = [("/", "ext4"), ("/scratch", "ext4"), ("/scratch", "lustre"), ("/scratch/fast", "tmpfs"), ("/scr", "xfs")]
    seen = [SimpleNamespace(mountpoint=point, fstype=kind) for point, kind in table]
    monkeypatch.setattr(psutil, "disk_partitions", lambda *, all: seen)


@pytest.mark.parametrize(
    ("folder", "kind"),
    [("/home/me", "ext4"), ("/scratch/me/sweeps", "lustre"), ("/scratch/fast/me", "tmpfs"), ("/scr/me", "xfs")],
)
def test_the_innermost_and_last_mount_is_the_file_system(mounts: None, folder: str, kind: str) -> None:
    """The longest mount point above the folder, and of two on the same point the later one."""
    assert file_system(Path(folder)) == kind


def test_this_machines_own_mounts_are_read() -> None:
    """/proc is of type proc, and below /proc is nothing else."""
    assert file_system(Path("/proc/sys")) == "proc"


def test_what_lies_in_memory_or_below_tmp_is_local(mounts: None) -> None:
    """No other node sees it."""
    assert is_local(Path("/tmp/sweeps"))
    assert is_local(Path("/scratch/fast/sweeps"))
    assert not is_local(Path("/scratch/me/sweeps"))
