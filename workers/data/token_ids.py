"""Prompts in tokens: where each ends, and where the points lie at which cells intervene.

Where all prompts have equally many tokens a point is a token's index. Where they differ, or a name moves about, points
are the task's named positions, each at a token of its own in every prompt.

Shapes, by suffix: B prompts, T tokens of the longest, P points of the layout.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRows:
    """B rows of token ids, whatever their lengths: row b is `ids[start_B[b] : start_B[b + 1]]` (`start_B` has one more
    entry than there are rows)."""

    ids: NDArray[np.int32]
    start_B: NDArray[np.int64]

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]]) -> TokenRows:
        """The rows of these token ids."""
        start_B = np.zeros(len(rows) + 1, dtype=np.int64)
        np.cumsum([len(row) for row in rows], out=start_B[1:])
        return cls(ids=np.fromiter(chain.from_iterable(rows), dtype=np.int32, count=start_B[-1]), start_B=start_B)

    @classmethod
    def joined(cls, parts: Sequence[TokenRows]) -> TokenRows:
        """The rows of all parts, in their order."""
        length_B = np.concatenate([part.length_B for part in parts])
        start_B = np.concatenate([np.zeros(1, dtype=np.int64), length_B.cumsum()])
        return cls(ids=np.concatenate([part.ids for part in parts]), start_B=start_B)

    def __len__(self) -> int:
        return len(self.start_B) - 1

    @property
    def length_B(self) -> NDArray[np.int64]:  # noqa: N802
        """The number of tokens of each row."""
        return np.diff(self.start_B)

    def row(self, index: int) -> NDArray[np.int32]:
        """The token ids of one row."""
        return self.ids[self.start_B[index] : self.start_B[index + 1]]

    def column(self, token: int) -> NDArray[np.int32]:
        """The id of that token in each row; all must have it."""
        return self.ids[self.start_B[:-1] + token]

    def take(self, rows: NDArray[np.int64]) -> TokenRows:
        """The rows numbered `rows`."""
        length_B = self.length_B[rows]
        start_B = np.concatenate([np.zeros(1, dtype=np.int64), length_B.cumsum()])
        inside = np.arange(start_B[-1]) - np.repeat(start_B[:-1], length_B)
        return TokenRows(ids=self.ids[np.repeat(self.start_B[:-1][rows], length_B) + inside], start_B=start_B)

    def padded(self, filling: int = 0) -> NDArray[np.int64]:
        """ids_BT, shorter rows filled up with `filling` behind their last token."""
        length_B = self.length_B
        ids_BT = np.full((len(self), int(length_B.max(initial=0))), filling, dtype=np.int64)
        ids_BT[np.arange(ids_BT.shape[1]) < length_B[:, None]] = self.ids
        return ids_BT

    @property
    def n_common(self) -> int:
        """How many first tokens all rows share; at least one token of each is left out of it."""
        shortest = int(self.length_B.min()) - 1
        different = (token for token in range(shortest) if (self.column(token) != self.ids[token]).any())
        return next(different, shortest)


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
        return cls.of_tokens(TokenRows.of(rows), place_BP)

    @classmethod
    def of_tokens(cls, rows: TokenRows, place_BP: NDArray[np.int64] | None = None) -> Prompts:
        """The prompts of these rows."""
        return cls(ids_BT=rows.padded(), length_B=rows.length_B, place_BP=place_BP)

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
