"""One direction for each variable, found on hidden states and used as an intervention: what several methods share.

The interchange moves the base along the direction until its coordinate there is the source's; everything at right
angles to the direction stays the base's. The length and the sign of a direction do not matter.

Source: Arora, Jurafsky, Potts, "CausalGym: Benchmarking Causal Interpretability Methods on Linguistic Tasks", ACL 2024,
section 3.2 (directions by difference of means, k-means, LDA, linear probe and at random, all as interventions).

Shapes, by suffix: N training prompts, D width of the site, V variables.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from workers.methods.activations import classes_of, fit_on_activations
from workers.methods.alignment import Alignment, CellFacts, Column
from workers.methods.base import FitContext

# (hidden_ND, above_N) of the prompts that tell of one variable -> direction_D of any length
FindDirection = Callable[[Tensor, Tensor], Tensor]


def fit_directions(context: FitContext, find: FindDirection) -> list[Column]:
    """The cohort's cells, each with the direction that `find` gives for each variable, from one pass over the training
    prompts. Raises: Interrupted, NotApplicable."""
    classes = classes_of(context)
    facts = CellFacts(subspace_dim=context.n_variables)
    mask_1VV = torch.eye(context.n_variables, device=context.device)[None]

    def fit_cell(hidden_ND: Tensor) -> tuple[Alignment, CellFacts]:
        found = [
            torch.nn.functional.normalize(find(hidden_ND[member_N], classes.above_N[member_N]).double(), dim=0).float()
            for member_N in classes.member_VN
        ]
        return Alignment(torch.stack(found, dim=1)[None], mask_1VV), facts

    return fit_on_activations(context, fit_cell)


def difference_of_class_means(hidden_ND: Tensor, above_N: Tensor) -> Tensor:
    """difference_D: the mean of the class above less that of the other, in float64; zero where they are equal."""
    hidden_ND = hidden_ND.double()
    return hidden_ND[above_N].mean(dim=0) - hidden_ND[~above_N].mean(dim=0)
