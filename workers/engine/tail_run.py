"""One tail: the rows of all cells, of some of a batch's pairs, through what their interventions can change.

Shapes, by suffix: C cells, B pairs of the tail, R rows (cells x pairs), M tokens that are read, Q tokens of a tail, H
heads, E head size, D hidden size, W width of a site, V vocabulary.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import Cache

from workers.engine.attention import own_attention, shared_attention
from workers.engine.base import Mix, TokenBatch
from workers.engine.caches import TailCache
from workers.engine.entering import (
    BEFORE_ALL,
    EMBEDDED,
    INSIDE,
    INSIDE_FROM_HERE_ON,
    entry_of,
    entry_together,
    way_in,
)
from workers.engine.groups import WhichRows, picked
from workers.engine.model import (
    LanguageModel,
    Token,
    cache_argument,
    first_of,
    last_logits,
    replaced_forwards,
    side_by_side,
    token_index,
)
from workers.engine.shared_run import SharedRun
from workers.engine.sites import RESIDUAL_SITES, tap_of
from workers.engine.tail import (
    InsideBlock,
    Rows,
    as_block,
    fed_by,
    for_last_tokens,
    hand_on,
    joined_by,
    known,
    pass_on,
    together,
)
from workers.engine.together import Stage, Together
from workers.files.place import BLOCK_OUTPUT, Place

_ORDER: Final = {"embeddings": -3, BLOCK_OUTPUT: -2, "block_input": -1}  # what rows pass before they enter


@dataclass(frozen=True, slots=True, kw_only=True)
class TailRun:
    """The pairs `rows` of a base's shared run; `prompts` are those rows alone, as long as the longest of them."""

    model: LanguageModel
    run: SharedRun
    rows: WhichRows
    prompts: TokenBatch
    more_outputs: tuple[None, ...] | None

    def apart(self, places: Sequence[Place], mixed_CBW: Tensor) -> Tensor:
        """logits_CMV of all cells, in one call of the model. The places are in the order of their `entry_of`, and of
        their `way_in` at each."""
        token = self.prompts.token_of(places[0].position)
        entering: dict[int, list[Rows]] = {}
        start = 0
        for (entry, _), cells in itertools.groupby(places, key=entry_and_way):
            some = list(cells)
            rows = self._entering(some, mixed_CBW[start : start + len(some)], token)
            entering.setdefault(entry, []).append(rows)
            start += len(some)
        logits_NV = self._tail(first_of(token), {at: together(rows) for at, rows in entering.items()}, len(places))
        return logits_NV.unflatten(0, (len(places), -1))

    def together(self, points: Sequence[Place], source: Sequence[Tensor], mix: Mix) -> Tensor:
        """logits_1MV of one cell: a tail that begins at the earliest of the points, changed at each of them. `source`
        has the source's activation_BW at each point."""
        entry, first = entry_together(points), min(first_of(self.prompts.token_of(point.position)) for point in points)
        at_points = Together(self.model, points, base=self.prompts, source=source, mix=mix, first_token=first)
        rows_BQD = self._hidden(entry)[:, first - self.run.n_prefix :]
        passed = []  # stages that the rows have passed when they enter
        for stage in sorted(at_points.stages, key=lambda stage: _ORDER.get(points[stage[0]].site, 0)):
            site = points[stage[0]].site
            if site == "embeddings":
                rows_BQD = self._embedded(at_points, stage, rows_BQD)
            elif site in RESIDUAL_SITES and entry_of(points[stage[0]]) == entry:
                rows_BQD = at_points.edit(stage)(rows_BQD)
            else:
                continue
            passed.append(stage)
        with at_points.hooked([stage for stage in at_points.stages if stage not in passed]):
            rows = {entry: known(side_by_side(rows_BQD))}
            return self._tail(first, rows, 1, last_block=max(point.layer for point in points))[None]

    def _embedded(self, at_points: Together, stage: Stage, rows_BQD: Tensor) -> Tensor:
        """The rows before block 0 with the embeddings of the stage's points mixed."""
        base = [picked(self.run.read(self.model, at_points.points[index]), self.rows).float() for index in stage]
        rows_BQD = rows_BQD.clone()
        for index, mixed_BE in zip(stage, at_points.mixed(stage, base), strict=True):
            token = self.prompts.token_of(at_points.points[index].position)
            hidden_1BD = self._before_first_block(mixed_BE.to(self.model.dtype)[None], token)
            rows_BQD[token_index(at_points.tokens[index], rows_BQD.device)] = hidden_1BD[0].to(rows_BQD)
        return rows_BQD

    def _entering(self, places: Sequence[Place], mixed_CBW: Tensor, token: Token) -> Rows:
        """The rows of cells that enter at one block in one way."""
        way = way_in(places[0])
        if way in (INSIDE, INSIDE_FROM_HERE_ON):
            return self._inside(places, mixed_CBW, token)
        if way == EMBEDDED:
            mixed_CBW = self._before_first_block(mixed_CBW, token)
        return known(self._entering_rows(mixed_CBW, entry_of(places[0]), token))

    def _entering_rows(self, mixed_CBD: Tensor, entry: int, token: Token) -> Tensor:
        """hidden_RQD of cells whose stream is mixed behind block `entry`, from the batch's first intervention on: mixed
        at each row's token, the base's own elsewhere."""
        hidden_BQD, count = self._hidden(entry), len(mixed_CBD)
        mixed_CB1D = mixed_CBD[:, :, None].to(hidden_BQD.device)
        if isinstance(token, int):
            later_BQD = hidden_BQD[:, token - self.run.n_prefix + 1 :]
            return torch.cat([mixed_CB1D, later_BQD.expand(count, *later_BQD.shape)], dim=2).flatten(0, 1)
        own_BQD = hidden_BQD[:, first_of(token) - self.run.n_prefix :]
        is_mixed_BQ1 = torch.zeros_like(own_BQD[..., :1], dtype=torch.bool)
        is_mixed_BQ1[token_index(token - first_of(token), own_BQD.device)] = True
        return torch.where(is_mixed_BQ1, mixed_CB1D, own_BQD).flatten(0, 1)

    def _inside(self, places: Sequence[Place], mixed_CBW: Tensor, token: Token) -> Rows:
        """The rows of cells that intervene inside one block: it is run for the token alone where nothing else changes
        in it and the token is the same in all rows, else from there on."""
        layer, first = places[0].layer, first_of(token) - self.run.n_prefix
        before_BQD = self._hidden(layer - 1)
        is_alone = isinstance(token, int) and way_in(places[0]) == INSIDE
        return InsideBlock(
            run=self.model.blocks[layer].forward,
            taps=[tap_of(self.model, place) for place in places],
            mixed_CBW=mixed_CBW,
            inputs_BQD=before_BQD[:, first : first + 1] if is_alone else before_BQD[:, first:],
            later_BQD=self._hidden(layer)[:, first + 1 :] if is_alone else None,
            token=token - first_of(token),
            n_earlier=first_of(token),
            n_tokens=self._n_tokens(first_of(token)),
        ).rows

    def _before_first_block(self, mixed_CBE: Tensor, token: Token) -> Tensor:
        """hidden_CBD before block 0 at each row's token, whose embedding is mixed."""
        model, (n_cells, n_pairs) = self.model, mixed_CBE.shape[:2]
        token_B = np.full(n_pairs, token) if isinstance(token, int) else token
        position_R1 = torch.from_numpy(np.tile(token_B, n_cells)).to(model.device)[:, None]
        found: list[Tensor] = []

        def reached(hidden: Tensor, *_args: Any, **_kwargs: Any) -> Tensor:
            found.append(hidden)
            raise _FirstBlockReached

        with replaced_forwards({model.blocks[0]: reached}), contextlib.suppress(_FirstBlockReached):
            model.model(inputs_embeds=mixed_CBE.flatten(0, 1)[:, None], position_ids=position_R1, use_cache=False)
        return found[0][:, 0].unflatten(0, (n_cells, n_pairs))

    def _hidden(self, index: int) -> Tensor:
        """The residual stream hidden_BQD of these rows behind block `index`."""
        n_tokens = self._n_tokens(self.run.n_prefix)
        return picked(self.run.hidden[index][:, :n_tokens], self.rows)

    def _cache(self, n_earlier: int, first_block: int) -> Cache:
        """The keys and values of these rows before the tail; of the blocks that are bypassed nobody asks for them."""
        layers = []
        for index, (keys_BHTE, values_BHTE) in enumerate(self.run.keys_values):
            if index >= first_block:
                keys_BHTE, values_BHTE = (
                    picked(part[:, :, :n_earlier], self.rows) for part in (keys_BHTE, values_BHTE)
                )
            layers.append(TailCache(keys_BHTE, values_BHTE, n_earlier, shares=self.model.shares_keys))
        return Cache(layers=layers)

    def _n_tokens(self, first_token: int) -> int:
        return self.prompts.ids_BT.shape[1] - first_token

    def _tail(self, first_token: int, entering: Mapping[int, Rows], n_cells: int, *, last_block: int = -1) -> Tensor:
        """The logits that are read of the rows that enter after each block, run through the later blocks together: cell
        by cell, those of `base_logits`. `last_block` is the last block that is changed on the way."""
        model, first, last = self.model, min(entering), self.model.n_layers - 1
        cache = self._cache(first_token, first)
        n_tokens = self._n_tokens(first_token)
        reads = self.prompts.reads
        n_read = 1 if reads is None else reads.n_last
        forwards: dict[int, Any] = dict.fromkeys(range(first), pass_on)
        for index in range(first + 1, model.n_layers):
            forwards[index] = model.blocks[index].forward
        if last > first and n_tokens > n_read and last_block < last:
            forwards[last] = for_last_tokens(model.blocks[last].forward, cache.layers[last], n_tokens, n_read)
        for entry, rows in entering.items():
            if entry == BEFORE_ALL:
                forwards[0] = fed_by(forwards[0], rows())
            else:
                forwards[entry] = hand_on(rows) if entry == first else joined_by(forwards[entry], rows)
        replacements = {model.blocks[index]: as_block(run, self.more_outputs) for index, run in forwards.items()}
        attention = shared_attention if model.shares_keys else own_attention
        with replaced_forwards(replacements), attention(model.model):
            return last_logits(
                model.model,
                None if reads is None else reads.of_cells(n_cells, len(self.prompts)),
                inputs_embeds=torch.zeros(1, n_tokens, model.hidden_size, dtype=model.dtype, device=model.device),
                position_ids=torch.arange(first_token, first_token + n_tokens, device=model.device)[None],
                use_cache=True,
                **cache_argument(model.model, cache),
            )


def entry_and_way(place: Place) -> tuple[int, int]:
    """Behind which block a cell's rows enter the tail, and how."""
    return entry_of(place), way_in(place)


class _FirstBlockReached(Exception):
    """Ends the model's forward where its blocks begin."""
