"""Probe direction: interchange along the weights of a linear probe of the variable.

For each variable, over the base prompts of the training pairs that interchange it: the logistic regression of
`linear_probe`, and w = weights / |weights| in the space of the hidden states. Of a variable with several classes it is
the subspace of the weights of all classes, less their mean.

Unit: IIA, the share of pairs. Control of its own: a random direction. It asks whether what a probe reads is also what
the model uses: `linear_probe` says how well the variable can be read there, and this whether the reading's direction is
a cause. A low IIA does not say that no direction is.

Source: Arora, Jurafsky, Potts, "CausalGym: Benchmarking Causal Interpretability Methods on Linguistic Tasks", ACL 2024,
section 3.2.

Shapes, by suffix: N training prompts, D width of the site.
"""

from __future__ import annotations

from torch import Tensor

from workers.methods.alignment import Column
from workers.methods.base import FitContext
from workers.methods.directions import fit_directions
from workers.methods.logistic import fit_classifier, fit_multinomial


def fit(context: FitContext) -> list[Column]:
    """The cohort's cells from one pass over the training prompts. Raises: Interrupted, NotApplicable."""
    penalty, max_steps = context.settings["penalty"], context.settings["max_steps"]

    def weights(hidden_ND: Tensor, above_N: Tensor) -> Tensor:
        return fit_classifier(hidden_ND, above_N, penalty=penalty, max_steps=max_steps).weight_F

    def weights_of_all(hidden_ND: Tensor, class_N: Tensor) -> Tensor:
        n_classes = int(class_N.max()) + 1
        found = fit_multinomial(hidden_ND, class_N, n_classes=n_classes, penalty=penalty, max_steps=max_steps)
        return (found.weight_KF - found.weight_KF.mean(dim=0)).T

    return fit_directions(context, weights, find_all=weights_of_all)
