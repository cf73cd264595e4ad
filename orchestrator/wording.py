"""How numbers are said to people."""

from __future__ import annotations


def counted(number: int, what: str) -> str:
    """The number with its noun: `1 cell`, `1,000 cells`."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"
