"""The fast engine: never recompute what an intervention cannot change. Exact, for any plain causal decoder.

Intervene on the hidden state after block l at position p of a causal decoder. Then

1. nothing before (l, p) changes: one forward of base and source without gradient serves all cells of a cohort;
2. after block l only positions p..T-1 change: a cell's **tail** runs blocks l+1..N-1 over T-p tokens, which attend to
   the base's cached keys and values of the positions before p;
3. only the last token's logits are read, so the last block is run for that token alone, but for the keys and values
   of the others; of an answer of several tokens, which follow the prompt, as many last tokens as it has;
4. the tokens that all prompts begin with are run once a job.

There is no code per model family. A tail is the Hugging Face model itself, called on positions p..T-1 with a cache that
holds the earlier ones; its blocks up to l are bypassed, and block l hands on the mixed hidden state. Cells at one
position go through in one call: the batch grows by a cell's rows at the cell's layer, so that layers 0, 5, 10 run once
together from block 11 on. Everything that depends on the batch alone (mask, rotary angles) is made by the model for a
batch of one and broadcast. What is cached is kept once per pair for all its cells (`engine.attention`), or once a row
where a model's own attention is the only one that will do (`engine.check`).

A cell may also intervene inside block l: on a head, the attention, the MLP, a neuron. What that changes first is the
residual stream behind block l at p. So block l is run for that token alone, on the base's own stream before it, with
the mix in the place of the submodule's input or output, and the result enters the same tail. A changed key or value at
p reaches the later tokens inside block l already; then block l is run from p on. Before block 0 there are the
embeddings: a mix of them passes what the model does before its first block, and the tail begins with block 0.

Prompts of unequal length are filled up behind their ends, where no token of theirs looks. Where a position lies at
another token in each, the tail begins at the first of them, and so does a block that is run inside.

Shapes, by suffix: C cells, B pairs, R rows (cells x pairs), T tokens, Q tokens of a tail, P cached positions, H heads,
E head size, D hidden size, W width of a site, V vocabulary.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers.cache_utils import Cache

from workers.engine.attention import own_attention, shared_attention
from workers.engine.base import AbstractEngine, AbstractForward, Mix, TokenBatch
from workers.engine.caches import FullCache, TailCache
from workers.engine.entering import (
    BEFORE_ALL,
    EMBEDDED,
    INSIDE,
    INSIDE_FROM_HERE_ON,
    entry_of,
    entry_together,
    way_in,
)
from workers.engine.model import (
    LanguageModel,
    Token,
    at_token,
    cache_argument,
    first_of,
    hidden_of,
    last_logits,
    replaced_forwards,
    side_by_side,
    token_index,
)
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
from workers.files.place import BLOCK_OUTPUT, AnyPlace, Place, PlaceSet

_ORDER: Final = {"embeddings": -3, BLOCK_OUTPUT: -2, "block_input": -1}  # what rows pass before they enter


@dataclass(frozen=True, slots=True)
class _Kept:
    """What cells read of one run: the residual stream behind some blocks at all tokens, hidden_BQD, and what other
    sites hold, all units, values_BX by point."""

    hidden: dict[int, Tensor] = field(default_factory=dict)
    values: dict[tuple[int, str, int], Tensor] = field(default_factory=dict)


class SuffixEngine(AbstractEngine):
    """Shared forward and tails for cells at `places`; `prefix_P` are the tokens that all prompts begin with.

    Source of the method: the arithmetic of a causal decoder; the tests hold it to `engine.reference`.
    Raises: SiteError for a place that the model does not have.
    """

    joins_places = True

    def __init__(
        self, language_model: LanguageModel, *, places: Sequence[AnyPlace], prefix_P: Tensor | None = None
    ) -> None:
        self.language_model = language_model
        sets = [place.points for place in places if isinstance(place, PlaceSet)]
        points = [point for place in places for point in place.points]
        inside = [point for point in points if point.site not in RESIDUAL_SITES]
        blocks = {place.layer for place in inside if place.site != "embeddings"}
        # the stream behind these blocks is kept; a block that is run inside begins with the stream before it
        self._base_streams = {entry_of(point) for point in points} | {layer - 1 for layer in blocks}
        self._base_streams |= {entry_together(points) for points in sets}
        self._source_streams = {entry_of(point) for point in points if point.site in RESIDUAL_SITES}
        self._taps = {(place.layer, place.site): tap_of(language_model, place) for place in inside}
        self._points = {
            site: sorted({place.position for place in inside if (place.layer, place.site) == site})
            for site in self._taps
        }
        self._n_source_blocks = max(entry_of(point) for point in points) + 1
        self.n_prefix = 0 if prefix_P is None else len(prefix_P)
        self._more_outputs: tuple[None, ...] | None = (
            None  # a block's outputs beside its hidden states; a base's run tells
        )
        self._prefix: list[tuple[Tensor, Tensor] | None] = [None] * language_model.n_layers
        if prefix_P is not None and self.n_prefix:
            cache = self._cache(record=True)
            with torch.no_grad():
                model = language_model.model
                model(input_ids=prefix_P[None], use_cache=True, logits_to_keep=1, **cache_argument(model, cache))
            self._prefix = [(layer.keys, layer.values) for layer in cache.layers]

    def forward(self, base: TokenBatch, source: TokenBatch) -> SuffixForward:
        """The shared forward of a batch: base through all blocks, source up to the last one that a cell needs."""
        model = self.language_model
        with torch.no_grad():
            base_cache, base_kept, source_kept = self._cache(record=True), _Kept(), _Kept()
            logits_MV = self._run(base, base_cache, self._base_streams, base_kept, model.n_layers)
            self._run(source, self._cache(record=False), self._source_streams, source_kept, self._n_source_blocks)
        return SuffixForward(
            model,
            base,
            source,
            n_prefix=self.n_prefix,
            base_kept=base_kept,
            source_kept=source_kept,
            keys_values=[(layer.keys, layer.values) for layer in base_cache.layers],
            logits_MV=logits_MV,
            more_outputs=self._more_outputs,
        )

    def _cache(self, *, record: bool) -> Cache:
        return Cache(layers=[FullCache(prefix, record=record) for prefix in self._prefix])

    def _run(self, prompts: TokenBatch, cache: Cache, streams: set[int], kept: _Kept, n_blocks: int) -> Tensor:
        """logits_MV of the tokens that are read; fills `kept`; stops after `n_blocks`."""
        blocks = self.language_model.blocks
        handles = [self._keep_stream(index, kept) for index in streams]
        handles.append(blocks[0].register_forward_hook(self._note_form))
        handles += [self._keep_values(prompts, layer, site, kept) for layer, site in self._taps]
        try:
            with replaced_forwards(dict.fromkeys(blocks[n_blocks:], as_block(pass_on, self._more_outputs))):
                return last_logits(
                    self.language_model.model,
                    prompts.reads,
                    input_ids=prompts.ids_BT[:, self.n_prefix :],
                    use_cache=True,
                    **cache_argument(self.language_model.model, cache),
                )
        finally:
            for handle in handles:
                handle.remove()

    def _keep_stream(self, index: int, kept: _Kept) -> RemovableHandle:
        """Keep the stream behind block `index`, or before block 0."""

        def before(_module: nn.Module, inputs: tuple[Any, ...]) -> None:
            kept.hidden[index] = inputs[0]

        def behind(_module: nn.Module, _inputs: Any, output: Any) -> None:
            kept.hidden[index] = hidden_of(output)

        if index == BEFORE_ALL:
            return self.language_model.blocks[0].register_forward_pre_hook(before)
        return self.language_model.blocks[index].register_forward_hook(behind)

    def _note_form(self, _module: nn.Module, _inputs: Any, output: Any) -> None:
        self._more_outputs = (None,) * (len(output) - 1) if isinstance(output, tuple) else None

    def _keep_values(self, prompts: TokenBatch, layer: int, site: str, kept: _Kept) -> RemovableHandle:
        """Keep what the site holds at the points that cells read, as a copy: some families add to it in place."""

        def keep(values: Tensor) -> None:
            values_BQX = values.reshape(len(prompts), -1, values.shape[-1])
            for point in self._points[layer, site]:
                token = outside_prefix(prompts, point, self.n_prefix)
                kept.values[layer, site, point] = at_token(values_BQX, token).clone()

        return self._taps[layer, site].hook(keep)


def outside_prefix(prompts: TokenBatch, point: int, n_prefix: int) -> Token:
    """The point's token, counted from behind the prefix. Raises: ValueError for a point in the prefix."""
    token = prompts.token_of(point)
    if first_of(token) < n_prefix:
        raise ValueError(f"position {point} lies in the common prefix of {n_prefix} tokens")
    return token - n_prefix


