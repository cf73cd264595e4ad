"""Attention knockout: how much less likely the answer becomes when the last token cannot attend to a position.

    change = (p' - p) / p

with p the probability of the prompt's own right answer (its first token) in the model's own run, and p' that in a run
in which the edges from the last token to the cell's position are cut: in a window of layers around the cell's layer,
their attention scores are minus infinity. -1 is an answer that has become impossible, 0 no change. `also` names further
positions to cut with it, such as the other tokens of a subject. A cell is of all heads, or at the site `head_output` of
one.

A row's number is the mean over the prompts whose answer is known (metric `knockout`, a share of p); the lowest values
are of interest.

Control: as many random other tokens that the last one sees, in the same layers.

It does not show what is moved along an edge, nor that nothing else is moved by way of other tokens: what the last token
cannot read here, another one may have read in an earlier layer, and pass it on. A window of many layers cuts more than
one path.

Source: Geva, Bastings, Filippova, Globerson, "Dissecting Recall of Factual Associations in Auto-Regressive Language
Models", EMNLP 2023, section 5.

Shapes, by suffix: C cells at one position, B prompts, T tokens, A further positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from workers.data.pairs import UNKNOWN
from workers.engine.knockout import knocked_out
from workers.engine.sites import SiteError
from workers.files.job import content_key
from workers.files.place import AnyPlace, single
from workers.methods.activations import ready
from workers.methods.alignment import Column
from workers.methods.base import FitContext, NotApplicable
from workers.methods.lens import each_token
from workers.methods.reading import AbstractReading, Read, Run


@dataclass(frozen=True, slots=True)
class AttentionKnockout(AbstractReading):
    """The layers and the further positions that are cut, the same for all cells: there is nothing to learn."""

    window_C: Tensor
    also_CA: Tensor

    def read(self, run: Run, places: Sequence[AnyPlace]) -> Read:
        """Each cell's change, and that of random other tokens. Raises: NotApplicable."""
        each = single(places)
        answer_B = _answers(run)
        rows_B = (answer_B != UNKNOWN).nonzero()[:, 0]
        also = [run.moved.get(to, to) for to in self.also_CA[0].tolist()]
        cut_BT = _cut(run, [each[0].position, *also])
        other_BT = _others(run, cut_BT, content_key(["knockout", self.also_CA[0].tolist(), each[0].position]))
        before_B = self._probability(run, [], cut_BT, None)[rows_B]
        changes = []
        for parts_BT in [cut_BT] if other_BT is None else [cut_BT, other_BT]:
            after = [self._probability(run, self.layers(run, place.layer), parts_BT, place.unit) for place in each]
            changes.append(torch.stack(after)[:, rows_B] / before_B - 1)
        return Read(
            n_counted=len(rows_B),
            means_CB={"relative_change": changes[0]},
            null_means_CB={"relative_change": changes[1]} if len(changes) > 1 else {},
        )

    def layers(self, run: Run, layer: int) -> range:
        """The window around a layer; of an even number one more lies before it."""
        window = int(self.window_C[0])
        return range(max(0, layer - window // 2), min(run.model.n_layers, layer + (window + 1) // 2))

    def _probability(self, run: Run, layers: Sequence[int], cut_BT: Tensor, head: int | None) -> Tensor:
        """probability_B of each prompt's answer, in float64; anything where it is not known."""
        try:
            logits_BV = knocked_out(run.model, run.prompts, layers=layers, cut_BT=cut_BT, head=head)
        except SiteError as error:
            raise NotApplicable(f"attention_knockout: {error}") from error
        return logits_BV.double().softmax(dim=1).gather(1, _answers(run).clamp_min(0)[:, None])[:, 0]


def fit(context: FitContext) -> list[Column]:
    """The cohort's cells, ready at once."""
    window, also = int(context.settings["window"]), context.settings["also"]

    def reading(n_cells: int) -> AttentionKnockout:
        also_CA = torch.tensor([also] * n_cells, dtype=torch.int64).reshape(n_cells, len(also))
        return AttentionKnockout(torch.full((n_cells,), window), also_CA)

    return ready(context, reading)


def _answers(run: Run) -> Tensor:
    """answer_B: the first token of each prompt's own right answer, or UNKNOWN."""
    if run.pairs.base_answer_B is None:
        raise NotApplicable("attention_knockout: the prompts' own right answers are not known")
    return torch.from_numpy(run.pairs.base_answer_B).to(run.model.device)


def _cut(run: Run, positions: Sequence[int]) -> Tensor:
    """cut_BT: the tokens at these positions. Raises: NotApplicable where a prompt has no others."""
    cut_BT = torch.zeros(run.prompts.ids_BT.shape, dtype=torch.bool, device=run.model.device)
    at_B = torch.arange(len(run), device=run.model.device)
    for position in positions:
        cut_BT[at_B, torch.from_numpy(each_token(run.prompts.token_of(position), len(run))).to(at_B)] = True
    if bool((cut_BT.sum(dim=1) >= torch.from_numpy(run.prompts.length_B).to(at_B)).any()):
        raise NotApplicable("attention_knockout: a prompt has no token beside those that are cut")
    return cut_BT


def _others(run: Run, cut_BT: Tensor, seed: str) -> Tensor | None:
    """other_BT: as many random tokens of each prompt that are not cut; None where some prompt has too few."""
    random_BT = np.random.default_rng(int(seed[:15], 16)).random(cut_BT.shape)
    is_cut_BT = cut_BT.cpu().numpy()
    is_other_BT = ~is_cut_BT & (np.arange(cut_BT.shape[1]) < run.prompts.length_B[:, None])
    n_cut_B1 = is_cut_BT.sum(axis=1, keepdims=True)
    if (is_other_BT.sum(axis=1, keepdims=True) < n_cut_B1).any():
        return None
    rank_BT = np.where(is_other_BT, random_BT, 2.0).argsort(axis=1).argsort(axis=1)
    return torch.from_numpy(rank_BT < n_cut_B1).to(cut_BT.device)
