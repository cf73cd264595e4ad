"""The final norm of any family with its scale frozen: a linear map, found by trying the norm and not by its name.

    N(x) = a * C(x) / s(x) + b        C(x) = x, or x less its mean; s(x) a positive number that grows with x

N(0) is b. On a vector of +k, -k, +k, ..., whose mean is 0, C changes nothing and s is k for a large k, which gives a.
On a constant vector N is b where C subtracts the mean. s(x) is then what makes a * C(x) / s(x) the norm's own output.

Shapes, by suffix: B prompts, D hidden size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from workers.engine.model import LanguageModel
from workers.engine.unembed import Unembedding
from workers.methods.base import NotApplicable

_LARGE: Final = 1e3  # so large that a norm's epsilon does not count
_TOLERANCE: Final = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class FinalNorm:
    """The norm at B vectors: `gain_D` is a, `bias_D` is b, `scale_B` the frozen s."""

    gain_D: Tensor
    bias_D: Tensor
    scale_B: Tensor
    subtracts_mean: bool

    @classmethod
    @torch.no_grad()
    def of(cls, model: LanguageModel, unembed: Unembedding, final_BD: Tensor) -> FinalNorm:
        """The norm at these vectors of the stream behind the last block.

        Raises: NotApplicable where what lies before the head is no such norm.
        """
        n, width = len(final_BD), final_BD.shape[1]
        signs_D = torch.ones(width, device=final_BD.device)
        signs_D[1::2] = -1
        tried = torch.stack([torch.zeros_like(signs_D), _LARGE * signs_D, torch.full_like(signs_D, _LARGE)])
        before_head = read_by_head(model, unembed, torch.cat([final_BD, tried]))
        if before_head.shape[1] != width:
            raise NotApplicable(
                f"logit_attribution: the head reads {before_head.shape[1]} numbers of a stream of {width}"
            )
        normed_BD, bias_D, signed_D, constant_D = (
            before_head[:n],
            before_head[n],
            before_head[n + 1],
            before_head[n + 2],
        )
        gain_D = (signed_D - bias_D) * signs_D
        subtracts_mean = bool((constant_D - bias_D).abs().max() < _TOLERANCE * gain_D.abs().max())
        centred_BD = final_BD - final_BD.mean(dim=1, keepdim=True) if subtracts_mean else final_BD
        plain_BD, target_BD = gain_D * centred_BD, normed_BD - bias_D
        scale_B = plain_BD.square().sum(dim=1) / (plain_BD * target_BD).sum(dim=1)
        found = cls(gain_D=gain_D, bias_D=bias_D, scale_B=scale_B, subtracts_mean=subtracts_mean)
        if not (found.linear(final_BD) - target_BD).abs().max() <= _TOLERANCE * target_BD.abs().max():
            raise NotApplicable(
                "logit_attribution: what lies between the last block and the head is no norm with one scale"
            )
        return found

    def linear(self, component_BD: Tensor) -> Tensor:
        """a * C(c) / s of each component, in float32: what it adds to the norm's output."""
        centred_BD = component_BD - component_BD.mean(dim=1, keepdim=True) if self.subtracts_mean else component_BD
        return self.gain_D * centred_BD / self.scale_B[:, None]


def read_by_head(model: LanguageModel, unembed: Unembedding, hidden_RD: Tensor) -> Tensor:
    """What the head is shown of R vectors behind the last block, in float32."""
    found: list[Tensor] = []

    def keep(_head: nn.Module, arguments: tuple[Any, ...]) -> None:
        found.append(arguments[0])

    head = model.model.get_output_embeddings()
    handle = head.register_forward_pre_hook(keep)
    try:
        unembed(hidden_RD)
    finally:
        handle.remove()
    return found[-1].reshape(len(hidden_RD), -1).float().to(hidden_RD.device)
