"""Attention weights of a model's own eager attention, read while it runs.

Shapes, by suffix: B prompts, H heads, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from workers.engine.base import TokenBatch
from workers.engine.model import LanguageModel, at_token
from workers.engine.sites import SiteError, attention_module

_ROUNDING: Final = 1e-2  # that of weights in a short dtype


@torch.no_grad()
def attention_rows(
    model: LanguageModel, prompts: TokenBatch, layers: Sequence[int], query_B: NDArray[np.int64]
) -> dict[int, Tensor]:
    """By layer the weights weight_BHT of each prompt's query at `query_B`, in float32.

    Raises: SiteError where the attention of the model gives no weights.
    """
    found: dict[int, Tensor] = {}

    def keep(layer: int) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            weights = [part for part in output if isinstance(part, Tensor) and part.dim() == 4]
            if weights:
                found[layer] = at_token(weights[-1].transpose(1, 2), query_B).float().to(model.device)

        return hook

    before = model.model.config._attn_implementation
    handles = [attention_module(model, layer).register_forward_hook(keep(layer)) for layer in layers]
    try:
        if before != "eager":
            model.model.set_attn_implementation("eager")
        model.model(input_ids=prompts.ids_BT, use_cache=False, output_attentions=True)
    finally:
        if before != "eager":
            model.model.set_attn_implementation(before)
        for handle in handles:
            handle.remove()
    if len(found) < len(layers) or not all(_are_weights(rows_BHT, query_B) for rows_BHT in found.values()):
        raise SiteError(f"{type(model.model).__name__}: its attention gives no weights that are the model's")
    return found


def _are_weights(rows_BHT: Tensor, query_B: NDArray[np.int64]) -> bool:
    """Whether each row is a distribution over the keys up to the query; a sink may take a part of it. A family whose
    attention cannot be switched runs the eager code without a mask, and its weights are then not the model's."""
    query_B11 = torch.from_numpy(query_B).to(rows_BHT.device)[:, None, None]
    behind_B1T = torch.arange(rows_BHT.shape[-1], device=rows_BHT.device) > query_B11
    is_causal = bool((rows_BHT * behind_B1T).abs().max() == 0)
    return is_causal and bool(rows_BHT.min() >= 0 and rows_BHT.sum(dim=-1).max() <= 1 + _ROUNDING)
