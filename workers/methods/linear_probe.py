"""Linear probe: can the variable be read off the hidden state? A logistic regression on those of the base prompts.

For each variable, over the base prompts of the training pairs that interchange it: tell whether its value is above the
cut (truth values are cut at 1/2, numbers at their median). A variable whose values are no numbers, such as names, or
any with `classes: each`, has a class for each value, and the regression is multinomial. What is measured is decoding
accuracy on held-out prompts (metric `decoding`), and no interchange intervention accuracy. The row also has counts by
class, from which balanced accuracy, F1 and Matthews' correlation follow.

Control: the same probe fitted to shuffled labels, near chance on held-out prompts.

It does not show that the variable is a cause of the answer. An untrained model is decodable too, as far as the input
reaches the place.

Source: Alain, Bengio, "Understanding intermediate layers using linear classifier probes", 2016.

Shapes, by suffix: N training prompts, D width of the site, F features, V variables, K
classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from workers.methods.activations import FitCell, fit_on_activations
from workers.methods.alignment import CellFacts, Column, Probe
from workers.methods.base import FitContext
from workers.methods.class_probe import ClassProbe, Scores, class_probe
from workers.methods.classes import classes_of, tells_values, values_of
from workers.methods.logistic import Classifier, Multinomial, fit_classifier, fit_multinomial
from workers.methods.null_probe import generator_of, with_null

# (hidden_ND, label_N) -> the features that a classifier may read, and the labels that it is fitted to. Labels are truth
# values, or of several values the number of each prompt's
Choose = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
Found = tuple[Tensor, Classifier]  # the features, and what was fitted to them


def fit(context: FitContext) -> list[Column]:
    """The cohort's cells from one pass over the training prompts. Raises: Interrupted, NotApplicable."""

    def every(hidden_ND: Tensor, label_N: Tensor) -> tuple[Tensor, Tensor]:
        return torch.arange(hidden_ND.shape[1], device=context.device), label_N

    def shuffled(hidden_ND: Tensor, label_N: Tensor) -> tuple[Tensor, Tensor]:
        order = torch.randperm(len(label_N), generator=generator_of(context, "shuffled labels"))
        return every(hidden_ND, label_N[order.to(context.device)])

    return fit_probes(context, every, null=shuffled)


def fit_probes(context: FitContext, choose: Choose, *, null: Choose) -> list[Column]:
    """The cohort's cells as probes of the features that `choose` picks, with that of `null` beside each. Raises: as
    `fit`."""
    fit_cell = _of_values(context, choose, null) if tells_values(context) else _of_two(context, choose, null)
    return fit_on_activations(context, fit_cell)


def _of_two(context: FitContext, choose: Choose, null: Choose) -> FitCell:
    """Probes of a value above the cut or not."""
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
        return with_null(probe, control), _facts([(features_F, one.loss, one.steps) for features_F, one in found])

    return fit_cell


def _of_values(context: FitContext, choose: Choose, null: Choose) -> FitCell:
    """Probes of which value it is."""
    values = values_of(context)
    options = {"penalty": context.settings["penalty"], "max_steps": context.settings["max_steps"]}

    def fitted(pick: Choose, hidden_ND: Tensor) -> list[tuple[Tensor, Multinomial]]:
        found = []
        for member_N, class_N, n_classes in values.by_variable():
            features_F, label_N = pick(hidden_ND[member_N], class_N)
            read_NF = hidden_ND[member_N][:, features_F]
            found.append((features_F, fit_multinomial(read_NF, label_N, n_classes=n_classes, **options)))
        return found

    def fit_cell(hidden_ND: Tensor) -> tuple[ClassProbe, CellFacts]:
        found, nulls = fitted(choose, hidden_ND), fitted(null, hidden_ND)
        of_cell, of_null = ([_scores(*one, hidden_ND.shape[1]) for one in some] for some in (found, nulls))
        facts = _facts([(features_F, one.loss, one.steps) for features_F, one in found])
        return class_probe(of_cell, of_null, values), facts

    return fit_cell


def _scores(features_F: Tensor, fitted: Multinomial, width: int) -> Scores:
    """The classifier with weights of 0 outside the features that it reads."""
    weight_KD = torch.zeros(len(fitted.bias_K), width, device=features_F.device)
    weight_KD[:, features_F] = fitted.weight_KF
    centre_D = torch.zeros(width, device=features_F.device)
    centre_D[features_F] = fitted.centre_F
    return Scores(weight_KD=weight_KD, bias_K=fitted.bias_K, centre_D=centre_D)


def _probe(found: Sequence[Found], cut_V: Tensor, width: int) -> Probe:
    """One cell's probe: weights are 0 outside the features that a classifier reads."""
    weight_VD, centre_VD = torch.zeros(2, len(found), width, device=cut_V.device)
    for index, (features_F, classifier) in enumerate(found):
        weight_VD[index, features_F] = classifier.weight_F
        centre_VD[index, features_F] = classifier.centre_F
    bias_V = torch.stack([classifier.bias for _, classifier in found])
    return Probe(weight_VD[None], bias_V[None], centre_VD[None], cut_V[None])


def _facts(found: Sequence[tuple[Tensor, float, int]]) -> CellFacts:
    """The features that each variable's classifier reads, its loss and its steps."""
    loss = sum(loss for _, loss, _ in found) / len(found)
    steps = max(steps for _, _, steps in found)
    if not math.isfinite(loss):
        return CellFacts(steps=steps, failure=f"diverged: loss {loss}")
    n_read = len(torch.cat([features_F for features_F, _, _ in found]).unique())
    return CellFacts(subspace_dim=n_read, loss=loss, steps=steps)
