"""The fast engine: never recompute what an intervention cannot change. Exact, for any plain causal decoder.

Intervene on the hidden state after block l at position p of a causal decoder. Then

1. nothing before (l, p) changes: one forward of base and source without gradient serves all cells of a cohort;
2. after block l only positions p..T-1 change: a cell's **tail** runs blocks l+1..N-1 over T-p tokens, which attend to
   the base's cached keys and values of the positions before p;
3. only the last token's logits are read, so the last block is run for that token alone, but for the keys and values
   of the others;
4. the tokens that all prompts begin with are run once a job.

There is no code per model family. A tail is the Hugging Face model itself, called on positions p..T-1 with a cache that
holds the earlier ones; its blocks up to l are bypassed, and block l hands on the mixed hidden state. Cells at one
position go through in one call: the batch grows by a cell's rows at the cell's layer, so that layers 0, 5, 10 run once
together from block 11 on. Everything that depends on the batch alone (mask, rotary angles) is made by the model for a
batch of one and broadcast. What is cached stands once a pair for all its cells (`engine.attention`), or once a row
where a model's own attention is the only one that will do (`engine.check`).

Prompts of unequal length are filled up behind their ends, where no token of theirs looks. Where a position lies at
another token in each, the tail begins at the first of them.

Shapes, by suffix: C cells, B pairs, R rows (cells x pairs), T tokens, Q tokens of a tail, P cached positions, H heads,
E head size, D hidden size, V vocabulary.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicLayer

from workers.engine.attention import own_attention, shared_attention, with_earlier
from workers.engine.base import AbstractEngine, AbstractForward, Mix, TokenBatch
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


class _FullCache(DynamicLayer):
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


class _KeysAndValuesKnown(Exception):
    """Ends a block whose keys and values are all that is wanted of it."""


class _TailCache(DynamicLayer):
    """One layer's keys and values of the base before a tail's first position: views that no call appends to. With
    `shares`, attention is `tail_attention`'s, and a pair's stand once for all cells; a model's own attention is given
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
            raise _KeysAndValuesKnown
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


class SuffixEngine(AbstractEngine):
    """Shared forward and tails for cells at `layers`; `prefix_P` are the tokens that all prompts begin with.

    Source of the method: the arithmetic of a causal decoder; the tests hold it to `engine.reference`.
    """

    joins_layers = True

    def __init__(self, language_model: LanguageModel, *, layers: Sequence[int], prefix_P: Tensor | None = None) -> None:
        self.language_model = language_model
        self.layers = sorted(set(layers))
        self.n_prefix = 0 if prefix_P is None else len(prefix_P)
        self._more_outputs: tuple[None, ...] | None = None  # of a block beside its hidden states; a base's run tells
        self._prefix: list[tuple[Tensor, Tensor] | None] = [None] * language_model.n_layers
        if prefix_P is not None and self.n_prefix:
            cache = self._cache(record=True)
            with torch.no_grad():
                model = language_model.model
                model(input_ids=prefix_P[None], use_cache=True, logits_to_keep=1, **cache_argument(model, cache))
            self._prefix = [(layer.keys, layer.values) for layer in cache.layers]

    def forward(self, base: TokenBatch, source: TokenBatch) -> SuffixForward:
        """The shared forward of a batch: base through all blocks, source up to the last layer that a cell reads."""
        model = self.language_model
        with torch.no_grad():
            base_cache = self._cache(record=True)
            base_hidden: dict[int, Tensor] = {}
            logits_BV = self._run(base, base_cache, base_hidden, model.n_layers)
            source_hidden: dict[int, Tensor] = {}
            self._run(source, self._cache(record=False), source_hidden, self.layers[-1] + 1)
        return SuffixForward(
            model,
            base,
            source,
            n_prefix=self.n_prefix,
            base_hidden=base_hidden,
            source_hidden=source_hidden,
            keys_values=[(layer.keys, layer.values) for layer in base_cache.layers],
            logits_BV=logits_BV,
            more_outputs=self._more_outputs,
        )

    def _cache(self, *, record: bool) -> Cache:
        return Cache(layers=[_FullCache(prefix, record=record) for prefix in self._prefix])

    def _run(self, prompts: TokenBatch, cache: Cache, hidden: dict[int, Tensor], n_blocks: int) -> Tensor:
        """Logits_BV of the last tokens; fills `hidden` with the swept layers' outputs_BQD; stops after `n_blocks`."""

        def keep(index: int) -> Any:
            def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
                hidden[index] = hidden_of(output)
                self._more_outputs = (None,) * (len(output) - 1) if isinstance(output, tuple) else None

            return hook

        blocks = self.language_model.blocks
        handles = [blocks[index].register_forward_hook(keep(index)) for index in self.layers]
        try:
            with replaced_forwards(dict.fromkeys(blocks[n_blocks:], _as_block(_pass_on, self._more_outputs))):
                return last_logits(
                    self.language_model.model,
                    prompts.filling,
                    input_ids=prompts.ids_BT[:, self.n_prefix :],
                    use_cache=True,
                    **cache_argument(self.language_model.model, cache),
                )
        finally:
            for handle in handles:
                handle.remove()


