"""Attention pattern: how much a head attends from one position to another, on average over the prompts.

    A(head, q -> k) = mean over the prompts of softmax_j(score(q, j))_k

with the cell's position as the query q, and the key k at the position `to` of the method's settings: a token's index,
or where prompts have named positions the number of a name (`causalsweep prompt` numbers them). Queries see keys up to
their own place; a key behind it has the weight 0. In a setting's prompts the key moves as the cell's position does; a
key at the prompts' beginning stays where it is if the same token is there.

A row's number is the mean weight, a share of the query's attention (metric `attention`). Cells are heads, at the sites
`head_output` or `query`.

Control: equal attention to every token in sight, 1 / (q + 1).

It does not show that the head moves anything that matters: a head may attend to what it makes no use of, and many heads
rest on the first token. A head's output is what `interchange` and `logit_attribution` ask about. Weights are read from
the model's own eager attention, in a forward of its own.

Source: Clark et al., "What Does BERT Look At? An Analysis of BERT's Attention", 2019; Lieberum et al., "Does Circuit
Analysis Interpretability Scale? Evidence from Multiple Choice Capabilities in Chinchilla", 2023, section 4.

Shapes, by suffix: C cells at one position, B prompts, H heads, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from workers.engine.patterns import attention_rows
from workers.engine.sites import SiteError
from workers.files.place import AnyPlace, single
from workers.methods.activations import ready
from workers.methods.alignment import Column
from workers.methods.base import FitContext, NotApplicable
from workers.methods.lens import each_token
from workers.methods.reading import AbstractReading, Read, Run


@dataclass(frozen=True, slots=True)
class AttentionPattern(AbstractReading):
    """The pattern of any head to the point `to_C`, the same for all cells: there is nothing to learn."""

    to_C: Tensor

    def read(self, run: Run, places: Sequence[AnyPlace]) -> Read:
        """Each head's weight, and that of equal attention. Raises: NotApplicable."""
        each = single(places)
        query_B = each_token(run.prompts.token_of(each[0].position), len(run))
        to = int(self.to_C[0])
        key_B = each_token(run.prompts.token_of(run.moved.get(to, to)), len(run))
        layers = sorted({place.layer for place in each})
        try:
            rows = attention_rows(run.model, run.prompts, layers, query_B)  # by layer: weight_BHT
        except SiteError as error:
            raise NotApplicable(f"attention_pattern: {error}") from error
        key = torch.from_numpy(key_B).to(run.model.device)
        at_B = torch.arange(len(run), device=run.model.device)
        weight_CB = torch.stack([rows[place.layer][at_B, place.unit or 0, key] for place in each])
        in_sight_B = torch.from_numpy(key_B <= query_B).to(run.model.device)
        equal_B = in_sight_B.double() / torch.from_numpy(query_B + 1).to(run.model.device)
        return Read(
            n_counted=len(run),
            means_CB={"attention": weight_CB},
            null_means_CB={"attention": equal_B.expand_as(weight_CB)},
        )


def fit(context: FitContext) -> list[Column]:
    """The cohort's cells, ready at once."""
    to = int(context.settings["to"])
    return ready(context, lambda n_cells: AttentionPattern(torch.full((n_cells,), to)))
