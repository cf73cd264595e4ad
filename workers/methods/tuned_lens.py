"""Tuned lens: the logit lens behind an affine map that is trained to make it the model's own distribution.

    lens(h) = W_U LN_f(h + A h + b)        A, b minimise the mean of KL(p || softmax(lens(h))) over the training prompts

with the model's own distribution p at the same token. A and b, the translator, start at zero, where the tuned lens is
the logit lens. Each cell has its own, for its layer and its token position.

A row's numbers are those of `logit_lens`, on prompts that the translator was not trained on: the mean KL in nats
(metric `lens_kl`; low is close), entropy, log-probability of the next token, agreement. Translators are saved as
alignments are (`weight` A, `bias` b) and read further settings without being trained again.

Control: the lens of another prompt, as for the logit lens. A translator may learn what all prompts of the task have in
common, and this control has that too: what counts is how far below it the KL lies.

It does not show that the model computes what the lens reads: the translator may compute some of it. Nor is there a
causal claim. On an untrained model the KL falls as well, because its later blocks are close to an affine map.

Source: Belrose et al., "Eliciting Latent Predictions from Transformers with the Tuned Lens", 2023, section 3.

Shapes, by suffix: C cells at one position, N training prompts, B prompts, D hidden size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from workers.engine.unembed import Unembedding
from workers.files.job import content_key
from workers.files.place import AnyPlace
from workers.methods.activations import read_all
from workers.methods.alignment import CellFacts, CellGroup, Column
from workers.methods.base import FitContext
from workers.methods.lens import LOGITS_AT_ONCE, final_place, kl_between, read_lens
from workers.methods.reading import AbstractReading, Read, Run


@dataclass(frozen=True, slots=True)
class TunedLens(AbstractReading):
    """The translators of C cells, float32."""

    weight_CDD: Tensor
    bias_CD: Tensor

    def translated(self, hidden_CBD: Tensor) -> Tensor:
        """h + A h + b of each cell."""
        return hidden_CBD + torch.bmm(hidden_CBD, self.weight_CDD.mT) + self.bias_CD[:, None]

    def read(self, run: Run, places: Sequence[AnyPlace]) -> Read:
        """The lens of each cell's translated activation."""
        return read_lens(run, places, self.translated(run.at(places)))


def fit(context: FitContext) -> list[Column]:
    """The cohort's translators, trained on one pass over the training prompts. Raises: Interrupted."""
    groups, n_layers = context.groups, len(context.states.model.blocks)
    finals = [[final_place(group.position, n_layers)] for group in groups]
    activations = read_all(context, [*(group.places for group in groups), *finals])
    hidden, final = activations[: len(groups)], activations[len(groups) :]
    columns = []
    for group, hidden_CND, final_1ND in zip(groups, hidden, final, strict=True):
        with context.monitor.timed("fit"):
            columns.append(_Training(context, group, hidden_CND, final_1ND[0]).run())
    context.monitor.advance(cell_steps=len(context.cohort.cells), pairs=0)
    return columns


class _Training:
    """The translators of cells at one position while they learn; no cell sees another."""

    def __init__(self, context: FitContext, group: CellGroup, hidden_CND: Tensor, final_ND: Tensor) -> None:
        self.context, self.group = context, group
        self.hidden_CND, self.final_ND = hidden_CND, final_ND
        n_cells, n_prompts, width = hidden_CND.shape
        weight_CDD = torch.zeros(n_cells, width, width, device=context.device, requires_grad=True)
        self.lens = TunedLens(weight_CDD, torch.zeros(n_cells, width, device=context.device, requires_grad=True))
        self.unembed = Unembedding(context.states.model)
        self.batch_size = min(context.settings["batch_size"], n_prompts)
        self.n_epochs = context.settings["epochs"]
        self.n_steps = self.n_epochs * -(-n_prompts // self.batch_size)

    def run(self) -> Column:
        """The trained column. Raises: Interrupted."""
        n_cells, n_prompts, _ = self.hidden_CND.shape
        rate = self.context.settings["learning_rate"]
        optimizer = torch.optim.Adam([self.lens.weight_CDD, self.lens.bias_CD], lr=rate)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / self.n_steps)
        order = torch.Generator().manual_seed(int(content_key(["order", self.context.cohort.stream.seed])[:15], 16))
        for _ in range(self.n_epochs):
            last_epoch_C = torch.zeros(n_cells, device=self.context.device)
            for rows in torch.randperm(n_prompts, generator=order).split(self.batch_size):
                optimizer.zero_grad()
                last_epoch_C += self._backward(rows.to(self.context.device)) * len(rows) / n_prompts
                optimizer.step()
                schedule.step()
                self.context.monitor.advance(cell_steps=0, pairs=len(rows) * n_cells)
        lens = TunedLens(self.lens.weight_CDD.detach(), self.lens.bias_CD.detach())
        facts = tuple(self._facts(loss) for loss in last_epoch_C.tolist())
        return Column(position=self.group.position, cells=self.group.cells, learned=lens, facts=facts)

    def _backward(self, rows: Tensor) -> Tensor:
        """Each cell's mean KL on these prompts, _C, whose gradients are added up."""
        with torch.no_grad():
            own_BV = self.unembed(self.final_ND[rows]).log_softmax(dim=-1)
        step = max(1, LOGITS_AT_ONCE // own_BV.numel())
        losses = []
        for cells in torch.arange(len(self.hidden_CND)).split(step):
            part = TunedLens(self.lens.weight_CDD[cells], self.lens.bias_CD[cells])
            translated_CBD = part.translated(self.hidden_CND[cells][:, rows])
            logits_CBV = self.unembed(translated_CBD.flatten(0, 1)).unflatten(0, translated_CBD.shape[:2])
            loss_C = kl_between(own_BV, logits_CBV.log_softmax(dim=-1)).mean(dim=1)
            loss_C.sum().backward()
            losses.append(loss_C.detach())
        return torch.cat(losses)

    def _facts(self, loss: float) -> CellFacts:
        if not math.isfinite(loss):
            return CellFacts(steps=self.n_steps, failure=f"diverged: loss {loss}")
        return CellFacts(subspace_dim=self.group.width, loss=loss, steps=self.n_steps)
