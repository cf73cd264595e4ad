"""The plain way, for any architecture and as the oracle: hooks on the whole model, every token through every layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from workers.engine.base import AbstractEngine, AbstractForward, Mix, TokenBatch
from workers.engine.model import LanguageModel, at_token, token_index
from workers.engine.sites import tap_of
from workers.engine.together import Together
from workers.files.place import Place


class ReferenceEngine(AbstractEngine):
    """Each intervention runs the source and then the base through the whole model, one cell at a time."""

    joins_places = False

    def __init__(self, language_model: LanguageModel) -> None:
        self.language_model = language_model

    def forward(self, base: TokenBatch, source: TokenBatch) -> AbstractForward:
        """The batch; nothing is run yet."""
        return ReferenceForward(self.language_model, base, source)


class ReferenceForward(AbstractForward):
    """One batch, run anew for each question."""

    def __init__(self, language_model: LanguageModel, base: TokenBatch, source: TokenBatch) -> None:
        self.language_model = language_model
        self.base, self.source = base, source

    def intervene_apart(self, places: Sequence[Place], mix: Mix) -> Tensor:
        """logits_CMV; `mix` is called once a cell, with C = 1 for a single place only."""
        if len(places) != 1:
            raise ValueError("the reference engine takes one cell a call")
        source_1BW = self._read(self.source, places[0])[None]
        return self._intervened(places[0], lambda base_BW: mix(base_BW[None], source_1BW)[0])[None]

    def intervene_together(self, points: Sequence[Place], mix: Mix) -> Tensor:
        """logits_1MV of one cell; `mix` is called once a stage."""
        source = [self._read(self.source, point) for point in points]
        together = Together(self.language_model, points, base=self.base, source=source, mix=mix)
        with together.hooked(together.stages):
            return self._last_logits(self.base)[None]

    def base_logits(self) -> Tensor:
        """logits_MV of the plain bases."""
        with torch.no_grad():
            return self._last_logits(self.base)

    def read(self, places: Sequence[Place]) -> tuple[Tensor, Tensor]:
        """base_CBW, source_CBW."""
        base_CBW, source_CBW = (
            torch.stack([self._read(prompts, place) for place in places]) for prompts in (self.base, self.source)
        )
        return base_CBW, source_CBW

    def _read(self, prompts: TokenBatch, place: Place) -> Tensor:
        """The activation_BW in float32 at one place of a run without intervention."""
        kept: list[Tensor] = []
        token, tap = prompts.token_of(place.position), tap_of(self.language_model, place)
        columns = slice(tap.start, tap.start + tap.width)

        def keep(values: Tensor) -> None:
            values_BTX = values.reshape(len(prompts), -1, values.shape[-1])
            kept.append(self._copied(at_token(values_BTX, token)[:, columns]))

        handle = tap.hook(keep)
        try:
            with torch.no_grad():
                self._last_logits(prompts)
        finally:
            handle.remove()
        return kept[0]

    def _intervened(self, place: Place, replace: Callable[[Tensor], Tensor]) -> Tensor:
        token, tap = self.base.token_of(place.position), tap_of(self.language_model, place)
        columns = slice(tap.start, tap.start + tap.width)

        def edit(values: Tensor) -> Tensor:
            edited_BTX = values.reshape(len(self.base), -1, values.shape[-1]).clone()
            at = *token_index(token, values.device), columns
            edited_BTX[at] = replace(self._copied(edited_BTX[at])).to(values)
            return edited_BTX.view(values.shape)

        handle = tap.hook(edit)
        try:
            return self._last_logits(self.base)
        finally:
            handle.remove()

    def _copied(self, values: Tensor) -> Tensor:
        """The values in float32 on the model's device: a copy, because some families add to a module's output."""
        return values.to(self.language_model.device, torch.float32, copy=True)

    def _last_logits(self, prompts: TokenBatch) -> Tensor:
        logits_BTV: Tensor = self.language_model.model(input_ids=prompts.ids_BT, use_cache=False).logits
        reads = prompts.reads
        return (at_token(logits_BTV, -1) if reads is None else reads.pick(logits_BTV)).float()
