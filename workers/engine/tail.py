"""What a tail runs in place of the model's blocks: bypassed ones, those where rows join, the inside of one, the last.

Shapes, by suffix: C cells, B pairs, R rows (cells x pairs), Q tokens of a tail, K keys, E head size, D hidden size, W
width of a site, X columns of a module's input or output.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from workers.engine.caches import KeysAndValuesKnown, TailCache
from workers.engine.model import Token, hidden_of, side_by_side, token_index
from workers.engine.sites import Tap

Rows = Callable[..., Tensor]  # a block's arguments behind its hidden states -> hidden_RQD of rows that enter there


def as_block(run: Any, more_outputs: tuple[None, ...] | None) -> Any:
    """`run` as a decoder block of this family: some return their hidden states first among others."""
    if more_outputs is None:
        return run

    def forward(*args: Any, **kwargs: Any) -> tuple[Tensor | None, ...]:
        return (hidden_of(run(*args, **kwargs)), *more_outputs)

    return forward


def pass_on(hidden: Tensor, *_args: Any, **_kwargs: Any) -> Tensor:
    return hidden


def hand_on(enter: Rows) -> Any:
    """A bypassed block that returns the rows of the cells that enter behind it."""

    def forward(_hidden: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return enter(*args, **kwargs)

    return forward


def fed_by(run: Any, rows_RQD: Tensor) -> Any:
    """The first block, run on the rows of the cells that intervene before it."""

    def forward(_hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        return run(rows_RQD, *args, **kwargs)

    return forward


def joined_by(run: Any, enter: Rows) -> Any:
    """A block behind whose own forward the rows of the cells that enter there join the batch."""

    def forward(hidden: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return torch.cat([hidden_of(run(hidden, *args, **kwargs)), enter(*args, **kwargs)])

    return forward


def known(rows_RQD: Tensor) -> Rows:
    """Rows that need nothing of the block behind which they enter."""
    return lambda *_args, **_kwargs: rows_RQD


def together(parts: Sequence[Rows]) -> Rows:
    """The rows of all `parts`, one behind the other."""
    if len(parts) == 1:
        return parts[0]
    return lambda *args, **kwargs: torch.cat([part(*args, **kwargs) for part in parts])


def for_last_tokens(run: Any, cache_layer: TailCache, n_tokens: int, n_read: int) -> Any:
    """The last block, whose output is read at the last `n_read` of `n_tokens` only: keys and values of the others are
    taken as soon as the block knows them, and the rest of it runs for those that are read."""

    def forward(hidden: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        others, read = slice(None, -n_read), slice(-n_read, None)
        hidden_others, hidden_read = map(side_by_side, hidden.split([n_tokens - n_read, n_read], dim=1))
        cache_layer.stops = True
        with contextlib.suppress(KeysAndValuesKnown):
            run(hidden_others, *_tokens(args, others, n_tokens), **_tokens(kwargs, others, n_tokens))
        output = hidden_of(run(hidden_read, *_tokens(args, read, n_tokens), **_tokens(kwargs, read, n_tokens)))
        cache_layer.kept = None
        # some models check the number of tokens, so what nobody reads is filled in, out of the gradient's way
        return torch.cat([output[:, :1].detach().expand(-1, n_tokens - n_read, -1), output], dim=1)

    return forward


@dataclass(frozen=True, slots=True, kw_only=True)
class InsideBlock:
    """Cells that intervene inside one block at one position: the block is run with the mix in the submodules' way.

    `inputs_BQD` is the base's residual stream before the block: at the token alone, and `later_BQD` is the stream
    behind the block at the tokens that follow, which the cells leave as it is; or, with `later_BQD` None, at all the
    tail's tokens. `token` is the token of each row among these, `n_earlier` the number of tokens before the tail.
    """

    run: Any
    taps: Sequence[Tap]
    mixed_CBW: Tensor
    inputs_BQD: Tensor
    later_BQD: Tensor | None
    token: Token
    n_earlier: int
    n_tokens: int

    def rows(self, *args: Any, **kwargs: Any) -> Tensor:
        """hidden_RQD behind the block, given the block's arguments for all the tail's tokens."""
        n_cells = len(self.taps)
        if self.later_BQD is not None:
            first, n_keys = slice(0, 1), self.n_earlier + 1
            args, kwargs = _tokens(args, first, self.n_tokens, n_keys), _tokens(kwargs, first, self.n_tokens, n_keys)
        hidden_RQD = side_by_side(self.inputs_BQD.expand(n_cells, *self.inputs_BQD.shape).flatten(0, 1))
        groups: dict[tuple[nn.Module, bool], list[int]] = {}
        for cell, tap in enumerate(self.taps):
            groups.setdefault((tap.module, tap.is_input), []).append(cell)
        handles = [self.taps[cells[0]].hook(self._edit(cells)) for cells in groups.values()]
        try:
            output_RQD = hidden_of(self.run(hidden_RQD, *args, **kwargs))
        finally:
            for handle in handles:
                handle.remove()
        if self.later_BQD is None:
            return output_RQD
        later_CBQD = self.later_BQD.expand(n_cells, *self.later_BQD.shape)
        return torch.cat([output_RQD.unflatten(0, (n_cells, -1)), later_CBQD], dim=2).flatten(0, 1)

    def _edit(self, cells: Sequence[int]) -> Callable[[Tensor], Tensor]:
        """What puts the mix of these cells in the place of a module's own values."""

        def edit(values: Tensor) -> Tensor:
            device, n_pairs = values.device, self.mixed_CBW.shape[1]
            values_CBTX = values.reshape(len(self.taps), n_pairs, -1, values.shape[-1])
            starts_C1W = np.array([self.taps[cell].start for cell in cells])[:, None, None]
            columns_C1W = torch.from_numpy(starts_C1W + np.arange(self.mixed_CBW.shape[2])).to(device)
            pairs_B1, token_B1 = (part[:, None] for part in token_index(self._tokens_of_rows(n_pairs), device))
            cells_C11 = torch.from_numpy(np.array(cells)[:, None, None]).to(device)
            mixed_CBW = self.mixed_CBW if len(cells) == len(self.taps) else self.mixed_CBW[cells]
            edited = values_CBTX.index_put((cells_C11, pairs_B1, token_B1, columns_C1W), mixed_CBW.to(values))
            return edited.view(values.shape)

        return edit

    def _tokens_of_rows(self, n_pairs: int) -> NDArray[np.int64]:
        return np.full(n_pairs, self.token) if isinstance(self.token, int) else self.token


def _tokens(value: Any, which: slice, n_tokens: int, n_keys: int | None = None) -> Any:
    """A block's arguments for some of its tokens: masks 11QK, rotary angles 1QE and position ids 1Q are cut; masks to
    the first `n_keys` keys, where given."""
    if isinstance(value, tuple):
        return tuple(_tokens(part, which, n_tokens, n_keys) for part in value)
    if isinstance(value, dict):
        return {name: _tokens(part, which, n_tokens, n_keys) for name, part in value.items()}
    if not isinstance(value, Tensor):
        return value
    if value.dim() == 4:
        return value[:, :, which, :n_keys]
    if value.dim() > 1 and value.shape[1] == n_tokens:
        return value[:, which]
    return value[which] if value.shape == (n_tokens,) else value
