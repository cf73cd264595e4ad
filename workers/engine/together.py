"""Several points at once: each point's share of a mix is put in its way while the model runs.

A **stage** is the points of one module's input or output, say some heads of one layer at some tokens: the model
computes them at the same moment, so that none of them reaches another. The model comes to one stage after the other. At
each, the base's activations are those of the run under way, which the stages before have changed; the source's are
those of a run without intervention.

The mix takes the activations of all points together, one behind the other in the points' order. At a stage it is given
the source's in place of the base's for all other points, so that there is no difference to take over there.

Shapes, by suffix: B pairs, Q tokens that are run, X columns of a module's input or output, W width of one point, U of
all points together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import accumulate, combinations, pairwise

import numpy as np
import torch
from torch import Tensor

from workers.engine.base import Mix, TokenBatch
from workers.engine.model import LanguageModel, Token, at_token, token_index
from workers.engine.sites import SiteError, name_of, tap_of
from workers.files.place import Place

Stage = tuple[int, ...]  # indices of points


class Together:
    """The points of one cell on one batch, of which the model runs the tokens from `first_token` on.

    `source` has the source's activation_BW at each point, float32.
    Raises: SiteError for a place that the model does not have, and for two points that are one token's in some prompt.
    """

    def __init__(
        self,
        model: LanguageModel,
        points: Sequence[Place],
        *,
        base: TokenBatch,
        source: Sequence[Tensor],
        mix: Mix,
        first_token: int = 0,
    ) -> None:
        self.points, self._mix, self._source = points, mix, source
        self._device, self._n_pairs = model.device, len(base)
        self.taps = [tap_of(model, point) for point in points]
        tokens = [base.token_of(point.position) for point in points]
        self._check_apart(tokens)
        self.tokens: list[Token] = [token - first_token for token in tokens]
        starts = [0, *accumulate(tap.width for tap in self.taps)]
        self._columns = [slice(*ends) for ends in pairwise(starts)]
        stages: dict[tuple[int, bool], list[int]] = {}
        for index, tap in enumerate(self.taps):
            stages.setdefault((id(tap.module), tap.is_input), []).append(index)
        self.stages: list[Stage] = [tuple(stage) for stage in stages.values()]

    def _check_apart(self, tokens: Sequence[Token]) -> None:
        for one, other in combinations(range(len(self.points)), 2):
            tap, second = self.taps[one], self.taps[other]
            shares_columns = tap.start < second.start + second.width and second.start < tap.start + tap.width
            is_one_site = tap.module is second.module and tap.is_input == second.is_input and shares_columns
            if is_one_site and np.any(np.equal(tokens[one], tokens[other])):
                where = f"positions {self.points[one].position} and {self.points[other].position}"
                raise SiteError(f"{name_of(self.points[one])}: {where} are the same token in some prompt")

    def mixed(self, stage: Stage, base: Sequence[Tensor]) -> list[Tensor]:
        """What the points of `stage` become, mixed_BW each in float32, given the base's activation_BW at them."""
        parts = list(self._source)
        for index, base_BW in zip(stage, base, strict=True):
            parts[index] = base_BW
        mixed_BU = self._mix(torch.cat(parts, dim=1)[None], torch.cat(list(self._source), dim=1)[None])[0]
        return [mixed_BU[:, self._columns[index]] for index in stage]

    def edit(self, stage: Stage) -> Callable[[Tensor], Tensor]:
        """What puts the mix in the place of a module's own values at the points of `stage`."""

        def edit(values: Tensor) -> Tensor:
            edited_BQX = values.reshape(self._n_pairs, -1, values.shape[-1]).clone()
            columns = [
                slice(self.taps[index].start, self.taps[index].start + self.taps[index].width) for index in stage
            ]
            base = [
                at_token(edited_BQX, self.tokens[index])[:, which].to(self._device, torch.float32, copy=True)
                for index, which in zip(stage, columns, strict=True)
            ]
            for index, which, mixed_BW in zip(stage, columns, self.mixed(stage, base), strict=True):
                edited_BQX[(*token_index(self.tokens[index], values.device), which)] = mixed_BW.to(values)
            return edited_BQX.view(values.shape)

        return edit

    @contextmanager
    def hooked(self, stages: Sequence[Stage]) -> Iterator[None]:
        """While open, the model's own run is changed at these stages."""
        with ExitStack() as stack:
            for stage in stages:
                stack.callback(self.taps[stage[0]].hook(self.edit(stage)).remove)
            yield
