"""Attention of a tail: few new tokens of many cells over the earlier keys and values that these cells share.

The model's own attention would be handed a copy of the earlier keys and values for each cell, and would compute their
gradients, which nobody needs. Here they are kept once per pair, and the queries of all cells meet them in one product.
The model calls this through transformers' attention interface while `shared_attention` is open.

Shapes, by suffix: C cells, B pairs, R rows (cells x pairs), H key heads, G query heads a key head, Q queries of a head,
N = G Q queries of a key head, M = C N, K new keys, P earlier positions, X = P + K, E head size.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import eager_mask

from workers.engine.model import side_by_side

NAME: Final = "causalsweep_tail"
# The mask has said it already, or it is about what else the model returns.
_HARMLESS: Final = frozenset(
    {"sliding_window", "is_causal", "position_ids", "cache_position", "use_cache", "dropout"}
    | {"output_attentions", "output_router_logits", "logits_to_keep"}
)


class UnsupportedAttentionError(ValueError):
    """The model asks something of its attention that is not known here."""


def with_earlier(new_RHKE: Tensor, earlier_BHPE: Tensor) -> Tensor:
    """The new keys or values, carrying those of the earlier positions to `tail_attention`."""
    new_RHKE.earlier = earlier_BHPE  # type: ignore[attr-defined]
    return new_RHKE


def tail_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The attention's output, rows x Q x heads x E, as transformers' eager attention gives it.

    `query` is rows x heads x Q x E; `key` and `value` are the new ones (`with_earlier`); the additive mask is the same
    for every row. `s_aux` is each head's sink: the score of a key that stands for nothing.
    Raises: UnsupportedAttentionError for an option that would change the result.
    """
    unknown = [name for name, given in kwargs.items() if given is not None and name not in _HARMLESS]
    if unknown:
        raise UnsupportedAttentionError(f"{type(module).__name__} passes {', '.join(unknown)} to its attention")
    earlier_keys_BHPE, earlier_values_BHPE = key.earlier, value.earlier  # type: ignore[attr-defined]
    n_rows, n_heads, n_queries, head_size = query.shape
    n_pairs, n_key_heads, n_earlier, _ = earlier_keys_BHPE.shape
    n_cells = n_rows // n_pairs
    scaling = head_size**-0.5 if scaling is None else scaling
    # 1. the queries of all cells, a pair's and key head's side by side
    query_CBHNE = (query * scaling).reshape(n_cells, n_pairs, n_key_heads, -1, head_size)
    query_BHCNE = query_CBHNE.permute(1, 2, 0, 3, 4).contiguous()
    key_BHCKE, value_BHCKE = (part.unflatten(0, (n_cells, n_pairs)).permute(1, 2, 0, 3, 4) for part in (key, value))
    # 2. scores: all of them against the shared earlier keys, each cell's against its own new ones
    scores_BHMP = query_BHCNE.flatten(2, 3) @ earlier_keys_BHPE.mT
    scores_BHMK = (query_BHCNE @ key_BHCKE.mT).flatten(2, 3)
    scores_BHMX = _masked(torch.cat([scores_BHMP, scores_BHMK], dim=-1), attention_mask, softcap)
    if s_aux is not None:
        sink_HM = s_aux.view(n_key_heads, -1).repeat_interleave(n_queries, dim=1).repeat(1, n_cells)
        sink_BHM1 = sink_HM[..., None].to(query.dtype).expand(n_pairs, -1, -1, -1)
        scores_BHMX = torch.cat([scores_BHMX, sink_BHM1], dim=-1)
    weights_BHMX = torch.softmax(scores_BHMX, dim=-1, dtype=torch.float32).to(query.dtype)
    # 3. what they attend to
    sizes = [n_earlier, key.shape[2], weights_BHMX.shape[-1] - n_earlier - key.shape[2]]
    weights_BHMP, weights_BHMK, _sinks = weights_BHMX.split(sizes, dim=-1)
    earlier_BHME = weights_BHMP @ earlier_values_BHPE
    weights_BHCNK = weights_BHMK.unflatten(2, (n_cells, -1))
    attended_BHCNE = earlier_BHME.unflatten(2, (n_cells, -1)) + weights_BHCNK @ value_BHCKE
    attended = attended_BHCNE.unflatten(3, (-1, n_queries)).permute(2, 0, 4, 1, 3, 5)
    return side_by_side(attended.reshape(n_rows, n_queries, n_heads, head_size)), None


def _masked(scores_BHMX: Tensor, mask_11QX: Tensor | None, softcap: float | None) -> Tensor:
    """The scores under soft cap and mask; query m of M = C G Q is at the mask's row m modulo Q."""
    if softcap is not None:
        scores_BHMX = torch.tanh(scores_BHMX / softcap) * softcap
    if mask_11QX is None:
        return scores_BHMX
    mask_QX = mask_11QX[0, 0, :, : scores_BHMX.shape[-1]]
    return scores_BHMX + mask_QX.repeat(scores_BHMX.shape[2] // len(mask_QX), 1)


@contextmanager
def shared_attention(model: PreTrainedModel) -> Iterator[None]:
    """While open, the model attends through `tail_attention`."""
    AttentionInterface.register(NAME, tail_attention)
    AttentionMaskInterface.register(NAME, eager_mask)
    with _attention(model, NAME):
        yield


@contextmanager
def own_attention(model: PreTrainedModel) -> Iterator[None]:
    """While open, the model attends by its own plain code, which takes masks as they are made for a batch of one."""
    with _attention(model, "eager"):
        yield


@contextmanager
def _attention(model: PreTrainedModel, name: str) -> Iterator[None]:
    before = model.config._attn_implementation
    model.config._attn_implementation = name
    try:
        yield
    finally:
        model.config._attn_implementation = before
