"""One direction for each variable, found on hidden states and used as an intervention: what several methods share.

The interchange moves the base along the direction until its coordinate there is the source's; everything at right
angles to the direction stays the base's. The length and the sign of a direction do not matter. Of a variable with more
than two classes the same is done in the subspace of several directions.

Source: Arora, Jurafsky, Potts, "CausalGym: Benchmarking Causal Interpretability Methods on Linguistic Tasks", ACL 2024,
section 3.2 (directions by difference of means, k-means, LDA, linear probe and at random, all as interventions).

Shapes, by suffix: N training prompts, D width of the site, V variables, K classes or
directions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor

from workers.methods.activations import FitCell, fit_on_activations
from workers.methods.alignment import Alignment, CellFacts, Column
from workers.methods.base import FitContext, NotApplicable
from workers.methods.classes import classes_of, tells_values, values_of

# (hidden_ND, above_N) of the prompts that tell of one variable -> direction_D of any length
FindDirection = Callable[[Tensor, Tensor], Tensor]
# (hidden_ND, class_N) of them, classes counted from 0 -> directions_DK of any lengths and angles, one a class
FindDirections = Callable[[Tensor, Tensor], Tensor]
_LEAST_SHARE: Final = 1e-6  # a smaller share of the largest singular value is rounding


def fit_directions(context: FitContext, find: FindDirection, *, find_all: FindDirections | None = None) -> list[Column]:
    """The cohort's cells, each with the direction that `find` gives for each variable, from one pass over the training
    prompts. A variable of several classes has the subspace of what `find_all` gives, where the method has that.

    Raises: Interrupted, NotApplicable.
    """
    if find_all is not None and tells_values(context):
        return fit_on_activations(context, _of_values(context, find_all))
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


def _of_values(context: FitContext, find_all: FindDirections) -> FitCell:
    """Each variable's subspace has at most one dimension less than it has classes. Raises: NotApplicable."""
    values = values_of(context)
    n_dims = [n_classes - 1 for _, _, n_classes in values.by_variable()]
    width = min(group.width // group.n_blocks for group in context.groups)
    if sum(n_dims) > width:
        needed = f"{len(values.id_K)} values of {len(n_dims)} variables need {sum(n_dims)} dimensions"
        raise NotApplicable(f"classes: {needed}, and a vector has {width}")

    def fit_cell(hidden_ND: Tensor) -> tuple[Alignment, CellFacts]:
        directions_DK = torch.zeros(hidden_ND.shape[1], sum(n_dims), device=hidden_ND.device)
        mask_VK = torch.zeros(len(n_dims), sum(n_dims), device=hidden_ND.device)
        start = 0
        for index, (member_N, class_N, n_classes) in enumerate(values.by_variable()):
            basis_DR = orthonormal(find_all(hidden_ND[member_N], class_N), n_dims=n_classes - 1)
            own = slice(start, start + basis_DR.shape[1])
            directions_DK[:, own], mask_VK[index, own] = basis_DR, 1.0
            start += n_classes - 1
        return Alignment(directions_DK[None], mask_VK[None]), CellFacts(subspace_dim=int(mask_VK.sum()))

    return fit_cell


def orthonormal(directions_DK: Tensor, *, n_dims: int) -> Tensor:
    """basis_DR of the space of the directions, float32, R at most `n_dims`; none where all are zero."""
    basis_DK, size_K, _ = torch.linalg.svd(directions_DK.double(), full_matrices=False)
    n_there = int((size_K > _LEAST_SHARE * size_K[0]).sum())
    return basis_DK[:, : min(n_there, n_dims)].float()


def difference_of_class_means(hidden_ND: Tensor, above_N: Tensor) -> Tensor:
    """difference_D: the mean of the class above less that of the other, in float64; zero where they are equal."""
    hidden_ND = hidden_ND.double()
    return hidden_ND[above_N].mean(dim=0) - hidden_ND[~above_N].mean(dim=0)


def means_apart(hidden_ND: Tensor, class_N: Tensor) -> Tensor:
    """difference_DK of each class's mean to the mean of these means, in float64; every class has a prompt."""
    mean_KD = torch.stack([hidden_ND[class_N == label].double().mean(dim=0) for label in class_N.unique()])
    return (mean_KD - mean_KD.mean(dim=0)).T
