"""Attention knockout: the model's own run in which the last token does not attend to some tokens in some layers.

The edge from the last token to a key token is set to minus infinity in the attention's mask, so the softmax shares the
attention out among the other tokens. The model runs as a whole, with its own plain attention, which takes such masks.

Source: Geva, Bastings, Filippova, Globerson, "Dissecting Recall of Factual Associations in Auto-Regressive Language
Models", EMNLP 2023, section 5.

Shapes, by suffix: B prompts, H heads, Q queries, K keys, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from workers.engine.attention import own_attention
from workers.engine.base import TokenBatch
from workers.engine.model import LanguageModel, last_logits
from workers.engine.sites import SiteError, tap_of
from workers.files.place import Place


def last_token_of(prompts: TokenBatch) -> NDArray[np.int64]:
    """token_B: each prompt's last token."""
    return prompts.length_B - 1


@torch.no_grad()
def knocked_out(
    model: LanguageModel,
    prompts: TokenBatch,
    *,
    layers: Sequence[int],
    keys: Sequence[NDArray[np.int64]],
    head: int | None = None,
) -> Tensor:
    """The last token's logits_BV when it does not attend, in `layers`, to the tokens in `keys`, each one a prompt; in
    one head, or in all of them.

    Raises: SiteError where the model hands its attention no mask that can be changed.
    """
    last_B = last_token_of(prompts)

    def cut(module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        mask_B1QK = named.get("attention_mask")
        if not isinstance(mask_B1QK, Tensor) or mask_B1QK.dim() != 4 or not mask_B1QK.is_floating_point():
            kind = type(module).__name__
            raise SiteError(f"{kind} is given no mask of attention scores; `attention_knockout` needs one")
                f"{type(module).__name__} is given no mask of attention scores; `attention_knockout` needs one"
            )
        n_heads = mask_B1QK.shape[1] if head is None else int(model.model.config.get_text_config().num_attention_heads)
        mask_BHQK = mask_B1QK.expand(len(prompts), n_heads, -1, -1).clone()
        rows = torch.arange(len(prompts), device=mask_BHQK.device)
        heads: Any = slice(None) if head is None else head
        for key_B in keys:
            at = torch.from_numpy(last_B).to(rows), torch.from_numpy(key_B).to(rows)
            mask_BHQK[rows, heads, *at] = torch.finfo(mask_BHQK.dtype).min
        return arguments, {**named, "attention_mask": mask_BHQK}

    attentions = [tap_of(model, Place(layer=layer, position=0, site="attention_output")).module for layer in layers]
    handles = [module.register_forward_pre_hook(cut, with_kwargs=True) for module in attentions]
    try:
        with own_attention(model.model):
            return last_logits(model.model, prompts.filling, input_ids=prompts.ids_BT, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
