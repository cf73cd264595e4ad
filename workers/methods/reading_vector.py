"""Reading vector: the direction in which the hidden states of the two classes of a variable differ most.

    v = first principal component of (-1)^i (h(a_i) - h(b_i)), recentred

with the i-th training prompt a_i whose value lies above the cut and the i-th one b_i whose value does not. The order in
a pair alternates, so that recentring does not take the difference itself away. The sign of v is that of the training
labels, and a prompt is said to lie above where h . v is nearer to the mean of that class.

A variable whose values are no numbers, such as names, or any with `classes: each`, has such a vector for each value,
against all others. A prompt is said to have the value whose score is highest: 1 at the mean of the value's prompts
along its vector, -1 at that of the others.

A row's number is decoding accuracy: the share of held-out prompts that v reads right (metric `decoding`). The row also
has counts by class, from which balanced accuracy, F1 and Matthews' correlation follow. The vector is saved as `weight`.

Control: a random direction of the same length, with a sign and a cut of its own. In many dimensions it reads more than
chance where the classes lie apart in many of them.

It does not show that the model uses the direction, nor that the direction is the variable's alone: whatever varies most
between the classes is in it. `pca` and `difference_of_means` intervene along such directions.

Source: Zou et al., "Representation Engineering: A Top-Down Approach to AI Transparency", 2023, section 3.1 (Linear
Artificial Tomography; `rep_readers.PCARepReader` of its code).

Shapes, by suffix: N training prompts, D width of the site, V variables, K values.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from workers.methods.activations import FitCell, fit_on_activations
from workers.methods.alignment import CellFacts, Column
from workers.methods.base import FitContext
from workers.methods.class_probe import ClassProbe, Scores, class_probe
from workers.methods.classes import classes_of, tells_values, values_of
from workers.methods.null_probe import ProbeWithNull, generator_of, threshold_probe
from workers.methods.pca import principal_components


def fit(context: FitContext) -> list[Column]:
    """The cohort's cells from one pass over the training prompts. Raises: Interrupted, NotApplicable."""
    return fit_on_activations(context, _of_values(context) if tells_values(context) else _of_two(context))


def _of_two(context: FitContext) -> FitCell:
    """A vector for each variable."""
    classes = classes_of(context)

    def fit_cell(hidden_ND: Tensor) -> tuple[ProbeWithNull, CellFacts]:
        generator = generator_of(context, "random direction")
        found, nulls = [], []
        for member_N in classes.member_VN:
            some_ND, above_N = hidden_ND[member_N], classes.above_N[member_N]
            found.append(threshold_probe(reading_direction(some_ND, above_N), some_ND, above_N))
            nulls.append(threshold_probe(random_direction(hidden_ND, generator), some_ND, above_N))
        weight_VD, null_VD = (torch.stack([weight for weight, _ in part]) for part in (found, nulls))
        bias_V, null_V = (torch.stack([bias for _, bias in part]) for part in (found, nulls))
        centre_VD = torch.zeros_like(weight_VD)
        parts = (weight_VD, bias_V, centre_VD, classes.cut_V, null_VD, null_V)
        return ProbeWithNull(*(part[None] for part in parts)), CellFacts(subspace_dim=len(found))

    return fit_cell


def _of_values(context: FitContext) -> FitCell:
    """A vector for each value of each variable, against the others."""
    values = values_of(context)

    def fit_cell(hidden_ND: Tensor) -> tuple[ClassProbe, CellFacts]:
        generator = generator_of(context, "random direction")
        found, nulls = [], []
        for member_N, class_N, n_classes in values.by_variable():
            some_ND = hidden_ND[member_N]
            is_it_KN = class_N == torch.arange(n_classes, device=class_N.device)[:, None]
            vectors = [reading_direction(some_ND, is_it_N) for is_it_N in is_it_KN]
            randoms = [random_direction(hidden_ND, generator) for _ in vectors]
            found.append(one_against_the_rest(vectors, some_ND, is_it_KN))
            nulls.append(one_against_the_rest(randoms, some_ND, is_it_KN))
        return class_probe(found, nulls, values), CellFacts(subspace_dim=len(values.id_K))

    return fit_cell


def random_direction(hidden_ND: Tensor, generator: torch.Generator) -> Tensor:
    """direction_D of length 1."""
    random_D = torch.randn(hidden_ND.shape[1], generator=generator).to(hidden_ND.device)
    return torch.nn.functional.normalize(random_D, dim=0)


def one_against_the_rest(vectors: Sequence[Tensor], hidden_ND: Tensor, is_it_KN: Tensor) -> Scores:
    """The classifier whose score of a value is 1 at the mean of its prompts along its vector and -1 at that of the
    rest. The weights are the vectors, but for their lengths."""
    weights, biases = [], []
    for vector_D, is_it_N in zip(vectors, is_it_KN, strict=True):
        along_N = hidden_ND.double() @ vector_D.double()
        own, rest = along_N[is_it_N].mean(), along_N[~is_it_N].mean()
        gap = own - rest
        scale = torch.where(gap.abs() > 0, 2 / gap, torch.zeros_like(gap))
        weights.append((scale * vector_D.double()).float())
        biases.append((-scale * (own + rest) / 2).float())
    centre_D = torch.zeros(hidden_ND.shape[1], device=hidden_ND.device)
    return Scores(weight_KD=torch.stack(weights), bias_K=torch.stack(biases), centre_D=centre_D)


def reading_direction(hidden_ND: Tensor, above_N: Tensor) -> Tensor:
    """direction_D of length 1."""
    above_ND, below_ND = hidden_ND[above_N], hidden_ND[~above_N]
    n_pairs = min(len(above_ND), len(below_ND))
    difference_ND = above_ND[:n_pairs] - below_ND[:n_pairs]
    difference_ND[1::2] *= -1
    return principal_components(difference_ND, 1)[:, 0]
