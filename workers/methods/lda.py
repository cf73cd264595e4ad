"""LDA: interchange along the direction that tells a variable's two classes best apart, given how states vary in them.

For each variable, over the base prompts of the training pairs that interchange it: w = S^-1 (m1 - m0), m1 and m0 the
classes' means and S = (1 - s) S_w + s tr(S_w) / D I their common covariance, shrunk by s = `shrinkage` so that it can
be inverted where there are fewer prompts than dimensions. w is then scaled to length 1. A variable whose values are no
numbers, such as names, or any with `classes: each`, has the subspace of S^-1 (m_k - m) over its values k.

Unit: IIA, the share of pairs. Control of its own: a random direction. The direction that separates best is not the one
along which the classes lie apart: S^-1 turns it away from whatever varies within a class, so that its IIA may be below
that of the difference of means where both read the variable equally well.

Source: Fisher, "The use of multiple measurements in taxonomic problems", 1936; Arora, Jurafsky, Potts, "CausalGym",
ACL 2024, section 3.2; Ledoit, Wolf, "A well-conditioned estimator for large-dimensional covariance matrices", 2004 (the
shrunk form); Rao, "The utilization of multiple measurements in problems of biological classification", 1948 (several
classes).

Shapes, by suffix: N training prompts, D width of the site, K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from workers.methods.alignment import Column
from workers.methods.base import FitContext
from workers.methods.directions import difference_of_class_means, fit_directions, means_apart


def fit(context: FitContext) -> list[Column]:
    """The cohort's cells from one pass over the training prompts. Raises: Interrupted, NotApplicable."""
    shrinkage = context.settings["shrinkage"]
    return fit_directions(
        context,
        lambda hidden_ND, above_N: discriminant(hidden_ND, above_N, shrinkage),
        find_all=lambda hidden_ND, class_N: discriminants(hidden_ND, class_N, shrinkage),
    )


def discriminant(hidden_ND: Tensor, above_N: Tensor, shrinkage: float) -> Tensor:
    """direction_D in float64; the difference of means where the states do not vary within a class."""
    difference_D = difference_of_class_means(hidden_ND, above_N)
    return _unmixed(difference_D[:, None], hidden_ND, above_N, shrinkage)[:, 0]


def discriminants(hidden_ND: Tensor, class_N: Tensor, shrinkage: float) -> Tensor:
    """directions_DK in float64, one for each of several classes: S^-1 (m_k - m)."""
    return _unmixed(means_apart(hidden_ND, class_N), hidden_ND, class_N, shrinkage)


def _unmixed(difference_DK: Tensor, hidden_ND: Tensor, label_N: Tensor, shrinkage: float) -> Tensor:
    """S^-1 times the differences; these alone where the states do not vary within a class."""
    within_ND = hidden_ND.double().clone()
    for label in label_N.unique():
        member_N = label_N == label
        within_ND[member_N] = within_ND[member_N] - within_ND[member_N].mean(dim=0)
    covariance_DD = within_ND.T @ within_ND / len(within_ND)
    mean_variance = covariance_DD.diagonal().mean()
    if not mean_variance > 0:
        return difference_DK
    identity_DD = torch.eye(len(difference_DK), dtype=torch.float64, device=hidden_ND.device)
    shrunk_DD = (1 - shrinkage) * covariance_DD + shrinkage * mean_variance * identity_DD
    return torch.linalg.solve(shrunk_DD, difference_DK)
