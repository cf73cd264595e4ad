"""Linear probe: can the variable be read off the hidden state? A logistic regression on those of the base prompts.

For each variable, over the base prompts of the training pairs that interchange it: tell whether its value is above the
cut (truth values are cut at 1/2, numbers at their median). What is measured is decoding accuracy on held-out prompts
(metric `decoding`), and no interchange intervention accuracy. The row also has counts by class, from which balanced
accuracy, F1 and Matthews' correlation follow.

Control: the same probe fitted to shuffled labels, near chance on held-out prompts.

It does not show that the variable is a cause of the answer. An untrained model is decodable too, as far as the input
reaches the place.

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
from workers.methods.null_probe import generator_of, with_null

# (hidden_ND, above_N) -> the features that a classifier may read, and the labels that it is fitted to
Choose = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
Found = tuple[Tensor, Classifier]  # the features, and what was fitted to them


def fit(context: FitContext) -> list[Column]:
    """The cohort's cells from one pass over the training prompts. Raises: Interrupted, NotApplicable."""

    def every(hidden_ND: Tensor, above_N: Tensor) -> tuple[Tensor, Tensor]:
        return torch.arange(hidden_ND.shape[1], device=context.device), above_N

    def shuffled(hidden_ND: Tensor, above_N: Tensor) -> tuple[Tensor, Tensor]:
        order = torch.randperm(len(above_N), generator=generator_of(context, "shuffled labels"))
        return every(hidden_ND, above_N[order.to(context.device)])

    return fit_probes(context, every, null=shuffled)


def fit_probes(context: FitContext, choose: Choose, *, null: Choose) -> list[Column]:
    """The cohort's cells as probes of the features that `choose` picks, with that of `null` beside each. Raises: as
    `fit`."""
    classes = classes_of(context)
    penalty, max_steps = context.settings["penalty"], context.settings["max_steps"]

    def fitted(pick: Choose, hidden_ND: Tensor, above_N: Tensor) -> Found:
        features_F, label_N = pick(hidden_ND, above_N)
        return features_F, fit_classifier(hidden_ND[:, features_F], label_N, penalty=penalty, max_steps=max_steps)

    def fit_cell(hidden_ND: Tensor) -> tuple[Probe, CellFacts]:
        found, nulls = (
            [fitted(pick, hidden_ND[member_N], classes.above_N[member_N]) for member_N in classes.member_VN]
            for pick in (choose, null)
        )
        probe = _probe(found, classes.cut_V, hidden_ND.shape[1])
        control = _probe(nulls, classes.cut_V, hidden_ND.shape[1])
        return with_null(probe, control), _facts(found)

    return fit_on_activations(context, fit_cell)


def _probe(found: Sequence[Found], cut_V: Tensor, width: int) -> Probe:
    """One cell's probe: weights are 0 outside the features that a classifier reads."""
    weight_VD, centre_VD = torch.zeros(2, len(found), width, device=cut_V.device)
    for index, (features_F, classifier) in enumerate(found):
        weight_VD[index, features_F] = classifier.weight_F
        centre_VD[index, features_F] = classifier.centre_F
    bias_V = torch.stack([classifier.bias for _, classifier in found])
    return Probe(weight_VD[None], bias_V[None], centre_VD[None], cut_V[None])


def _facts(found: Sequence[Found]) -> CellFacts:
    classifiers = [classifier for _, classifier in found]
    loss = sum(classifier.loss for classifier in classifiers) / len(classifiers)
    steps = max(classifier.steps for classifier in classifiers)
    if not math.isfinite(loss):
        return CellFacts(steps=steps, failure=f"diverged: loss {loss}")
    n_read = len(torch.cat([features_F for features_F, _ in found]).unique())
    return CellFacts(subspace_dim=n_read, loss=loss, steps=steps)
