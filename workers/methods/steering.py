"""Steering by activation addition: a vector is added to the hidden state, `coefficient` times.

    h <- h + c (mean h(p+) - mean h(p-))

`contrast` says between which prompts the vector leads:

    answers   p+ are the training prompts whose own right answer is the pair's label, p- all others. The same vector is
              added to every prompt that is steered to this answer.
    pairs     p+ is the pair's source and p- its base; c = 1 is then the interchange of the whole vector.

Unit: the share of pairs on which the steered model gives the label, and in `sum_label_logprob` beside
`sum_label_logprob_none` the change of the label's log-probability, in nats. c = 0 changes nothing. Control of its own:
a vector of the same length in a random direction. It does not show that the model itself moves along this vector when
it computes the answer: a large coefficient takes the state to where no prompt does, and any vector that writes the
answer's token directly steers. Read the maps of several coefficients together.

Source: Turner et al., "Steering Language Models With Activation Engineering", 2023, section 3 (one pair of prompts);
Panickssery et al., "Steering Llama 2 via Contrastive Activation Addition", 2023 (means over prompts).

Shapes, by suffix: C cells at one position, N training prompts, D width of the site, A answers.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from workers.data.pairs import UNKNOWN
from workers.methods.activations import fit_on_activations
from workers.methods.alignment import CellFacts, CellGroup, Column, PairSteering, Steering
from workers.methods.base import FitContext, NotApplicable

ONE_TOKEN: Final = "steering with `contrast: answers` needs answers of one token (`match: first` takes one)"


def fit(context: FitContext) -> list[Column]:
    """The cohort's cells from one pass over the training prompts. Raises: Interrupted, NotApplicable."""
    coefficient = float(context.settings["coefficient"])
    if context.settings["contrast"] == "pairs":
        context.monitor.advance(cell_steps=len(context.cohort.cells), pairs=0)
        return [_by_pairs(context, group, coefficient) for group in context.groups]
    if context.train.rest or context.validation.rest:
        raise NotApplicable(ONE_TOKEN)
    answer_N = _answers(context)
    answer_A = answer_N[answer_N != UNKNOWN].unique()
    if len(answer_A) < 2:
        raise NotApplicable("steering needs two answers among the training prompts, to lead from one to the other")

    def fit_cell(hidden_ND: Tensor) -> tuple[Steering, CellFacts]:
        vectors = [_contrast(hidden_ND, answer_N == answer, answer_N != UNKNOWN) for answer in answer_A]
        coefficient_C = torch.tensor([coefficient], device=context.device)
        return Steering(torch.stack(vectors)[None], answer_A[None], coefficient_C), CellFacts(subspace_dim=1)

    return fit_on_activations(context, fit_cell)


def _by_pairs(context: FitContext, group: CellGroup, coefficient: float) -> Column:
    n_cells = len(group.cells)
    return Column(
        position=group.position,
        cells=group.cells,
        learned=PairSteering(
            torch.full((n_cells,), coefficient, device=context.device),
            torch.zeros(n_cells, 0, group.width, device=context.device),
        ),
        facts=(CellFacts(subspace_dim=group.width),) * n_cells,
    )


def _answers(context: FitContext) -> Tensor:
    """answer_N: each training base's own right answer. Raises: NotApplicable where none is known."""
    if context.train.base_answer_B is None or (context.train.base_answer_B == UNKNOWN).all():
        raise NotApplicable("steering with `contrast: answers` needs each pair's base_answer, which the data lack")
    return torch.from_numpy(context.train.base_answer_B).to(context.device)


def _contrast(hidden_ND: Tensor, is_plus_N: Tensor, is_known_N: Tensor) -> Tensor:
    """vector_D: the mean over p+ less the mean over p-."""
    hidden_ND = hidden_ND.double()
    return (hidden_ND[is_plus_N].mean(dim=0) - hidden_ND[is_known_N & ~is_plus_N].mean(dim=0)).float()
