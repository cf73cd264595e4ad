"""One forward of some prompts serves every cell, and every reading of a job, that reads them.

Shapes, by suffix: C cells at one position, B prompts, N all prompts, W width of their sites.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from workers.data.pairs import PairSet
from workers.engine.base import AbstractEngine, TokenBatch
from workers.engine.model import LanguageModel
from workers.engine.unembed import Unembedding
from workers.files.place import AnyPlace
from workers.methods.reading import Run


class HiddenStates:
    """The hidden states of B prompts. Half of them go through a forward as its bases, half as its sources."""

    def __init__(self, engine: AbstractEngine, prompts: TokenBatch) -> None:
        n_prompts = len(prompts)
        n_first = -(-n_prompts // 2)
        self._n_twice = 2 * n_first - n_prompts  # 1 for an odd number: the middle one goes through twice
        self._forward = engine.forward(prompts.rows(0, n_first), prompts.rows(n_prompts - n_first, n_prompts))

    def at(self, places: Sequence[AnyPlace]) -> Tensor:
        """hidden_CBW in float32 at places of one width."""
        first_CBW, second_CBW = self._forward.activations(places)
        return torch.cat([first_CBW, second_CBW[:, self._n_twice :]], dim=1)


class PromptStates:
    """The base prompts of `pairs` and what the model makes of them at `places`, a batch of `micro_batch` at a time.

    `engine` makes the engine for these places once there is something to run. With `keeps` the first pass over the
    prompts keeps every activation, and later ones run nothing. `timed` times what runs.
    """

    def __init__(
        self,
        engine: Callable[[], AbstractEngine],
        pairs: PairSet,
        places: Sequence[AnyPlace],
        *,
        model: LanguageModel,
        micro_batch: int,
        keeps: bool = False,
        timed: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self.pairs = pairs
        self.places = frozenset(places)
        self.n_forwards = 0  # batches that went through the model
        self._make_engine, self.model, self._keeps, self._timed = engine, model, keeps, timed
        self._micro_batch = micro_batch
        self._kept: dict[AnyPlace, Tensor] | None = None  # activation_NW of each place
        self._unembed = Unembedding(model)

    @functools.cached_property
    def _engine(self) -> AbstractEngine:
        return self._make_engine()

    @property
    def is_kept(self) -> bool:
        """Whether a pass over the prompts runs nothing."""
        return self._kept is not None

    def runs(self) -> Iterator[tuple[slice, Run]]:
        """The prompts in batches, each with its rows. A reader must have read a batch before it takes the next one."""
        prompts = TokenBatch.of(self.pairs.base, self.model.device)
        new: list[dict[AnyPlace, Tensor]] = []
        n_batches = -(-len(prompts) // self._micro_batch)
        ends = [index * len(prompts) // n_batches for index in range(n_batches + 1)]  # none of one prompt alone
        for rows in (slice(*pair) for pair in itertools.pairwise(ends)):
            part = prompts.rows(rows.start, rows.stop)
            states = self._states(part, rows, new)
            pairs = self.pairs.take(rows)
            yield rows, Run(model=self.model, unembed=self._unembed, prompts=part, pairs=pairs, at=states)
        if new:
            self._kept = {place: torch.cat([one[place] for one in new]) for place in self.places}

    def _states(
        self, part: TokenBatch, rows: slice, new: list[dict[AnyPlace, Tensor]]
    ) -> Callable[[Sequence[AnyPlace]], Tensor]:
        """What gives the activations of a batch: kept ones, or those of a forward. Without places nothing is run."""
        if not self.places:
            return _nothing
        if self._kept is not None:
            kept = self._kept
            return lambda places: torch.stack([kept[place][rows] for place in places])
        with self._timed(), torch.no_grad():
            hidden = HiddenStates(self._engine, part)
        self.n_forwards += 1
        if self._keeps:
            new.append({place: hidden.at([place])[0].clone() for place in self.places})
        return hidden.at


def _nothing(places: Sequence[AnyPlace]) -> Tensor:
    """Raises: ValueError; the settings of a method that reads activations name their places."""
    raise ValueError(f"the method's settings say that it reads no activation; it asks for those at {places}")
