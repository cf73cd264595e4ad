"""Which code made a row: a digest of the sources that results depend on, whatever way they were installed."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Final

_PACKAGES: Final = ("workers", "values")
_N_DIGITS: Final = 12


@functools.cache
def code_digest() -> str:
    """12 hexadecimal digits of the SHA-256 of every Python file of the packages that a worker runs."""
    root = Path(__file__).parents[2]
    paths = (path for package in _PACKAGES for path in (root / package).rglob("*.py"))
    return digest_of(root, paths)


def digest_of(root: Path, paths: Iterable[Path]) -> str:
    """12 hexadecimal digits for the names below `root` and contents of some files, in whatever order."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(root)} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()[:_N_DIGITS]
