"""k-means: interchange along the line between the two clusters that the hidden states of the prompts fall into.

For each variable, over the base prompts of the training pairs that interchange it: 2-means without labels, and
w = (c1 - c2) / |c1 - c2|, c1 and c2 the centres. The clusters begin as the two sides of the mean along the first
principal component, so the result is the same every time; Lloyd's steps are repeated until no prompt changes sides.

Unit: IIA, the share of pairs. Control of its own: a random direction. The labels are never looked at, so a high IIA
says that the variable is most of what varies there; a low one does not say that it is absent.

Source: Arora, Jurafsky, Potts, "CausalGym", ACL 2024, section 3.2; Lloyd, "Least squares quantization in PCM", 1982;
Su, Dy, "In search of deterministic methods for initializing K-means", 2007 (PCA-Part, the beginning).

Shapes, by suffix: N training prompts, D width of the site.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from workers.methods.alignment import Column
from workers.methods.base import FitContext
from workers.methods.directions import difference_of_class_means, fit_directions
from workers.methods.pca import principal_components

_MOST_STEPS: Final = 300  # Lloyd's steps; a few dozen are enough


def fit(context: FitContext) -> list[Column]:
    """The cohort's cells from one pass over the training prompts. Raises: Interrupted, NotApplicable."""
    return fit_directions(context, lambda hidden_ND, _above_N: between_clusters(hidden_ND))


def between_clusters(hidden_ND: Tensor) -> Tensor:
    """difference_D of the centres of the two clusters, in float64; zero where all states are equal."""
    hidden_ND = hidden_ND.double()
    first_D = principal_components(hidden_ND, 1)[:, 0].double()
    is_one_N = (hidden_ND - hidden_ND.mean(dim=0)) @ first_D > 0
    for _ in range(_MOST_STEPS):
        if is_one_N.all() or not is_one_N.any():
            return torch.zeros_like(hidden_ND[0])
        one_D, other_D = hidden_ND[is_one_N].mean(dim=0), hidden_ND[~is_one_N].mean(dim=0)
        nearer_N = (hidden_ND - one_D).square().sum(dim=1) < (hidden_ND - other_D).square().sum(dim=1)
        if torch.equal(nearer_N, is_one_N):
            break
        is_one_N = nearer_N
    return difference_of_class_means(hidden_ND, is_one_N)
