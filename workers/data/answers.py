"""Answers in tokens: one, or several that are teacher-forced behind the prompt.

An answer's tokens are a row of a matrix answer_BN, filled up with `UNKNOWN` behind the last; an answer that is not
known is `UNKNOWN` throughout.

Shapes, by suffix: B pairs, N tokens of the longest answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

UNKNOWN: Final = -1  # in place of a token id
MAX_ANSWER_TOKENS: Final = 16

Ids = NDArray[np.int64]


def answer_matrix(answers: Sequence[Sequence[int]]) -> Ids:
    """answer_BN of these token ids; at least one column."""
    longest = max((len(answer) for answer in answers), default=1)
    answer_BN = np.full((len(answers), max(1, longest)), UNKNOWN, dtype=np.int64)
    for row, answer in enumerate(answers):
        answer_BN[row, : len(answer)] = answer
    return answer_BN


def n_tokens(answer_BN: Ids) -> Ids:
    """How many tokens each answer has."""
    return (answer_BN != UNKNOWN).sum(axis=1)


def trimmed(answer_BN: Ids) -> Ids:
    """The matrix without columns that no answer needs; at least one is left."""
    return answer_BN[:, : max(1, int(n_tokens(answer_BN).max(initial=1)))]


def stacked(parts: Sequence[Ids]) -> Ids:
    """The matrices one below the other."""
    width = max(part.shape[1] for part in parts)
    return np.concatenate([_widened(part, width) for part in parts])


def is_prefix(short: Sequence[int], long: Sequence[int]) -> bool:
    """Whether the longer answer begins with the shorter one: no token tells where the shorter ends."""
    return len(short) < len(long) and list(long[: len(short)]) == list(short)


def where_they_part(first_BN: Ids, second_BN: Ids) -> Ids:
    """At which token two answers differ first, part_B: 0 where they are the same, `UNKNOWN` where one of the two is not
    known or is the beginning of the other."""
    width = max(first_BN.shape[1], second_BN.shape[1])
    first_BN, second_BN = (_widened(answer_BN, width) for answer_BN in (first_BN, second_BN))
    differs_BN = first_BN != second_BN
    part_B = differs_BN.argmax(axis=1)
    rows = np.arange(len(part_B))
    ends_B = (first_BN[rows, part_B] == UNKNOWN) | (second_BN[rows, part_B] == UNKNOWN)
    return np.where(ends_B, UNKNOWN, part_B)


def contrast(label_BN: Ids, first_BN: Ids, second_BN: Ids) -> Ids | None:
    """contrast_B3: at which of the label's tokens the first answer is to be compared with the second, and the two
    tokens there. None where some pair cannot be compared: an answer is not known, one is the beginning of the other, or
    the label does not share what the two have in common, so that no logits say what follows it."""
    part_B = where_they_part(first_BN, second_BN)
    if (part_B == UNKNOWN).any():
        return None
    rows, deepest = np.arange(len(part_B)), int(part_B.max(initial=0))
    common_BN = np.arange(deepest) < part_B[:, None]
    label_BN = _widened(label_BN, deepest + 1)
    shared_B = ((label_BN[:, :deepest] == _widened(first_BN, deepest)[:, :deepest]) | ~common_BN).all(axis=1)
    if not (shared_B & (label_BN[rows, part_B] != UNKNOWN)).all():
        return None
    return np.stack([part_B, first_BN[rows, part_B], second_BN[rows, part_B]], axis=1)


def _widened(answer_BN: Ids, width: int) -> Ids:
    missing = max(0, width - answer_BN.shape[1])
    return np.pad(answer_BN, ((0, 0), (0, missing)), constant_values=UNKNOWN)
