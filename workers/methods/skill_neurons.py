"""Skill neurons: the neuron whose firing tells a variable's classes apart best, all by itself.

    threshold of a neuron = its mean activation over the training prompts
    predictivity          = |a - 1/2|
    a                     = share of prompts with (activation above the threshold) = (value above the cut)

A cell reads the neuron of highest predictivity on the training prompts, or where it is at one neuron, that one. One
with a below 1/2 is read the other way round. The source takes the maximum over prompt positions; here each position
is a cell.

A row's number is decoding accuracy on held-out prompts (metric `decoding`): 1/2 plus the predictivity there. The row
also has counts by class. Where the classes are not equally frequent, look at balanced accuracy.

Control: another neuron of the same site at random, read by its own threshold.

It does not show that the model uses the neuron: `interchange` at the site `mlp_neurons` tries that. Nor that no other
neuron tells as much; the best of many is high partly by luck, which held-out prompts correct.

Source: Wang et al., "Finding Skill Neurons in Pre-trained Transformer-based Language Models", EMNLP 2022, section 3.2.

Shapes, by suffix: N training prompts, D neurons of the site, V variables.
"""

from __future__ import annotations

import torch
from torch import Tensor

from workers.methods.activations import fit_on_activations
from workers.methods.alignment import CellFacts, Column
from workers.methods.base import FitContext
from workers.methods.classes import classes_of
from workers.methods.null_probe import ProbeWithNull, generator_of


def fit(context: FitContext) -> list[Column]:
    """The cohort's cells from one pass over the training prompts. Raises: Interrupted, NotApplicable."""
    classes = classes_of(context)

    def fit_cell(hidden_ND: Tensor) -> tuple[ProbeWithNull, CellFacts]:
        generator = generator_of(context, "random neuron")
        n_variables, width = len(classes.member_VN), hidden_ND.shape[1]
        weight_VD, centre_VD, null_VD = torch.zeros(3, n_variables, width, device=hidden_ND.device)
        for index, member_N in enumerate(classes.member_VN):
            centre_VD[index] = hidden_ND[member_N].mean(dim=0)
            accuracy_D = accuracies(hidden_ND[member_N], classes.above_N[member_N])
            best = int((accuracy_D - 0.5).abs().argmax())
            random = (best + 1 + int(torch.randint(max(1, width - 1), (1,), generator=generator))) % width
            for neuron, weights_VD in ((best, weight_VD), (random, null_VD)):
                weights_VD[index, neuron] = 1.0 if accuracy_D[neuron] >= 0.5 else -1.0
        bias_V = torch.zeros(n_variables, device=hidden_ND.device)
        parts = (weight_VD, bias_V, centre_VD, classes.cut_V, null_VD, bias_V)
        n_read = len(weight_VD.nonzero()[:, 1].unique())
        return ProbeWithNull(*(part[None] for part in parts)), CellFacts(subspace_dim=n_read)

    return fit_on_activations(context, fit_cell)


def accuracies(hidden_ND: Tensor, above_N: Tensor) -> Tensor:
    """accuracy_D of each neuron against its own mean."""
    fires_ND = hidden_ND > hidden_ND.mean(dim=0)
    return (fires_ND == above_N[:, None]).double().mean(dim=0)
