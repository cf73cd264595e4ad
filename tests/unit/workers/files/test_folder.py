"""Files are replaced whole or not at all."""

from __future__ import annotations

import os
import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from workers.files.folder import SweepFolder, replace_file, visible_files


@contextmanager
def full_disk(n_bytes: int = 1 << 16) -> Iterator[None]:
    """While open, no file of this process grows beyond this number of bytes, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_written_and_replaced(tmp_path: Path) -> None:
    """Text or bytes, new or over an old one, and nothing else is left in the folder."""
    path = tmp_path / "a.json"
    replace_file(path, "ä")
    assert path.read_bytes() == "ä".encode()
    replace_file(path, b"\x00\x01")
    assert path.read_bytes() == b"\x00\x01"
    assert names(tmp_path) == ["a.json"]


def test_a_full_disk_leaves_the_old_file_and_no_rubbish(tmp_path: Path) -> None:
    """The error reaches the caller; the file is as it was."""
    path = tmp_path / "a.bin"
    replace_file(path, b"old")
    with full_disk(), pytest.raises(OSError, match="File too large"):
        replace_file(path, bytes(1 << 20))
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a.bin"]


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    """It is not created on the way."""
    with pytest.raises(FileNotFoundError):
        replace_file(tmp_path / "gone" / "a.json", "x")
    assert names(tmp_path) == []


def test_the_content_is_on_the_disk_before_the_name_points_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fsync of the whole content first, then the rename: a crash in between leaves the old file."""
    calls: list[str] = []
    plain_fsync, plain_replace = os.fsync, os.replace

    def fsync(descriptor: int) -> None:
        calls.append(f"fsync {os.fstat(descriptor).st_size}")
        plain_fsync(descriptor)

    def replace(source: Path, target: Path) -> None:
        calls.append("replace")
        plain_replace(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    replace_file(tmp_path / "a", b"12345")
    assert calls == ["fsync 5", "replace"]


def test_a_reader_sees_a_whole_file_always(tmp_path: Path) -> None:
    """Read over and over while two writers replace it: one or the other content, never a part."""
    path = tmp_path / "a.bin"
    contents = [bytes([number]) * 200_000 for number in (1, 2)]
    replace_file(path, contents[0])

    def write(content: bytes) -> None:
        for _ in range(20):
            replace_file(path, content)

    writers = [threading.Thread(target=write, args=(content,)) for content in contents]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        assert path.read_bytes() in contents
    assert names(tmp_path) == ["a.bin"]


def test_unfinished_and_hidden_files_are_passed_over(tmp_path: Path) -> None:
    """Names that begin with `_` or `.`, or do not end in the suffix; the rest by name."""
    for name in ("b.json", "a.json", "_c.json", ".d.json", "e.json.tmp", ".a.json.12.ab.tmp", "f.parquet"):
        (tmp_path / name).touch()
    assert [path.name for path in visible_files(tmp_path, ".json")] == ["a.json", "b.json"]
    assert list(visible_files(tmp_path / "gone", ".json")) == []


def test_making_a_sweeps_folder_twice_does_no_harm(tmp_path: Path) -> None:
    """Every place that a worker writes to is there."""
    folder = SweepFolder(tmp_path / "sweeps" / "s")
    folder.make()
    replace_file(folder.job_file("j"), "{}")
    folder.make()
    assert folder.job_file("j").read_text() == "{}"
    for place in (folder.shards, folder.progress, folder.checkpoints, folder.alignments, folder.logs):
        assert place.is_dir()
