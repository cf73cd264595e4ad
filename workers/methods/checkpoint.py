"""Mid-training checkpoints of a cohort: safetensors, one file an attempt, the furthest one is gone on from.

A checkpoint belongs to a group of cells (`Cohort.key`) whatever job they are in. Two attempts that race never share a
file, and as a training is deterministic either one's file is a valid state of both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from workers.files.folder import replace_file, visible_files


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """The state of a cohort's training after `step` optimizer steps."""

    step: int
    tensors: Mapping[str, Tensor]


class CheckpointFile:
    """Where one attempt keeps its cohort's checkpoint. `name` tells attempts apart: `JOB-ATTEMPT`."""

    def __init__(self, folder: Path, cohort_key: str, name: str) -> None:
        self._folder = folder
        self._stem = cohort_key[:24]
        self._own = folder / f"{self._stem}.{name}.safetensors"

    def write(self, checkpoint: Checkpoint) -> None:
        """Replace this attempt's checkpoint. Raises: OSError."""
        tensors = {name: tensor.contiguous().cpu() for name, tensor in checkpoint.tensors.items()}
        replace_file(self._own, save(tensors, metadata={"step": str(checkpoint.step)}))

    def furthest(self) -> Checkpoint | None:
        """The checkpoint of these cells with the most steps, of any attempt; unreadable ones are passed over."""
        found = [(step, path) for path in self._files() if (step := _step_of(path)) is not None]
        for step, path in sorted(found, reverse=True):
            try:
                return Checkpoint(step=step, tensors=load_file(path))
            except (OSError, SafetensorError):
                continue
        return None

    def remove(self) -> None:
        """Drop every attempt's checkpoint of these cells: their rows are in a shard."""
        for path in self._files():
            path.unlink(missing_ok=True)

    def _files(self) -> list[Path]:
        return [path for path in visible_files(self._folder, ".safetensors") if path.name.startswith(self._stem)]


def _step_of(path: Path) -> int | None:
    try:
        with safe_open(path, framework="pt") as file:
            return int(file.metadata()["step"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None
