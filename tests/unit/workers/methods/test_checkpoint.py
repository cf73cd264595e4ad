"""Checkpoints: one file an attempt, the furthest readable one counts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from workers.files.checkpoints import checkpoints
from workers.methods.checkpoint import Checkpoint, CheckpointFile

KEY, OTHER = "a" * 64, "b" * 64


def write(folder: Path, name: str, step: int, *, key: str = KEY) -> Path:
    """The file of a checkpoint whose only tensor says its step."""
    before = set(folder.iterdir())
    CheckpointFile(folder, key, name).write(Checkpoint(step=step, tensors={"step": torch.tensor([step])}))
    (path,) = set(folder.iterdir()) - before
    return path


def furthest_step(folder: Path) -> int | None:
    found = CheckpointFile(folder, KEY, "reader-0009").furthest()
    if found is None:
        return None
    assert found.tensors["step"].tolist() == [found.step]
    return found.step


def test_a_checkpoint_comes_back_bit_for_bit(tmp_path: Path) -> None:
    """Step, every tensor, its type; views and transposes too."""
    tensors = {"r": torch.randn(3, 4).T, "n": torch.tensor(7), "half": torch.randn(2, dtype=torch.bfloat16)[:1]}
    CheckpointFile(tmp_path, KEY, "j-0001").write(Checkpoint(step=12, tensors=tensors))
    found = CheckpointFile(tmp_path, KEY, "j-0002").furthest()
    assert found is not None
    assert found.step == 12
    assert found.tensors.keys() == tensors.keys()
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in tensors.items())


def test_there_may_be_none(tmp_path: Path) -> None:
    """No file, no folder: nothing to resume from."""
    assert furthest_step(tmp_path) is None
    assert CheckpointFile(tmp_path / "gone", KEY, "j").furthest() is None


def test_the_furthest_of_all_attempts_counts(tmp_path: Path) -> None:
    """By steps, not by name or time; another group of cells' does not."""
    write(tmp_path, "j-0001", 9)
    write(tmp_path, "j-0002", 10)
    write(tmp_path, "k-0001", 2)
    write(tmp_path, "j-0001", 99, key=OTHER)
    assert furthest_step(tmp_path) == 10


def test_an_attempt_keeps_one_file(tmp_path: Path) -> None:
    """A later checkpoint takes the earlier one's place."""
    path = write(tmp_path, "j-0001", 1)
    CheckpointFile(tmp_path, KEY, "j-0001").write(Checkpoint(step=5, tensors={"step": torch.tensor([5])}))
    assert list(tmp_path.iterdir()) == [path]
    assert furthest_step(tmp_path) == 5


@pytest.mark.parametrize("n_bytes", [0, 5, 40, -1])
def test_a_torn_checkpoint_is_passed_over(tmp_path: Path, n_bytes: int) -> None:
    """Empty, cut in the header, cut in the data: the next one is resumed."""
    write(tmp_path, "j-0001", 3)
    torn = write(tmp_path, "j-0002", 8)
    torn.write_bytes(torn.read_bytes()[:n_bytes])
    assert furthest_step(tmp_path) == 3


def test_a_file_that_is_none_of_ours_is_passed_over(tmp_path: Path) -> None:
    """Valid safetensors without a step."""
    write(tmp_path, "j-0001", 3)
    save_file({"x": torch.zeros(1)}, tmp_path / f"{KEY[:24]}.z-0001.safetensors")
    assert furthest_step(tmp_path) == 3


def test_removing_drops_every_attempts_file_of_these_cells_alone(tmp_path: Path) -> None:
    """Once their rows are in a shard no attempt needs one; other cells keep theirs."""
    write(tmp_path, "j-0001", 3)
    write(tmp_path, "j-0002", 4)
    other = write(tmp_path, "j-0001", 5, key=OTHER)
    CheckpointFile(tmp_path, KEY, "j-0002").remove()
    assert list(tmp_path.iterdir()) == [other]


def rewritten(path: Path, **notes: str | None) -> None:
    """The checkpoint at `path` with some of its metadata replaced, or left out where None."""
    with safe_open(path, framework="pt") as file:
        before = file.metadata()
    after = {name: value for name, value in (before | notes).items() if value is not None}
    save_file(load_file(path), path, metadata=after)


def test_a_checkpoint_of_the_first_version_is_gone_on_from(tmp_path: Path) -> None:
    """It had neither a version nor a checksum."""
    rewritten(write(tmp_path, "j-0001", 3), version=None, crc32=None)
    assert furthest_step(tmp_path) == 3


@pytest.mark.parametrize("version", ["3", "0", "next"])
def test_a_checkpoint_of_an_unknown_version_is_set_aside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, version: str
) -> None:
    """The log names the file and both versions; the cells begin again, or at the next checkpoint."""
    path = write(tmp_path, "j-0001", 3)
    rewritten(path, version=version)
    assert furthest_step(tmp_path) is None
    assert f"{path}: set aside: version {version}; this causalsweep reads 1, 2" in caplog.text
    write(tmp_path, "j-0002", 2)
    assert furthest_step(tmp_path) == 2


def test_a_flipped_bit_is_not_trained_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """In the tensors, or in the number of steps: the checkpoint is set aside."""
    path = write(tmp_path, "j-0001", 3)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    rewritten(write(tmp_path, "j-0002", 4), step="5")
    assert furthest_step(tmp_path) is None
    assert caplog.text.count("its checksum is wrong") == 2


def test_strays_among_the_checkpoints_are_passed_over(tmp_path: Path) -> None:
    """A conflicted copy and a folder are no checkpoints, for the worker and for the planner."""
    path = write(tmp_path, "r1-0001-0001", 3)
    path.with_name(path.name.replace(".safetensors", " (conflicted copy).safetensors")).write_bytes(b"")
    path.with_name(path.name.replace("r1-0001-0001", "r1-0001-0002")).mkdir()
    assert [(name.path, name.cohort, name.job) for name in checkpoints(tmp_path)] == [(path, KEY[:24], "r1-0001")]
    assert furthest_step(tmp_path) == 3
