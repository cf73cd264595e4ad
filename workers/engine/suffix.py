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

Prompts of unequal length cost their own tokens: those of about one length go through the shared forward in one call,
and those that a position splits at about the same token, and that end at about the same one, through one tail
(`engine.groups`). Within a call, prompts are filled up behind their ends, where no token of theirs looks; the tail
begins at the first of its pairs' tokens, and so does a block that is run inside.

Shapes, by suffix: C cells, B pairs, R rows (cells x pairs), T tokens, Q tokens of a tail, P cached positions, H heads,
E head size, D hidden size, W width of a site, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers.cache_utils import Cache

from workers.engine.base import AbstractEngine, AbstractForward, Mix, TokenBatch
from workers.engine.caches import FullCache
from workers.engine.entering import BEFORE_ALL, entry_of, entry_together
from workers.engine.groups import beside, cost_of_a_call, in_order, picked, read_of, row_groups, which
from workers.engine.model import LanguageModel, at_token, cache_argument, hidden_of, last_logits, replaced_forwards
from workers.engine.shared_run import SharedRun, joined, outside_prefix
from workers.engine.sites import RESIDUAL_SITES, tap_of
from workers.engine.tail import as_block, pass_on
from workers.engine.tail_run import TailRun, entry_and_way
from workers.files.place import AnyPlace, Place, PlaceSet


class SuffixEngine(AbstractEngine):
    """Shared forward and tails for cells at `places`; `prefix_P` are the tokens that all prompts begin with.

    `call_cost` is what a call of a block costs beside its tokens, in tokens; by default the device's.

    Source of the method: the arithmetic of a causal decoder; the tests hold it to `engine.reference`.
    Raises: SiteError for a place that the model does not have.
    """

    joins_places = True

    def __init__(
        self,
        language_model: LanguageModel,
        *,
        places: Sequence[AnyPlace],
        prefix_P: Tensor | None = None,
        call_cost: float | None = None,
    ) -> None:
        self.language_model = language_model
        n_block_parameters = sum(weight.numel() for weight in language_model.blocks[0].parameters())
        self._call_cost = cost_of_a_call(language_model.device, n_block_parameters) if call_cost is None else call_cost
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
        with torch.no_grad():
            base_run = self._shared(base, self._base_streams, self.language_model.n_layers, records=True)
            source_run = self._shared(source, self._source_streams, self._n_source_blocks, records=False)
        return SuffixForward(
            self.language_model, base_run, source_run, more_outputs=self._more_outputs, call_cost=self._call_cost
        )

    def _cache(self, *, record: bool) -> Cache:
        return Cache(layers=[FullCache(prefix, record=record) for prefix in self._prefix])

    def _shared(self, prompts: TokenBatch, streams: set[int], n_blocks: int, *, records: bool) -> SharedRun:
        """The run of `prompts`, those of about one length in a call; with `records`, keys and values are kept."""
        first_B = np.full(len(prompts), self.n_prefix)
        rows = row_groups(first_B, prompts.length_B, call_cost=self._call_cost)
        runs = [self._run(prompts.take(which(some)), streams, n_blocks, records=records) for some in rows]
        return joined(prompts, runs, rows)

    def _run(self, prompts: TokenBatch, streams: set[int], n_blocks: int, *, records: bool) -> SharedRun:
        """One call of the model, which stops after `n_blocks`."""
        model, blocks = self.language_model.model, self.language_model.blocks
        cache = self._cache(record=records)
        hidden: dict[int, Tensor] = {}
        values: dict[tuple[int, str, int], Tensor] = {}
        handles = [self._keep_stream(index, hidden) for index in streams]
        handles.append(blocks[0].register_forward_hook(self._note_form))
        handles += [self._keep_values(prompts, layer, site, values) for layer, site in self._taps]
        try:
            with replaced_forwards(dict.fromkeys(blocks[n_blocks:], as_block(pass_on, self._more_outputs))):
                logits_MV = last_logits(
                    model,
                    prompts.reads,
                    input_ids=prompts.ids_BT[:, self.n_prefix :],
                    use_cache=True,
                    **cache_argument(model, cache),
                )
        finally:
            for handle in handles:
                handle.remove()
        return SharedRun(
            prompts=prompts,
            n_prefix=self.n_prefix,
            logits_MV=logits_MV,
            hidden=hidden,
            values=values,
            keys_values=[(layer.keys, layer.values) for layer in cache.layers] if records else [],
        )

    def _keep_stream(self, index: int, kept: dict[int, Tensor]) -> RemovableHandle:
        """Keep the stream behind block `index`, or before block 0."""

        def before(_module: nn.Module, inputs: tuple[Any, ...]) -> None:
            kept[index] = inputs[0]

        def behind(_module: nn.Module, _inputs: Any, output: Any) -> None:
            kept[index] = hidden_of(output)

        if index == BEFORE_ALL:
            return self.language_model.blocks[0].register_forward_pre_hook(before)
        return self.language_model.blocks[index].register_forward_hook(behind)

    def _note_form(self, _module: nn.Module, _inputs: Any, output: Any) -> None:
        self._more_outputs = (None,) * (len(output) - 1) if isinstance(output, tuple) else None

    def _keep_values(
        self, prompts: TokenBatch, layer: int, site: str, kept: dict[tuple[int, str, int], Tensor]
    ) -> RemovableHandle:
        """Keep what the site holds at the points that cells read, as a copy: some families add to it in place."""

        def keep(values: Tensor) -> None:
            values_BQX = values.reshape(len(prompts), -1, values.shape[-1])
            for point in self._points[layer, site]:
                token = outside_prefix(prompts, point, self.n_prefix)
                kept[layer, site, point] = at_token(values_BQX, token).clone()

        return self._taps[layer, site].hook(keep)