class SuffixForward(AbstractForward):
    """What the cells of a cohort share of one batch, and their tails."""

    def __init__(
        self,
        language_model: LanguageModel,
        base: TokenBatch,
        source: TokenBatch,
        *,
        n_prefix: int,
        base_hidden: Mapping[int, Tensor],
        source_hidden: Mapping[int, Tensor],
        keys_values: Sequence[tuple[Tensor, Tensor]],
        logits_BV: Tensor,
        more_outputs: tuple[None, ...] | None,
    ) -> None:
        self.language_model = language_model
        self.base, self.source = base, source
        self.n_prefix = n_prefix
        self.base_hidden, self.source_hidden = base_hidden, source_hidden
        self.keys_values = keys_values
        self._logits_BV = logits_BV
        self._more_outputs = more_outputs

    def base_logits(self) -> Tensor:
        """logits_BV of the plain bases, a by-product of the shared forward."""
        return self._logits_BV

    def activations(self, position: int, layers: Sequence[int]) -> tuple[Tensor, Tensor]:
        """base_CBD, source_CBD, read off the shared forward. Raises: ValueError for a position in the prefix."""
        base_CBD, source_CBD = (
            torch.stack([self._read(prompts, hidden[layer], position) for layer in layers]).float()
            for prompts, hidden in ((self.base, self.base_hidden), (self.source, self.source_hidden))
        )
        return base_CBD, source_CBD

    def _read(self, prompts: TokenBatch, hidden_BQD: Tensor, position: int) -> Tensor:
        token = prompts.token_of(position)
        if first_of(token) < self.n_prefix:
            raise ValueError(f"position {position} lies in the common prefix of {self.n_prefix} tokens")
        return at_token(hidden_BQD, token - self.n_prefix).to(self.language_model.device)

    def intervene(self, position: int, layers: Sequence[int], mix: Mix) -> Tensor:
        """logits_CBV of all cells at one position, in one call of the model."""
        base_CBD, source_CBD = self.activations(position, layers)
        mixed_CBD = mix(base_CBD, source_CBD).to(self.language_model.dtype)
        token = self.base.token_of(position)
        entering = {layer: self._entering_rows(mixed_CBD, layers, layer, token) for layer in dict.fromkeys(layers)}
        logits_RV = self._tail(first_of(token), entering, len(layers))
        return logits_RV.unflatten(0, (len(layers), base_CBD.shape[1]))

    def _entering_rows(self, mixed_CBD: Tensor, layers: Sequence[int], layer: int, token: Token) -> Tensor:
        """hidden_RQD of the cells that start after block `layer`, from the batch's first intervention on: mixed at each
        row's token, the base's own elsewhere."""
        first, count = layers.index(layer), layers.count(layer)
        mixed_CB1D = mixed_CBD[first : first + count, :, None].to(self.base_hidden[layer].device)
        if isinstance(token, int):
            later_BQD = self.base_hidden[layer][:, token - self.n_prefix + 1 :]
            return torch.cat([mixed_CB1D, later_BQD.expand(count, *later_BQD.shape)], dim=2).flatten(0, 1)
        own_BQD = self.base_hidden[layer][:, first_of(token) - self.n_prefix :]
        is_mixed_BQ1 = torch.zeros_like(own_BQD[..., :1], dtype=torch.bool)
        is_mixed_BQ1[token_index(token - first_of(token), own_BQD.device)] = True
        return torch.where(is_mixed_BQ1, mixed_CB1D, own_BQD).flatten(0, 1)

    def _tail(self, first_token: int, entering: Mapping[int, Tensor], n_cells: int) -> Tensor:
        """Last logits_RV of the rows that enter after each block, run through the later blocks together."""
        model, first, last = self.language_model, min(entering), self.language_model.n_layers - 1
        cache = Cache(layers=[_TailCache(*pair, first_token, shares=model.shares_keys) for pair in self.keys_values])
        n_tokens = entering[first].shape[1]
        filling = self.base.filling
        n_read = 1 if filling is None else int(filling.max()) + 1
        forwards: dict[int, Any] = dict.fromkeys(range(first), _pass_on)
        for index in range(first + 1, model.n_layers):
            forwards[index] = model.blocks[index].forward
        if last > first and n_tokens > n_read:
            forwards[last] = _for_last_tokens(model.blocks[last].forward, cache.layers[last], n_tokens, n_read)
        for layer, rows_RQD in entering.items():
            forwards[layer] = _hand_on(rows_RQD) if layer == first else _joined_by(forwards[layer], rows_RQD)
        replacements = {model.blocks[index]: _as_block(run, self._more_outputs) for index, run in forwards.items()}
        attention = shared_attention if model.shares_keys else own_attention
        with replaced_forwards(replacements), attention(model.model):
            return last_logits(
                model.model,
                None if filling is None else np.tile(filling, n_cells),
                inputs_embeds=torch.zeros(1, n_tokens, model.hidden_size, dtype=model.dtype, device=model.device),
                position_ids=torch.arange(first_token, first_token + n_tokens, device=model.device)[None],
                use_cache=True,
                **cache_argument(model.model, cache),
            )


