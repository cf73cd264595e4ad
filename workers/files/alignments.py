"""Where what cells learned lies in a sweep's folder, and the checksum of such a file. No torch here."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any


def alignment_path(folder: Path, cell_key: str) -> Path:
    """Where a cell's file lies, in one of 256 folders."""
    return folder / cell_key[:2] / f"{cell_key}.safetensors"


def crc32_of(text: str, tensors: Iterable[tuple[str, str, Sequence[int], Any]]) -> str:
    """The CRC-32 of a text and of tensors, each by name, type (as torch calls it), shape and bytes, in hexadecimal
    digits. The order in which tensors are given does not matter."""
    crc = zlib.crc32(text.encode())
    for name, kind, shape, content in sorted(tensors, key=lambda tensor: tensor[0]):
        crc = zlib.crc32(f"{name} {kind} {list(shape)}".encode(), crc)
        if len(content):
            crc = zlib.crc32(content, crc)
    return f"{crc:08x}"
