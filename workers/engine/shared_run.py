"""What a run without intervention leaves behind: the streams, values, keys and values that cells go on from.

Shapes, by suffix: B prompts, Q tokens behind the prefix, M tokens that are read, T tokens, H heads, E head size, D
hidden size, X columns of a site, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from workers.engine.base import TokenBatch
from workers.engine.entering import entry_of
from workers.engine.groups import filled_up, in_order, read_of
from workers.engine.model import LanguageModel, Token, at_token, first_of
from workers.engine.sites import RESIDUAL_SITES, tap_of
from workers.files.place import Place


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedRun:
    """One run of `prompts`, whose first `n_prefix` tokens were run before.

    `hidden` has the residual stream behind some blocks at all tokens, hidden_BQD; `values` what other sites hold, all
    units, values_BX by point; `keys_values` each layer's keys_BHTE and values_BHTE, or nothing.
    """

    prompts: TokenBatch
    n_prefix: int
    logits_MV: Tensor
    hidden: dict[int, Tensor] = field(default_factory=dict)
    values: dict[tuple[int, str, int], Tensor] = field(default_factory=dict)
    keys_values: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def read(self, model: LanguageModel, place: Place) -> Tensor:
        """The activation_BW at `place`. Raises: ValueError for a position in the prefix."""
        token = outside_prefix(self.prompts, place.position, self.n_prefix)
        if place.site in RESIDUAL_SITES:
            return at_token(self.hidden[entry_of(place)], token).to(model.device)
        tap = tap_of(model, place)
        values_BX = self.values[place.layer, place.site, place.position]
        return values_BX[:, tap.start : tap.start + tap.width].to(model.device)


def joined(prompts: TokenBatch, runs: Sequence[SharedRun], rows: Sequence[NDArray[np.int64]]) -> SharedRun:
    """The runs of `rows` of `prompts` as one, shorter prompts filled up with zeros."""
    if len(runs) == 1:
        return runs[0]
    one = runs[0]
    reads = [read_of(some, prompts.n_read_each_B) for some in rows]
    pairs = zip(*(run.keys_values for run in runs), strict=True)
    return SharedRun(
        prompts=prompts,
        n_prefix=one.n_prefix,
        logits_MV=in_order([run.logits_MV[None] for run in runs], reads)[0],
        hidden={at: filled_up([run.hidden[at] for run in runs], rows, dim=1) for at in one.hidden},
        values={at: in_order([run.values[at][None] for run in runs], rows)[0] for at in one.values},
        keys_values=[
            (filled_up(keys, rows, dim=2), filled_up(values, rows, dim=2))
            for keys, values in (zip(*layer, strict=True) for layer in pairs)
        ],
    )


def outside_prefix(prompts: TokenBatch, point: int, n_prefix: int) -> Token:
    """The point's token, counted from behind the prefix. Raises: ValueError for a point in the prefix."""
    token = prompts.token_of(point)
    if first_of(token) < n_prefix:
        raise ValueError(f"position {point} lies in the common prefix of {n_prefix} tokens")
    return token - n_prefix
