"""Task vectors: the mean hidden state of few-shot prompts takes the place of a zero-shot prompt's own.

For each variable, over the training pairs that interchange it:

    v = mean h(source)          mixed = v, whatever the base and the source

The sources are prompts that show a task by examples and then ask something else; the bases ask without examples; the
label is the right answer to the base's question. The vector has seen none of the pairs that it is tried on.

Unit: the share of prompts answered as the label says. Control of its own: the mean state of the training *bases*, which
is as far from a single prompt's state and has seen no examples. It does not show how the model makes the vector, nor
that a task is one direction: the whole state is replaced.

Source: Hendel, Geva, Globerson, "In-Context Learning Creates Task Vectors", Findings of EMNLP 2023, section 3.

Shapes, by suffix: C cells at one position, B pairs, D width of the site, V variables.
"""

from __future__ import annotations

import torch
from torch import Tensor

from workers.files.job import JobCell
from workers.methods.alignment import CellFacts, Column, Replacement
from workers.methods.base import FitContext, NotApplicable, rows_of, to_device


@torch.no_grad()
def fit(context: FitContext) -> list[Column]:
    """The cohort's cells from one pass over the training pairs. Raises: Interrupted; only the pass is lost.
    NotApplicable for a variable that no training pair interchanges."""
    groups, pairs = context.groups, to_device(context.train.by_length(), context.device)
    n_V = torch.bincount(pairs.variable_B, minlength=context.n_variables)
    lacking = [name for name, count in zip(context.variables, n_V.tolist(), strict=True) if count == 0]
    if lacking:
        raise NotApplicable(f"task_vector: no training pair interchanges variable {lacking[0]!r}, so it has no mean")
    sums = [
        torch.zeros(2, len(group.cells), context.n_variables, group.width, dtype=torch.float64, device=context.device)
        for group in groups
    ]
    for start in range(0, len(pairs), context.micro_batch):
        part = rows_of(pairs, start, start + context.micro_batch)
        asks_BV = torch.nn.functional.one_hot(part.variable_B, context.n_variables).double()
        with context.monitor.timed("shared_forward"):
            forward = context.engine.forward(part.base, part.source)
            for group, sum_2CVD in zip(groups, sums, strict=True):
                states_2CBD = torch.stack(forward.activations(group.places)).double()
                sum_2CVD += torch.einsum("scbd,bv->scvd", states_2CBD, asks_BV)
        context.monitor.advance(cell_steps=0, pairs=len(part) * len(context.cohort.cells))
    context.monitor.advance(cell_steps=len(context.cohort.cells), pairs=0)
    return [
        _column(group.position, group.cells, sum_2CVD / n_V[:, None])
        for group, sum_2CVD in zip(groups, sums, strict=True)
    ]


def _column(position: int, cells: tuple[JobCell, ...], mean_2CVD: Tensor) -> Column:
    base_CVD, source_CVD = mean_2CVD.float()
    facts = CellFacts(subspace_dim=base_CVD.shape[2])
    return Column(
        position=position, cells=cells, learned=Replacement(source_CVD, base_CVD), facts=(facts,) * len(cells)
    )
