"""Which rows of a batch go through the model in one call: those that begin and end at about the same token.

In one call every row has the tokens from the first row's beginning to the last row's end. So rows in calls of their own
cost their own tokens only. But a call costs something whatever it holds: weights are read, and kernels are started.
`row_groups` weighs the two.

Shapes, by suffix: B rows of a batch, M tokens of them that are read, K kinds of rows, C cells.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

WhichRows = slice | NDArray[np.int64]

# What a call of a block costs beside its tokens: how many tokens a device computes while it reads the weights, and how
# many times the number of these it computes while the call's kernels are started. The CPU's are measured.
_READING: Final = {"cpu": 20, "cuda": 256}
_STARTING: Final = {"cpu": 8e6, "cuda": 5e10}


def cost_of_a_call(device: torch.device, n_block_parameters: int) -> float:
    """What a call of a block with `n_block_parameters` costs beside its tokens, in tokens."""
    kind = device.type if device.type in _READING else "cuda"
    return _READING[kind] + _STARTING[kind] / n_block_parameters


def row_groups(
    first_B: NDArray[np.int64], end_B: NDArray[np.int64], *, call_cost: float, n_cells: int = 1
) -> list[NDArray[np.int64]]:
    """The numbers of the rows of each call, in ascending order: all of them once.

    Row b has the tokens from `first_B[b]` to before `end_B[b]`, and `n_cells` cells run it. A call costs `call_cost`
    beside its tokens, in tokens.

    The cheapest way to cut the rows, sorted by end and beginning, into calls; one call where all rows are alike.
    """
    kinds_2K, kind_B, count_K = np.unique(np.stack([end_B, first_B]), axis=1, return_inverse=True, return_counts=True)
    end_K, first_K = kinds_2K
    n_before = np.concatenate([[0], count_K.cumsum()])
    cost, begins = np.zeros(len(end_K) + 1), np.zeros(len(end_K) + 1, dtype=np.int64)  # each for the first kinds
    for stop in range(1, len(end_K) + 1):
        earliest = np.minimum.accumulate(first_K[:stop][::-1])[::-1]
        n_tokens = n_cells * (n_before[stop] - n_before[:stop]) * (end_K[stop - 1] - earliest)
        total = cost[:stop] + call_cost + n_tokens
        begins[stop] = total.argmin()
        cost[stop] = total.min()
    groups, stop = [], len(end_K)
    while stop:
        groups.append(np.flatnonzero((kind_B.ravel() >= begins[stop]) & (kind_B.ravel() < stop)))
        stop = int(begins[stop])
    return sorted(groups, key=lambda rows: int(rows[0]))


def which(rows: NDArray[np.int64]) -> WhichRows:
    """The same rows, as a slice where they follow each other: what it picks is a view."""
    first, n_rows = int(rows[0]), len(rows)
    return slice(first, first + n_rows) if int(rows[-1]) - first == n_rows - 1 else rows


def beside(values: Tensor, rows: NDArray[np.int64]) -> Tensor:
    """The numbers of the rows on the device of `values`."""
    return values.new_zeros(len(rows), dtype=torch.int64).copy_(torch.from_numpy(rows))


def picked(values: Tensor, rows: WhichRows, *, dim: int = 0) -> Tensor:
    """The rows of `values`, which dimension `dim` counts."""
    if isinstance(rows, slice):
        return values.narrow(dim, rows.start, rows.stop - rows.start)
    return values.index_select(dim, beside(values, rows))


def read_of(rows: NDArray[np.int64], n_read_B: NDArray[np.int64]) -> NDArray[np.int64]:
    """The numbers, among the M tokens of all rows, of those that are read of `rows`."""
    start_B, count = n_read_B.cumsum() - n_read_B, n_read_B[rows]
    within = np.arange(count.sum()) - np.repeat(count.cumsum() - count, count)
    return np.repeat(start_B[rows], count) + within


def in_order(parts: Iterable[Tensor], numbers: Sequence[NDArray[np.int64]]) -> Tensor:
    """The parts as one tensor, along dimension 1: `numbers` has where each entry of each part belongs."""
    if len(numbers) == 1:
        return next(iter(parts))
    order = np.concatenate(numbers)
    if torch.is_grad_enabled():
        joined = torch.cat(list(parts), dim=1)
        return joined if (np.diff(order) > 0).all() else picked(joined, np.argsort(order), dim=1)
    whole: Tensor | None = None  # filled part by part: a vocabulary is large
    for part, some in zip(parts, numbers, strict=True):
        if whole is None:
            whole = part.new_empty(len(part), len(order), *part.shape[2:])
        whole.index_copy_(1, beside(part, some), part)
    assert whole is not None
    return whole


def filled_up(parts: Sequence[Tensor], rows: Sequence[NDArray[np.int64]], *, dim: int) -> Tensor:
    """The rows of all parts in their order, shorter ones filled up with zeros along dimension `dim`."""
    if len(rows) == 1:
        return parts[0]
    sizes = list(parts[0].shape)
    sizes[0], sizes[dim] = sum(map(len, rows)), max(part.shape[dim] for part in parts)
    whole = parts[0].new_zeros(sizes)
    for part, some in zip(parts, rows, strict=True):
        whole.narrow(dim, 0, part.shape[dim]).index_copy_(0, beside(part, some), part)
    return whole
