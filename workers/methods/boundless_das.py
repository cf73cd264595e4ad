"""Boundless Distributed Alignment Search: learn a rotation and a boundary whose subspace carries the aligned variable.

For each cell: rotate the base's and the source's hidden state at (layer, position), take the first b * d rotated
dimensions (softly: a mask with a temperature that falls during training) from the source, rotate back, run on; learn
rotation and boundary so that the model then says the causal model's counterfactual label, with a penalty on b. The V
variables of a hypothesis get V adjacent masks of equal width b * d / V; each pair interchanges one of them.

Source: Wu, Geiger, Icard, Potts, Goodman, "Interpretability at Scale", NeurIPS 2023, section 3. Two repairs: the
temperature, set for d = 4096, scales with d (else the mask of a small model is flat), and the boundary is projected
into its range after each step rather than clamped in the graph (else a boundary at its limit has no gradient).

Shapes, by suffix: C cells at one position, D width of their sites, V variables.
"""

from __future__ import annotations

import math
from typing import Final, final

import torch
from torch import Tensor, nn

from workers.methods.alignment import Column
from workers.methods.base import FitContext
from workers.methods.training import AbstractMasks, train

_PAPER_HIDDEN_SIZE: Final = 4096


def soft_masks(boundary_C: Tensor, n_variables: int, temperature: float, width: int) -> Tensor:
    """mask_CVD: how much of each rotated dimension i = 0..D-1 variable v takes from the source.

    mask[v, i] = sigmoid((i - v w) / t) * sigmoid(((v + 1) w - i) / t) with the width w = b D / V.
    """
    index_D = torch.arange(width, device=boundary_C.device)
    width_C11 = (boundary_C * width / n_variables)[:, None, None]
    variable_V1 = torch.arange(n_variables, device=boundary_C.device)[:, None]
    above_CVD = torch.sigmoid((index_D - variable_V1 * width_C11) / temperature)
    below_CVD = torch.sigmoid(((variable_V1 + 1) * width_C11 - index_D) / temperature)
    return above_CVD * below_CVD


@final
class SoftMasks(AbstractMasks):
    """Masks with a learned boundary, ever sharper."""

    parameter: nn.Parameter

    def __init__(self, context: FitContext, n_cells: int, width: int) -> None:
        self._settings = context.settings
        self._n_variables, self._width = context.n_variables, width
        start = torch.full((n_cells,), self._settings["boundary_start"], device=context.device)
        self.parameter = nn.Parameter(start)
        self.learning_rate = self._settings["boundary_lr"]

    def at(self, share: float) -> Tensor:
        """The soft masks; their temperature, in dimensions, falls linearly and is scaled to the width."""
        start, end = self._settings["temperature_start"], self._settings["temperature_end"]
        temperature = (start + (end - start) * share) * self._width / _PAPER_HIDDEN_SIZE
        return soft_masks(self.parameter, self._n_variables, temperature, self._width)

    def penalty(self, share: float) -> Tensor:
        """So much for each unit of the boundary."""
        return self._settings["boundary_penalty"] * self.parameter

    @torch.no_grad()
    def finish_step(self) -> None:
        """Project the boundary into its range."""
        self.parameter.clamp_(self._settings["boundary_min"], 1.0)

    @property
    def n_directions(self) -> int:
        """All: the mask lets a little of each through."""
        return self._width

    def widths(self) -> list[tuple[tuple[float, ...], int]]:
        """The boundary b as b / V for each variable, and b * D rounded up."""
        n_variables = self._n_variables
        return [
            ((boundary / n_variables,) * n_variables, math.ceil(boundary * self._width))
            if math.isfinite(boundary)
            else ((boundary,), 0)
            for boundary in self.parameter.tolist()
        ]


def fit(context: FitContext) -> list[Column]:
    """The cohort's cells, trained side by side. Raises: Interrupted."""
    return train(context, lambda n_cells, width: SoftMasks(context, n_cells, width))
