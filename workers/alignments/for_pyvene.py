"""A learned alignment as an intervention of pyvene, for an `IntervenableModel`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from workers.alignments.learned import LearnedAlignment


def intervention(learned: LearnedAlignment, variable: int) -> Any:
    """The interchange of one variable as an instance of a class of pyvene's. Raises: ImportError without pyvene."""
    import pyvene

    class LearnedInterchange(pyvene.Intervention, pyvene.DistributedRepresentationIntervention):
        """base + (((source - base) W) * m) W^T with the learned W and m."""

        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            self.register_buffer("directions_DK", torch.from_numpy(learned.directions_DK.copy()))
            self.register_buffer("mask_K", torch.from_numpy(learned.mask_VK[variable].copy()))

        def forward(self, base: Tensor, source: Tensor, subspaces: Any = None, **_: Any) -> Tensor:
            taken = ((source - base).float() @ self.directions_DK) * self.mask_K
            return (base.float() + taken @ self.directions_DK.T).to(base.dtype)

    return LearnedInterchange(embed_dim=len(learned.directions_DK))