def _as_block(run: Any, more_outputs: tuple[None, ...] | None) -> Any:
    """`run` as a decoder block of this family: some return their hidden states first among others."""
    if more_outputs is None:
        return run

    def forward(*args: Any, **kwargs: Any) -> tuple[Tensor | None, ...]:
        return (hidden_of(run(*args, **kwargs)), *more_outputs)

    return forward


def _pass_on(hidden: Tensor, *_args: Any, **_kwargs: Any) -> Tensor:
    return hidden


def _hand_on(rows_RQD: Tensor) -> Any:
    """A bypassed block that returns the mixed hidden states."""

    def forward(_hidden: Tensor, *_args: Any, **_kwargs: Any) -> Tensor:
        return rows_RQD

    return forward


def _joined_by(run: Any, rows_RQD: Tensor) -> Any:
    """A block after whose own forward the rows of the cells at its layer join the batch."""

    def forward(hidden: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return torch.cat([hidden_of(run(hidden, *args, **kwargs)), rows_RQD])

    return forward


def _for_last_tokens(run: Any, cache_layer: _TailCache, n_tokens: int, n_read: int) -> Any:
    """The last block, whose output is read at the last `n_read` of `n_tokens` only: keys and values of the others are
    taken as soon as the block knows them, and the rest of it runs for those that are read."""

    def forward(hidden: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        others, read = slice(None, -n_read), slice(-n_read, None)
        hidden_others, hidden_read = map(side_by_side, hidden.split([n_tokens - n_read, n_read], dim=1))
        cache_layer.stops = True
        with contextlib.suppress(_KeysAndValuesKnown):
            run(hidden_others, *_tokens(args, others, n_tokens), **_tokens(kwargs, others, n_tokens))
        output = hidden_of(run(hidden_read, *_tokens(args, read, n_tokens), **_tokens(kwargs, read, n_tokens)))
        # some models check the number of tokens, so what nobody reads is filled in, out of the gradient's way
        return torch.cat([output[:, :1].detach().expand(-1, n_tokens - n_read, -1), output], dim=1)

    return forward


def _tokens(value: Any, which: slice, n_tokens: int) -> Any:
    """A block's arguments for some of its tokens: masks 11QK, rotary angles 1QE and position ids 1Q are cut."""
    if isinstance(value, tuple):
        return tuple(_tokens(part, which, n_tokens) for part in value)
    if isinstance(value, dict):
        return {name: _tokens(part, which, n_tokens) for name, part in value.items()}
    if not isinstance(value, Tensor):
        return value
    if value.dim() == 4:
        return value[:, :, which]
    if value.dim() > 1 and value.shape[1] == n_tokens:
        return value[:, which]
    return value[which] if value.shape == (n_tokens,) else value
