"""Mid-training checkpoints of a cohort: safetensors, one file an attempt; a training resumes from the furthest one.

A checkpoint belongs to a group of cells (`Cohort.key`) whatever job they are in. Two attempts that race never share a
file, and as a training is deterministic either one's file is a valid state of both.

Version 2 has a checksum of its tensors: a flipped bit would be trained on without a word. Version 1 had neither that
nor a version. A checkpoint of any other version is set aside, and its cells begin again.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from workers.files.alignments import crc32_of
from workers.files.checkpoints import checkpoint_path, checkpoints, cohort_name
from workers.files.folder import replace_file

log = logging.getLogger(__name__)

CHECKPOINT_VERSION: Final = 2
_READ: Final = frozenset({"1", str(CHECKPOINT_VERSION)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """The state of a cohort's training after `step` optimizer steps."""

    step: int
    tensors: Mapping[str, Tensor]


class CheckpointFile:
    """Where one attempt keeps its cohort's checkpoint. `name` tells attempts apart: `JOB-ATTEMPT`."""

    def __init__(self, folder: Path, cohort_key: str, name: str) -> None:
        self._folder = folder
        self._cohort = cohort_name(cohort_key)
        self._own = checkpoint_path(folder, cohort_key, name)

    def write(self, checkpoint: Checkpoint) -> None:
        """Replace this attempt's checkpoint. Raises: OSError."""
        tensors = {name: tensor.contiguous().cpu() for name, tensor in checkpoint.tensors.items()}
        digest = checksum(str(checkpoint.step), tensors)
        notes = {"version": str(CHECKPOINT_VERSION), "step": str(checkpoint.step), "crc32": digest}
        replace_file(self._own, save(tensors, metadata=notes))

    def furthest(self) -> Checkpoint | None:
        """The checkpoint of these cells with the most steps, of any attempt; the log names those that are set aside."""
        found = [(int(notes["step"]), path, notes) for path in self._files() if (notes := _notes_of(path))]
        for step, path, notes in sorted(found, key=lambda one: one[:2], reverse=True):
            try:
                tensors = load_file(path)
            except (OSError, SafetensorError) as error:
                log.warning("%s: set aside: %s", path, error)
                continue
            if notes.get("crc32") in (None, checksum(str(step), tensors)):
                return Checkpoint(step=step, tensors=tensors)
            log.warning("%s: set aside: its checksum is wrong", path)
        return None

    def remove(self) -> None:
        """Drop every attempt's checkpoint of these cells: their rows are in a shard."""
        for path in self._files():
            path.unlink(missing_ok=True)

    def _files(self) -> list[Path]:
        return [name.path for name in checkpoints(self._folder) if name.cohort == self._cohort]


def checksum(text: str, tensors: Mapping[str, Tensor]) -> str:
    """The CRC-32 of a text and of the names, types, shapes and bytes of tensors on the CPU, in hexadecimal digits."""

    def content(tensor: Tensor) -> Any:
        return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else b""

    return crc32_of(
        text,
        ((name, str(tensor.dtype), tensor.shape, content(tensor)) for name, tensor in tensors.items()),
    )


def _notes_of(path: Path) -> Mapping[str, str] | None:
    """The metadata of a checkpoint of a known version, None where the file is set aside."""
    try:
        with safe_open(path, framework="pt") as file:
            notes: dict[str, str] = dict(file.metadata() or {})
        int(notes["step"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        log.warning("%s: set aside: it is torn, or no checkpoint (%s)", path, error)
        return None
    version = notes.get("version", "1")
    if version in _READ:
        return notes
    log.warning("%s: set aside: version %s; this causalsweep reads %s", path, version, ", ".join(sorted(_READ)))
    return None
