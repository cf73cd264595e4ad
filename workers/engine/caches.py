"""Keys and values as the model's own code asks for them: in a shared forward, and in a tail.

Shapes, by suffix: B pairs, R rows (cells x pairs), T tokens, P cached positions, H heads, K new keys, E head size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer

from workers.engine.attention import with_earlier


class FullCache(DynamicLayer):
    """One layer's keys and values in a shared forward: the prefix's, which were computed for a batch of one, and the
    batch's own. With `record`, `keys` and `values` are those of all positions afterwards."""

    def __init__(self, prefix: tuple[Tensor, Tensor] | None, *, record: bool) -> None:
        super().__init__()
        self.prefix, self.record = prefix, record
        self.n_positions = 0 if prefix is None else prefix[0].shape[2]

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if self.prefix is not None:
            keys_1HPE, values_1HPE = self.prefix
            key_states = torch.cat([keys_1HPE.expand(len(key_states), -1, -1, -1), key_states], dim=2)
            value_states = torch.cat([values_1HPE.expand(len(value_states), -1, -1, -1), value_states], dim=2)
        if self.record:
            self.keys, self.values = key_states, value_states
        return key_states, value_states

    def get_seq_length(self) -> int:
        return self.n_positions

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.n_positions + query_length, 0


class KeysAndValuesKnown(Exception):
    """Ends a block whose keys and values are all that is wanted of it."""


class TailCache(DynamicLayer):
    """One layer's keys and values of the base before a tail's first position: views that no call appends to. With
    `shares`, attention is `tail_attention`'s, and a pair's are kept once for all cells; a model's own attention gets
    each row's."""

    def __init__(self, keys_BHTE: Tensor, values_BHTE: Tensor, n_positions: int, *, shares: bool) -> None:
        super().__init__()
        self.earlier = keys_BHTE[:, :, :n_positions], values_BHTE[:, :, :n_positions]
        self.n_positions = n_positions
        self.shares = shares
        self.stops = False  # end the block as soon as its keys and values are known, and keep them for the next call
        self.kept: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if self.stops:
            self.kept, self.stops = (key_states, value_states), False
            raise KeysAndValuesKnown
        if self.kept is not None:
            key_states = torch.cat([self.kept[0], key_states], dim=2)
            value_states = torch.cat([self.kept[1], value_states], dim=2)
        join = with_earlier if self.shares else _behind_earlier
        return join(key_states, self.earlier[0]), join(value_states, self.earlier[1])

    def get_seq_length(self) -> int:
        return self.n_positions

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.n_positions + query_length, 0


def _behind_earlier(new_RHKE: Tensor, earlier_BHPE: Tensor) -> Tensor:
    """The keys or values of all positions, each row's on their own."""
    n_cells = len(new_RHKE) // len(earlier_BHPE)
    return torch.cat([earlier_BHPE.repeat(n_cells, 1, 1, 1), new_RHKE], dim=2)
