"""Checkpoints: one file an attempt, the furthest readable one counts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

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
    """No file, no folder: nothing to go on from."""
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
    """Empty, cut in the header, cut in the data: the next one is gone on from."""
    write(tmp_path, "j-0001", 3)
    torn = write(tmp_path, "j-0002", 8)
    torn.write_bytes(torn.read_bytes()[:n_bytes])
    assert furthest_step(tmp_path) == 3


def test_a_file_that_is_none_of_ours_is_passed_over(tmp_path: Path) -> None:
    """Valid safetensors without a step."""
    from safetensors.torch import save_file

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
