"""Checkpoints of tiny models on disk, and the ways in which one goes wrong."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.unit.workers.tiny import tiny_model

DAMAGES = ("removed", "renamed", "reshaped")


def saved(family: str, folder: Path) -> Path:
    """The family's tiny model, saved."""
    tiny_model(family).model.save_pretrained(folder)
    return folder


def weights_of(folder: Path) -> dict[str, Tensor]:
    """Every tensor of the folder's one weight file."""
    return load_file(folder / "model.safetensors")


def write_weights(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Make these the folder's weights."""
    copies = {name: tensor.clone().contiguous() for name, tensor in tensors.items()}
    save_file(copies, folder / "model.safetensors", metadata={"format": "pt"})


def damaged(tensors: Mapping[str, Tensor], name: str, kind: str) -> dict[str, Tensor]:
    """The tensors with `name` removed, renamed or one row longer."""
    found = dict(tensors)
    tensor = found.pop(name)
    if kind == "renamed":
        found[f"{name}_old"] = tensor
    if kind == "reshaped":
        found[name] = torch.zeros(tensor.shape[0] + 1, *tensor.shape[1:])
    return found


def one_of_each_kind(tensors: Mapping[str, Tensor]) -> Iterator[str]:
    """One name of those that differ in their numbers alone: each matrix of the last block and expert, and the ends."""
    yield from {re.sub(r"\.\d+\.", ".#.", name): name for name in tensors}.values()
