"""Attention knockout: the model's own run in which the last token does not attend to some tokens in some layers.

The edge from the last token to a key token is set to minus infinity in the attention's mask, so the softmax shares the
attention out among the other tokens. The model runs as a whole, with its own plain attention, which takes such masks
and gives its weights: they must be zero at every edge that was cut.

Source: Geva, Bastings, Filippova, Globerson, "Dissecting Recall of Factual Associations in Auto-Regressive Language
Models", EMNLP 2023, section 5.

Shapes, by suffix: B prompts, H heads, Q queries, K keys, T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from workers.engine.attention import own_attention
from workers.engine.base import TokenBatch
from workers.engine.model import LanguageModel, last_logits
from workers.engine.sites import SiteError, attention_module


@torch.no_grad()
def knocked_out(
    model: LanguageModel, prompts: TokenBatch, *, layers: Sequence[int], cut_BT: Tensor, head: int | None = None
) -> Tensor:
    """The last token's logits_BV when it does not attend, in `layers`, to the tokens that `cut_BT` has of each prompt;
    in one head, or in all of them. Prompts have one-token answers.

    Raises: SiteError where the attention of the model takes no such mask.
    """
    at_B = torch.arange(len(prompts), device=cut_BT.device)
    last_B = torch.from_numpy(prompts.length_B - 1).to(cut_BT.device)
    n_heads = int(model.model.config.get_text_config().num_attention_heads)
    heads = slice(None) if head is None else slice(head, head + 1)

    def cut(module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        mask = named.get("attention_mask")
        if not isinstance(mask, Tensor) or mask.dim() != 4 or not mask.is_floating_point():
            raise SiteError(f"{type(module).__name__} is given no mask of attention scores")
        mask_BHQK = mask.expand(len(prompts), n_heads, -1, -1).clone()
        row_BHK = mask_BHQK[at_B, :, last_B]
        row_BHK[:, heads] = row_BHK[:, heads].masked_fill(cut_BT[:, None].to(mask.device), torch.finfo(mask.dtype).min)
        mask_BHQK[at_B, :, last_B] = row_BHK
        return arguments, {**named, "attention_mask": mask_BHQK}

    def check(module: nn.Module, _inputs: Any, output: Any) -> None:
        weights = [part for part in output if isinstance(part, Tensor) and part.dim() == 4]
        if not weights or (weights[-1][at_B, :, last_B][:, heads] * cut_BT[:, None].to(weights[-1].device)).any():
            raise SiteError(f"{type(module).__name__} does not heed a mask of attention scores")

    modules = [attention_module(model, layer) for layer in layers]
    handles = [module.register_forward_pre_hook(cut, with_kwargs=True) for module in modules]
    handles += [module.register_forward_hook(check) for module in modules]
    try:
        with own_attention(model.model):
            return last_logits(model.model, prompts.reads, input_ids=prompts.ids_BT, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
