"""Fitting on hidden states: one shared forward of the training prompts serves every layer and position of a cohort.

Shapes, by suffix: C cells at one position, B prompts, N training prompts, D width of their sites.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from workers.files.place import AnyPlace
from workers.methods.alignment import Alignment, CellFacts, Column, Learned, joined, together
from workers.methods.base import FitContext, NotApplicable
from workers.methods.reading import AbstractReading

# hidden_ND of one cell -> what it learns (of one cell, C = 1) and what there is to say of it
FitCell = Callable[[Tensor], tuple[Learned, CellFacts]]


def fit_on_activations(context: FitContext, fit_cell: FitCell) -> list[Column]:
    """The fitted columns: `fit_cell` sees the base prompts' hidden states at one cell's point, and no other cell's.

    Raises: Interrupted; nothing is lost but the forward passes.
    """
    groups = context.groups
    hidden = read_all(context, [group.places for group in groups])
    fitted = []
    for group, hidden_CND in zip(groups, hidden, strict=True):
        with context.monitor.timed("fit"):
            fitted_cells = [_fitted(fit_cell, hidden_ND, group.n_blocks) for hidden_ND in hidden_CND]
            learned, facts = zip(*fitted_cells, strict=True)
        fitted.append(Column(position=group.position, cells=group.cells, learned=joined(learned), facts=facts))
    context.monitor.advance(cell_steps=len(context.cohort.cells), pairs=0)
    return fitted


def _fitted(fit_cell: FitCell, hidden_ND: Tensor, n_parts: int) -> tuple[Learned, CellFacts]:
    """What one cell learns; where its vector falls in parts with a subspace each, what each part learns, together."""
    if n_parts == 1:
        return fit_cell(hidden_ND)
    learned, facts = zip(*(fit_cell(part_NW) for part_NW in hidden_ND.chunk(n_parts, dim=1)), strict=True)
    alignments = [one for one in learned if isinstance(one, Alignment)]
    if len(alignments) < n_parts:
        raise NotApplicable("subspace: the method has no subspace of each place; expected `one`")
    parts = joined(alignments)
    assert isinstance(parts, Alignment)
    return together(parts), replace(facts[0], subspace_dim=sum(one.subspace_dim for one in facts))


def ready(context: FitContext, reading: Callable[[int], AbstractReading]) -> list[Column]:
    """The columns of a reading that learns nothing; `reading` gives that of a number of cells."""
    context.monitor.advance(cell_steps=len(context.cohort.cells), pairs=0)
    return [
        Column(
            position=group.position,
            cells=group.cells,
            learned=reading(len(group.cells)),
            facts=(CellFacts(subspace_dim=group.width),) * len(group.cells),
        )
        for group in context.groups
    ]


def read_all(context: FitContext, groups: Sequence[Sequence[AnyPlace]]) -> list[Tensor]:
    """activation_CNW of each group of places of one width, on all training prompts. Raises: Interrupted."""
    n_prompts, n_cells, device = len(context.train), len(context.cohort.cells), context.device
    shapes = [(len(places), n_prompts, context.width_of(places[0])) for places in groups]
    found = [torch.empty(shape, device=device) for shape in shapes]
    for rows, run in context.states.runs():
        for places, found_CNW in zip(groups, found, strict=True):
            found_CNW[:, rows] = run.at(places)
        context.monitor.advance(cell_steps=0, pairs=len(run) * n_cells)
    return found
