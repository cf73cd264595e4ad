"""LDA: interchange along the direction that tells a variable's two classes best apart, given how states vary in them.

For each variable, over the base prompts of the training pairs that interchange it: w = S^-1 (m1 - m0), m1 and m0 the
classes' means and S = (1 - s) S_w + s tr(S_w) / D I their common covariance, shrunk by s = `shrinkage` so that it can
be inverted where there are fewer prompts than dimensions. w is then scaled to length 1.

Unit: IIA, the share of pairs. Control of its own: a random direction. The direction that separates best is not the one
along which the classes lie apart: S^-1 turns it away from whatever varies within a class, so that its IIA may be below
that of the difference of means where both read the variable equally well.

Source: Fisher, "The use of multiple measurements in taxonomic problems", 1936; Arora, Jurafsky, Potts, "CausalGym",
ACL 2024, section 3.2; Ledoit, Wolf, "A well-conditioned estimator for large-dimensional covariance matrices", 2004 (the
shrunk form).

Shapes, by suffix: N training prompts, D width of the site.
"""

from __future__ import annotations

import torch
from torch import Tensor

from workers.methods.alignment import Column
from workers.methods.base import FitContext
from workers.methods.directions import difference_of_class_means, fit_directions


def fit(context: FitContext) -> list[Column]:
    """The cohort's cells from one pass over the training prompts. Raises: Interrupted, NotApplicable."""
    shrinkage = context.settings["shrinkage"]
    return fit_directions(context, lambda hidden_ND, above_N: discriminant(hidden_ND, above_N, shrinkage))


def discriminant(hidden_ND: Tensor, above_N: Tensor, shrinkage: float) -> Tensor:
    """direction_D in float64; the difference of means where the states do not vary within a class."""
    hidden_ND = hidden_ND.double()
    difference_D = difference_of_class_means(hidden_ND, above_N)
    within_ND = hidden_ND.clone()
    for member_N in (above_N, ~above_N):
        within_ND[member_N] -= hidden_ND[member_N].mean(dim=0)
    covariance_DD = within_ND.T @ within_ND / len(within_ND)
    mean_variance = covariance_DD.diagonal().mean()
    if not mean_variance > 0:
        return difference_D
    identity_DD = torch.eye(len(difference_D), dtype=torch.float64, device=hidden_ND.device)
    shrunk_DD = (1 - shrinkage) * covariance_DD + shrinkage * mean_variance * identity_DD
    return torch.linalg.solve(shrunk_DD, difference_D)
