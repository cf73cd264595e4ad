"""The values that a variable may have, as whole numbers that tell them apart: names have no order, but equal ones.

A number is enough for what tells classes apart, goes into arrays and tensors, and is the same on every machine and in
every set of pairs.
"""

from __future__ import annotations

import math
from numbers import Real
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from workers.files.job import content_key

NO_VALUE: Final = 0  # what is not known, or has no text that is the same everywhere
_DIGITS: Final = 15  # hexadecimal ones: 60 bits


def value_id(value: Any) -> int:
    """The number of a value: of a number or truth value, a text, or a list or tuple of these. Equal ones, such as 1,
    1.0 and True, have equal numbers. NO_VALUE for anything else."""
    text = _text(value)
    return NO_VALUE if text is None else int(content_key(["value", text])[:_DIGITS], 16) + 1


def value_ids(value_B: NDArray[np.float64]) -> NDArray[np.int64]:
    """id_B of numbers; NO_VALUE for NaN."""
    distinct, at_B = np.unique(value_B, return_inverse=True)
    return np.array([value_id(value) for value in distinct.tolist()], dtype=np.int64)[at_B]


def _text(value: Any) -> str | None:
    if isinstance(value, Real):
        number = float(value) + 0.0  # there is one zero
        return None if math.isnan(number) else f"number {number!r}"
    if isinstance(value, str):
        return f"text {value}"
    if isinstance(value, list | tuple):
        parts = [_text(part) for part in value]
        return None if None in parts else f"list {parts}"
    return None
