"""Prompts in tokens: where each ends, and where the points lie at which cells intervene.

Where all prompts have equally many tokens a point is a token's index. Where they differ, or a name moves about, points
are the task's named positions, each at a token of its own in every prompt.

Shapes, by suffix: B prompts, T tokens of the longest, P points of the layout.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompts:
    """B prompts; shorter ones are filled up behind their last token, where no causal decoder looks.

    `place_BP[b, p]` is the token of prompt b at which point p lies; without it point p is token p of every prompt.
    """

    ids_BT: NDArray[np.int64]
    length_B: NDArray[np.int64]
    place_BP: NDArray[np.int64] | None = None

    @classmethod
    def of_rows(cls, rows: Sequence[Sequence[int]], place_BP: NDArray[np.int64] | None = None) -> Prompts:
        """The prompts of these token ids, whatever their lengths."""
        length_B = np.array([len(row) for row in rows], dtype=np.int64)
        ids_BT = np.zeros((len(rows), length_B.max()), dtype=np.int64)
        for row_T, row in zip(ids_BT, rows, strict=True):
            row_T[: len(row)] = row
        return cls(ids_BT=ids_BT, length_B=length_B, place_BP=place_BP)

    def __len__(self) -> int:
        return len(self.ids_BT)

    def take(self, rows: NDArray[np.int64] | slice) -> Prompts:
        """The prompts in `rows`."""
        place_BP = None if self.place_BP is None else self.place_BP[rows]
        return Prompts(ids_BT=self.ids_BT[rows], length_B=self.length_B[rows], place_BP=place_BP)

    def first_token(self, points: Iterable[int]) -> int:
        """The first token at which one of `points` lies in any of the prompts."""
        return min(points) if self.place_BP is None else int(self.place_BP[:, list(points)].min())


def n_common_prefix(*several: Prompts) -> int:
    """How many first tokens all these prompts share; at least one token of each is left out of it."""
    first_T, shortest = several[0].ids_BT[0], min(int(prompts.length_B.min()) for prompts in several)
    n_common = shortest - 1
    for prompts in several:
        differs_T = (prompts.ids_BT[:, :n_common] != first_T[:n_common]).any(axis=0)
        n_common = int(differs_T.argmax()) if differs_T.any() else n_common
    return n_common
