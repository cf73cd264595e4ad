"""Sparse probe: can the variable be read off k neurons? A logistic regression on k coordinates of the hidden state.

The k neurons are those whose class means lie furthest apart, in units of the neuron's own deviation over all prompts:
of several classes, those with the largest variance between the classes' means.
Decoding accuracy, as for the linear probe: decodable is not causal. At the site `mlp_neurons` the coordinates are the
MLP's neurons.

Control: as many random neurons, with a classifier of their own. It does not show that the variable is nowhere else: of
neurons that say the same, only some are chosen.

Source: Gurnee et al., "Finding Neurons in a Haystack: Case Studies with Sparse Probing", TMLR 2023 (rank the neurons by
the difference of their class means, then fit a linear classifier on the first k); the ranking is on standardised
neurons here, because those of a residual stream differ in scale.

Shapes, by suffix: N training prompts, D width of the site, K neurons.
"""

from __future__ import annotations

import torch
from torch import Tensor

from workers.methods.alignment import Column
from workers.methods.base import FitContext, NotApplicable
from workers.methods.linear_probe import fit_probes
from workers.methods.logistic import standardised
from workers.methods.null_probe import generator_of
from workers.methods.settings import why_not


def fit(context: FitContext) -> list[Column]:
    """The cohort's cells from one pass over the training prompts. Raises: Interrupted, NotApplicable."""
    k = context.settings["k"]
    width = min(group.width for group in context.groups)
    if why := why_not(context.settings, width=width, n_variables=context.n_variables):
        raise NotApplicable(why)

    def best(hidden_ND: Tensor, label_N: Tensor) -> tuple[Tensor, Tensor]:
        return best_neurons(hidden_ND, label_N, k), label_N

    def any_others(hidden_ND: Tensor, label_N: Tensor) -> tuple[Tensor, Tensor]:
        order = torch.randperm(hidden_ND.shape[1], generator=generator_of(context, "random neurons"))
        return order[:k].sort().values.to(hidden_ND.device), label_N

    return fit_probes(context, best, null=any_others)


def best_neurons(hidden_ND: Tensor, label_N: Tensor, k: int) -> Tensor:
    """neurons_K in ascending order; of equally good ones those with lower indices. Labels are truth values, or the
    numbers of several classes."""
    x_ND, _, _ = standardised(hidden_ND)
    if label_N.dtype == torch.bool:
        distance_D = (x_ND[label_N].mean(dim=0) - x_ND[~label_N].mean(dim=0)).abs()
    else:
        members = [label_N == label for label in label_N.unique()]
        distance_D = sum(x_ND[member_N].mean(dim=0).square() * member_N.double().mean() for member_N in members)
    return distance_D.argsort(descending=True, stable=True)[:k].sort().values
