"""Linear probe: can the variable be read off the hidden state? A logistic regression on those of the base prompts.

For each variable, over the base prompts of the training pairs that interchange it: tell whether its value is above the
cut (truth values are cut at 1/2, numbers at their median). What is measured is decoding accuracy on held-out prompts,
and no interchange intervention accuracy: that a variable can be decoded does not make it a cause of the answer.

Source: Alain, Bengio, "Understanding intermediate layers using linear classifier probes", 2016.

Shapes, by suffix: N training prompts, D width of the site, F features, V variables.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from workers.methods.activations import classes_of, fit_on_activations
from workers.methods.alignment import CellFacts, Column, Probe
from workers.methods.base import FitContext
from workers.methods.logistic import Classifier, fit_classifier

# (hidden_ND, above_N) -> the indices of the features that a classifier may read
Choose = Callable[[Tensor, Tensor], Tensor]


def fit(context: FitContext) -> list[Column]:
    """The cohort's cells from one pass over the training prompts. Raises: Interrupted, NotApplicable."""
    return fit_probes(context, lambda hidden_ND, _above_N: torch.arange(hidden_ND.shape[1], device=context.device))


def fit_probes(context: FitContext, choose: Choose) -> list[Column]:
    """The cohort's cells as probes of the features that `choose` picks. Raises: as `fit`."""
    classes = classes_of(context)
    penalty, max_steps = context.settings["penalty"], context.settings["max_steps"]

    def fit_cell(hidden_ND: Tensor) -> tuple[Probe, CellFacts]:
        found = []
        for member_N in classes.member_VN:
            some_ND, above_N = hidden_ND[member_N], classes.above_N[member_N]
            features_F = choose(some_ND, above_N)
            classifier = fit_classifier(some_ND[:, features_F], above_N, penalty=penalty, max_steps=max_steps)
            found.append((features_F, classifier))
        return _probe(found, classes.cut_V, hidden_ND.shape[1]), _facts(found)

    return fit_on_activations(context, fit_cell)


def _probe(found: Sequence[tuple[Tensor, Classifier]], cut_V: Tensor, width: int) -> Probe:
    """One cell's probe: weights are 0 outside the features that a classifier reads."""
    weight_VD, centre_VD = torch.zeros(2, len(found), width, device=cut_V.device)
    for index, (features_F, classifier) in enumerate(found):
        weight_VD[index, features_F] = classifier.weight_F
        centre_VD[index, features_F] = classifier.centre_F
    bias_V = torch.stack([classifier.bias for _, classifier in found])
    return Probe(weight_VD[None], bias_V[None], centre_VD[None], cut_V[None])


def _facts(found: Sequence[tuple[Tensor, Classifier]]) -> CellFacts:
    classifiers = [classifier for _, classifier in found]
    loss = sum(classifier.loss for classifier in classifiers) / len(classifiers)
    steps = max(classifier.steps for classifier in classifiers)
    if not math.isfinite(loss):
        return CellFacts(steps=steps, failure=f"diverged: loss {loss}")
    n_read = len(torch.cat([features_F for features_F, _ in found]).unique())
    return CellFacts(subspace_dim=n_read, loss=loss, steps=steps)
