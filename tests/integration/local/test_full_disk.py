"""A disk that is full or read-only when a command comes: the file and the remedy, exit code 2, and nothing is lost."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.steps import NAME, Bench, held, waiting

COMMANDS: dict[str, tuple[Callable[[Bench], None], tuple[str, ...]]] = {
    "cancel": (waiting, ("cancel", NAME)),
    "cancel at once": (waiting, ("cancel", NAME, "--at-once")),
    "hold": (waiting, ("hold", NAME)),
    "release": (held, ("release", NAME)),
    "limit": (waiting, ("limit", NAME, "1")),
    "resume": (waiting, ("resume", NAME)),
}


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file system of 16 MB of its own. Needs root, as CI has it."""
    monkeypatch.setenv("COLUMNS", "300")
    path = tmp_path / "disk"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "none", str(path)], check=True)
    yield path
    subprocess.run(["umount", "--lazy", str(path)], check=True)


@contextlib.contextmanager
def full(disk: Path) -> Iterator[None]:
    """Without a free page."""
    filler = disk / "filler"
    with open(filler, "wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    yield
    filler.unlink()


@contextlib.contextmanager
def read_only(disk: Path) -> Iterator[None]:
    """As when a file server has a fault."""
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    yield
    subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)


@pytest.mark.parametrize("trouble", [full, read_only])
@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_that_cannot_write_says_so(
    disk: Path, name: str, trouble: Callable[[Path], contextlib.AbstractContextManager[None]]
) -> None:
    """Once there is room again the same command does what it is for, and the sweep comes to its end."""
    make, command = COMMANDS[name]
    bench = Bench(root=disk, has_processes=False)
    bench.spec()
    make(bench)
    with trouble(disk):
        ended = bench.do(*command, starts=False)
    assert (ended.code, "Traceback" in ended.text) == (2, False), ended.text
    reason = "No space left on device" if trouble is full else "Read-only file system"
    assert f": cannot write: {reason}" in ended.text
    assert str(bench.sweep) in ended.text
    assert bench.do(*command, starts=False).code == 0
    for last in (("limit", NAME, "none"), ("release", NAME), ("run", NAME, "--poll-s", "0.05"), ("check", NAME)):
        ended = bench.do(*last)
        assert ended.code == 0, ended.text
