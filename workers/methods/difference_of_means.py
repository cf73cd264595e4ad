"""Difference of means: interchange along the line between the mean hidden states of a variable's two classes.

For each variable, over the base prompts of the training pairs that interchange it: w is the mean where its value is
above the cut less the mean where it is not, scaled to length 1. Truth values are cut at 1/2, numbers at their median.

Source: Marks, Tegmark, "The Geometry of Truth", 2023 (the mass-mean direction); Tigges, Hollinsworth, Geiger, Nanda,
"Linear Representations of Sentiment in Large Language Models", 2023 (interchange along it).

Shapes, by suffix: N training prompts, D width of the site, V variables.
"""

from __future__ import annotations

import torch
from torch import Tensor

from workers.methods.activations import classes_of, fit_on_activations
from workers.methods.alignment import Alignment, CellFacts, Column
from workers.methods.base import FitContext


def fit(context: FitContext) -> list[Column]:
    """The cohort's cells from one pass over the training prompts. Raises: Interrupted, NotApplicable."""
    classes = classes_of(context)
    facts = CellFacts(subspace_dim=context.n_variables)
    mask_1VV = torch.eye(context.n_variables, device=context.device)[None]

    def fit_cell(hidden_ND: Tensor) -> tuple[Alignment, CellFacts]:
        directions = [unit_difference(hidden_ND[member_N], classes.above_N[member_N]) for member_N in classes.member_VN]
        return Alignment(torch.stack(directions, dim=1)[None], mask_1VV), facts

    return fit_on_activations(context, fit_cell)


def unit_difference(hidden_ND: Tensor, above_N: Tensor) -> Tensor:
    """difference_D of the classes' means, of length 1; zero where the means are equal."""
    hidden_ND = hidden_ND.double()
    difference_D = hidden_ND[above_N].mean(dim=0) - hidden_ND[~above_N].mean(dim=0)
    return torch.nn.functional.normalize(difference_D, dim=0).float()