class SuffixForward(AbstractForward):
    """What the cells of a cohort share of one batch, and their tails."""

    def __init__(
        self,
        language_model: LanguageModel,
        base: SharedRun,
        source: SharedRun,
        *,
        more_outputs: tuple[None, ...] | None,
        call_cost: float,
    ) -> None:
        self.language_model = language_model
        self.base, self.source = base, source
        self._more_outputs, self._call_cost = more_outputs, call_cost

    def base_logits(self) -> Tensor:
        """logits_MV of the plain bases, a by-product of the shared forward."""
        return self.base.logits_MV

    def read(self, places: Sequence[Place]) -> tuple[Tensor, Tensor]:
        """base_CBW, source_CBW, read off the shared forward. Raises: ValueError for a position in the prefix."""
        base_CBW, source_CBW = (
            torch.stack([run.read(self.language_model, place) for place in places]).float()
            for run in (self.base, self.source)
        )
        return base_CBW, source_CBW

    def intervene_apart(self, places: Sequence[Place], mix: Mix) -> Tensor:
        """logits_CMV of all cells, in one call of the model for the pairs of about the same place and length."""
        base_CBW, source_CBW = self.read(places)
        mixed_CBW = mix(base_CBW, source_CBW).to(self.language_model.dtype)
        order = sorted(range(len(places)), key=lambda cell: entry_and_way(places[cell]))  # as the rows enter the tail
        is_ordered = order == list(range(len(places)))
        if not is_ordered:
            mixed_CBW = mixed_CBW[order]
        ordered = [places[cell] for cell in order]
        rows = self._groups(places[:1], n_cells=len(places))
        logits_CMV = self._in_order(
            (self._tail(some).apart(ordered, picked(mixed_CBW, which(some), dim=1)) for some in rows), rows
        )
        return logits_CMV if is_ordered else logits_CMV[np.argsort(order).tolist()]

    def intervene_together(self, points: Sequence[Place], mix: Mix) -> Tensor:
        """logits_1MV of one cell, in one call of the model for the pairs of about the same places and length."""
        source = [self.source.read(self.language_model, point).float() for point in points]
        rows = self._groups(points, n_cells=1)
        if len(rows) == 1:
            return self._tail(rows[0]).together(points, source, mix)
        return self._in_order(
            (
                self._tail(some).together(
                    points, [picked(part_BW, which(some)) for part_BW in source], _of_rows(mix, some, len(source[0]))
                )
                for some in rows
            ),
            rows,
        )

    def _groups(self, points: Sequence[Place], *, n_cells: int) -> list[NDArray[np.int64]]:
        """The pairs that go through one tail: those that begin and end at about the same token."""
        prompts = self.base.prompts
        first_B = np.min([prompts.each_token(point.position) for point in points], axis=0)
        return row_groups(first_B, prompts.length_B, call_cost=self._call_cost, n_cells=n_cells)

    def _tail(self, rows: NDArray[np.int64]) -> TailRun:
        return TailRun(
            model=self.language_model,
            run=self.base,
            rows=which(rows),
            prompts=self.base.prompts.take(which(rows)),
            more_outputs=self._more_outputs,
        )

    def _in_order(self, parts: Iterable[Tensor], rows: Sequence[NDArray[np.int64]]) -> Tensor:
        """logits_CMV of all pairs."""
        n_read_B = self.base.prompts.n_read_each_B
        return in_order(parts, [read_of(some, n_read_B) for some in rows])


def _of_rows(mix: Mix, rows: NDArray[np.int64], n_pairs: int) -> Mix:
    """`mix` for some of its `n_pairs` pairs: none of them sees another."""

    def mixed(base_CBW: Tensor, source_CBW: Tensor) -> Tensor:
        at = beside(base_CBW, rows)
        wholes = (
            part.new_zeros(len(part), n_pairs, part.shape[2]).index_copy(1, at, part) for part in (base_CBW, source_CBW)
        )
        return mix(*wholes).index_select(1, at)

    return mixed