class SuffixForward(AbstractForward):
    """What the cells of a cohort share of one batch, and their tails."""

    def __init__(
        self,
        language_model: LanguageModel,
        base: TokenBatch,
        source: TokenBatch,
        *,
        n_prefix: int,
        base_kept: _Kept,
        source_kept: _Kept,
        keys_values: Sequence[tuple[Tensor, Tensor]],
        logits_MV: Tensor,
        more_outputs: tuple[None, ...] | None,
    ) -> None:
        self.language_model = language_model
        self.base, self.source = base, source
        self.n_prefix = n_prefix
        self.base_kept, self.source_kept = base_kept, source_kept
        self.keys_values = keys_values
        self._logits_MV = logits_MV
        self._more_outputs = more_outputs

    def base_logits(self) -> Tensor:
        """logits_MV of the plain bases, a by-product of the shared forward."""
        return self._logits_MV

    def read(self, places: Sequence[Place]) -> tuple[Tensor, Tensor]:
        """base_CBW, source_CBW, read off the shared forward. Raises: ValueError for a position in the prefix."""
        base_CBW, source_CBW = (
            torch.stack([self._read(prompts, kept, place) for place in places]).float()
            for prompts, kept in ((self.base, self.base_kept), (self.source, self.source_kept))
        )
        return base_CBW, source_CBW

    def _read(self, prompts: TokenBatch, kept: _Kept, place: Place) -> Tensor:
        token = outside_prefix(prompts, place.position, self.n_prefix)
        if place.site in RESIDUAL_SITES:
            return at_token(kept.hidden[entry_of(place)], token).to(self.language_model.device)
        tap = tap_of(self.language_model, place)
        values_BX = kept.values[place.layer, place.site, place.position]
        return values_BX[:, tap.start : tap.start + tap.width].to(self.language_model.device)

    def intervene_apart(self, places: Sequence[Place], mix: Mix) -> Tensor:
        """logits_CMV of all cells, in one call of the model."""
        base_CBW, source_CBW = self.read(places)
        mixed_CBW = mix(base_CBW, source_CBW).to(self.language_model.dtype)
        ways = [(entry_of(place), way_in(place)) for place in places]
        order = sorted(range(len(places)), key=ways.__getitem__)  # the rows of the tail, as they enter it
        is_ordered = order == list(range(len(places)))
        if not is_ordered:
            mixed_CBW = mixed_CBW[order]
        token = self.base.token_of(places[0].position)
        entering: dict[int, list[Rows]] = {}
        start = 0
        for (entry, _), cells in itertools.groupby(order, key=ways.__getitem__):
            some = [places[cell] for cell in cells]
            rows = self._entering(some, mixed_CBW[start : start + len(some)], token)
            entering.setdefault(entry, []).append(rows)
            start += len(some)
        logits_NV = self._tail(first_of(token), {at: together(rows) for at, rows in entering.items()}, len(places))
        logits_CMV = logits_NV.unflatten(0, (len(places), -1))
        return logits_CMV if is_ordered else logits_CMV[np.argsort(order).tolist()]

    def intervene_together(self, points: Sequence[Place], mix: Mix) -> Tensor:
        """logits_1MV of one cell: a tail that begins at the earliest of the points, changed at each of them."""
        entry, first = entry_together(points), min(first_of(self.base.token_of(point.position)) for point in points)
        source = [self._read(self.source, self.source_kept, point).float() for point in points]
        at_points = Together(self.language_model, points, base=self.base, source=source, mix=mix, first_token=first)
        rows_BQD = self.base_kept.hidden[entry][:, first - self.n_prefix :]
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
        base = [self._read(self.base, self.base_kept, at_points.points[index]).float() for index in stage]
        rows_BQD = rows_BQD.clone()
        for index, mixed_BE in zip(stage, at_points.mixed(stage, base), strict=True):
            token = self.base.token_of(at_points.points[index].position)
            hidden_1BD = self._before_first_block(mixed_BE.to(self.language_model.dtype)[None], token)
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
        hidden_BQD, count = self.base_kept.hidden[entry], len(mixed_CBD)
        mixed_CB1D = mixed_CBD[:, :, None].to(hidden_BQD.device)
        if isinstance(token, int):
            later_BQD = hidden_BQD[:, token - self.n_prefix + 1 :]
            return torch.cat([mixed_CB1D, later_BQD.expand(count, *later_BQD.shape)], dim=2).flatten(0, 1)
        own_BQD = hidden_BQD[:, first_of(token) - self.n_prefix :]
        is_mixed_BQ1 = torch.zeros_like(own_BQD[..., :1], dtype=torch.bool)
        is_mixed_BQ1[token_index(token - first_of(token), own_BQD.device)] = True
        return torch.where(is_mixed_BQ1, mixed_CB1D, own_BQD).flatten(0, 1)

    def _inside(self, places: Sequence[Place], mixed_CBW: Tensor, token: Token) -> Rows:
        """The rows of cells that intervene inside one block: it is run for the token alone where nothing else changes
        in it and the token is the same in all rows, else from there on."""
        layer, first = places[0].layer, first_of(token) - self.n_prefix
        before_BQD = self.base_kept.hidden[layer - 1]
        is_alone = isinstance(token, int) and way_in(places[0]) == INSIDE
        return InsideBlock(
            run=self.language_model.blocks[layer].forward,
            taps=[tap_of(self.language_model, place) for place in places],
            mixed_CBW=mixed_CBW,
            inputs_BQD=before_BQD[:, first : first + 1] if is_alone else before_BQD[:, first:],
            later_BQD=self.base_kept.hidden[layer][:, first + 1 :] if is_alone else None,
            token=token - first_of(token),
            n_earlier=first_of(token),
            n_tokens=self._n_tokens(first_of(token)),
        ).rows

    def _before_first_block(self, mixed_CBE: Tensor, token: Token) -> Tensor:
        """hidden_CBD before block 0 at each row's token, whose embedding is mixed."""
        model, (n_cells, n_pairs) = self.language_model, mixed_CBE.shape[:2]
        token_B = np.full(n_pairs, token) if isinstance(token, int) else token
        position_R1 = torch.from_numpy(np.tile(token_B, n_cells)).to(model.device)[:, None]
        found: list[Tensor] = []

        def reached(hidden: Tensor, *_args: Any, **_kwargs: Any) -> Tensor:
            found.append(hidden)
            raise _FirstBlockReached

        with replaced_forwards({model.blocks[0]: reached}), contextlib.suppress(_FirstBlockReached):
            model.model(inputs_embeds=mixed_CBE.flatten(0, 1)[:, None], position_ids=position_R1, use_cache=False)
        return found[0][:, 0].unflatten(0, (n_cells, n_pairs))

    def _n_tokens(self, first_token: int) -> int:
        return self.base.ids_BT.shape[1] - first_token

    def _tail(self, first_token: int, entering: Mapping[int, Rows], n_cells: int, *, last_block: int = -1) -> Tensor:
        """The logits that are read of the rows that enter after each block, run through the later blocks together: cell
        by cell, those of `base_logits`. `last_block` is the last block that is changed on the way."""
        model, first, last = self.language_model, min(entering), self.language_model.n_layers - 1
        cache = Cache(layers=[TailCache(*pair, first_token, shares=model.shares_keys) for pair in self.keys_values])
        n_tokens = self._n_tokens(first_token)
        reads = self.base.reads
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
        replacements = {model.blocks[index]: as_block(run, self._more_outputs) for index, run in forwards.items()}
        attention = shared_attention if model.shares_keys else own_attention
        with replaced_forwards(replacements), attention(model.model):
            return last_logits(
                model.model,
                None if reads is None else reads.of_cells(n_cells, len(self.base)),
                inputs_embeds=torch.zeros(1, n_tokens, model.hidden_size, dtype=model.dtype, device=model.device),
                position_ids=torch.arange(first_token, first_token + n_tokens, device=model.device)[None],
                use_cache=True,
                **cache_argument(model.model, cache),
            )


class _FirstBlockReached(Exception):
    """Ends the model's forward where its blocks begin."""
