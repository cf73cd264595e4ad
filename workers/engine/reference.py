"""The plain way, for any architecture and as the oracle: hooks on the whole model, every token through every layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from workers.engine.base import AbstractEngine, AbstractForward, Mix, TokenBatch
from workers.engine.model import LanguageModel, at_token, hidden_of, token_index, with_hidden


class ReferenceEngine(AbstractEngine):
    """Each intervention runs the source and then the base through the whole model, one cell at a time."""

    joins_layers = False

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

    def intervene(self, position: int, layers: Sequence[int], mix: Mix) -> Tensor:
        """logits_CBV; `mix` is called once a cell, with C = 1 for a single layer only."""
        if len(layers) != 1:
            raise ValueError("the reference engine takes one cell a call")
        source_1BD = self._read(self.source, layers[0], position)[None]
        return self._intervened(layers[0], position, lambda base_BD: mix(base_BD[None], source_1BD)[0])[None]

    def base_logits(self) -> Tensor:
        """logits_BV of the plain bases."""
        with torch.no_grad():
            return self._last_logits(self.base)

    def activations(self, position: int, layers: Sequence[int]) -> tuple[Tensor, Tensor]:
        """base_CBD, source_CBD."""
        base_CBD, source_CBD = (
            torch.stack([self._read(prompts, layer, position) for layer in layers])
            for prompts in (self.base, self.source)
        )
        return base_CBD, source_CBD

    def _read(self, prompts: TokenBatch, layer: int, position: int) -> Tensor:
        """The hidden state_BD in float32 at one point of a run without intervention."""
        kept: list[Tensor] = []
        token = prompts.token_of(position)

        def keep(_module: Any, _inputs: Any, output: Any) -> None:
            kept.append(at_token(hidden_of(output), token).to(self.language_model.device).float())

        handle = self.language_model.blocks[layer].register_forward_hook(keep)
        try:
            with torch.no_grad():
                self._last_logits(prompts)
        finally:
            handle.remove()
        return kept[0]

    def _intervened(self, layer: int, position: int, replace: Callable[[Tensor], Tensor]) -> Tensor:
        token = self.base.token_of(position)

        def hook(_module: Any, _inputs: Any, output: Any) -> Any:
            plain_BTD = hidden_of(output)
            hidden_BTD = plain_BTD.clone()
            plain_BD = at_token(plain_BTD, token).to(self.language_model.device).float()
            hidden_BTD[token_index(token, plain_BTD.device)] = replace(plain_BD).to(plain_BTD)
            return with_hidden(output, hidden_BTD)

        handle = self.language_model.blocks[layer].register_forward_hook(hook)
        try:
            return self._last_logits(self.base)
        finally:
            handle.remove()

    def _last_logits(self, prompts: TokenBatch) -> Tensor:
        logits_BTV = self.language_model.model(input_ids=prompts.ids_BT, use_cache=False).logits
        return at_token(logits_BTV, -1 if prompts.filling is None else prompts.length_B - 1).float()
