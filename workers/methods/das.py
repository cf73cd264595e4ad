"""Distributed Alignment Search: learn a rotation whose first k dimensions carry the aligned variable.

As Boundless DAS (`boundless_das`), with k fixed in advance instead of a learned boundary: variable v of a hypothesis
has the rotated dimensions v k .. (v + 1) k - 1 to itself, wholly, from the first step on.

Source: Geiger, Wu, Potts, Icard, Goodman, "Finding Alignments Between Interpretable Causal Variables and Distributed
Neural Representations", 2023, section 3.

Shapes, by suffix: C cells at one position, D width of their sites, V variables.
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from workers.methods.alignment import Column
from workers.methods.base import FitContext, NotApplicable
from workers.methods.settings import why_not
from workers.methods.training import AbstractMasks, train


@final
class FixedMasks(AbstractMasks):
    """Hard masks of k dimensions a variable, side by side. Raises: NotApplicable when they do not fit into D."""

    def __init__(self, context: FitContext, n_cells: int, width: int) -> None:
        k, n_variables = context.settings["k"], context.n_variables
        if why := why_not(context.settings, width=width, n_variables=n_variables):
            raise NotApplicable(why)
        self._k, self._n_variables, self._n_cells = k, n_variables, n_cells
        owner_D = torch.arange(width, device=context.device) // k
        mask_VD = (owner_D == torch.arange(n_variables, device=context.device)[:, None]).float()
        self._mask_CVD = mask_VD.expand(n_cells, -1, -1)

    def at(self, share: float) -> Tensor:
        """The same masks at any time."""
        return self._mask_CVD

    def penalty(self, share: float) -> Tensor:
        """None."""
        return torch.zeros(self._n_cells, device=self._mask_CVD.device)

    def finish_step(self) -> None:
        """Nothing to project."""

    @property
    def n_directions(self) -> int:
        """k for each variable."""
        return self._k * self._n_variables

    def widths(self) -> list[tuple[tuple[float, ...], int]]:
        """No boundary; k for each variable."""
        return [((), self.n_directions)] * self._n_cells


def fit(context: FitContext) -> list[Column]:
    """The cohort's cells, trained side by side. Raises: Interrupted, NotApplicable."""
    return train(context, lambda n_cells, width: FixedMasks(context, n_cells, width))
