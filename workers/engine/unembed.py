"""The model's own way from the residual stream to logits: its final norm and its head, whatever the family does there.

There is no code per family. The model itself is called with all its blocks bypassed, and the last one hands on the
given vectors. So a norm with or without bias, tied heads, a scale of the logits and their soft-capping are what they
are in the model.

Shapes, by suffix: R rows, D hidden size, V vocabulary.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn

from workers.engine.model import LanguageModel, last_logits, replaced_forwards
from workers.engine.tail import as_block, pass_on


class Unembedding:
    """Final norm and head of one model. Gradients flow through it into what it is given."""

    def __init__(self, language_model: LanguageModel) -> None:
        self._model = language_model

    @functools.cached_property
    def _more_outputs(self) -> tuple[None, ...] | None:
        """A block's outputs beside its hidden states; one token's run tells."""
        return _more_outputs(self._model)

    def __call__(self, hidden_RD: Tensor) -> Tensor:
        """logits_RV in float32 of R vectors of the residual stream behind the last block."""
        model = self._model
        last = model.blocks[-1]
        weight = next(last.parameters())
        hidden_R1D = hidden_RD[:, None].to(weight.device, model.dtype)

        def enter(_hidden: Tensor, *_args: Any, **_kwargs: Any) -> Tensor:
            return hidden_R1D

        forwards: dict[nn.Module, Any] = dict.fromkeys(model.blocks[:-1], as_block(pass_on, self._more_outputs))
        forwards[last] = as_block(enter, self._more_outputs)
        with replaced_forwards(forwards):
            logits_RV = last_logits(
                model.model,
                None,
                input_ids=torch.zeros(1, 1, dtype=torch.int64, device=model.device),  # any: no block sees them
                use_cache=False,
            )
        return logits_RV.to(model.device)


def _more_outputs(language_model: LanguageModel) -> tuple[None, ...] | None:
    """A block's outputs beside its hidden states, as `workers.engine.tail.as_block` takes them."""
    found: list[tuple[None, ...] | None] = []

    def note(_module: nn.Module, _inputs: Any, output: Any) -> None:
        found.append((None,) * (len(output) - 1) if isinstance(output, tuple) else None)

    handle = language_model.blocks[0].register_forward_hook(note)
    try:
        with torch.no_grad():
            ids_11 = torch.zeros(1, 1, dtype=torch.int64, device=language_model.device)
            language_model.model(input_ids=ids_11, use_cache=False)
    finally:
        handle.remove()
    return found[0]
