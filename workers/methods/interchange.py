"""Interchange of the whole vector: activation patching. Nothing is learned; it bounds what any subspace can carry.

The activation at the cell's place is the source's. Its IIA is high where all that the output depends on is carried
there, the aligned variable or not: read it beside the methods that choose a subspace.

Source: Geiger, Lu, Icard, Potts, "Causal Abstractions of Neural Networks", NeurIPS 2021 (interchange interventions);
Vig et al., "Investigating Gender Bias in Language Models Using Causal Mediation Analysis", NeurIPS 2020.
"""

from __future__ import annotations

from workers.methods.alignment import CellFacts, Column, WholeVector
from workers.methods.base import FitContext


def fit(context: FitContext) -> list[Column]:
    """The cohort's cells, ready at once."""
    n_cells = len(context.cohort.cells)
    context.monitor.advance(cell_steps=n_cells, pairs=0)
    return [
        Column(
            position=group.position,
            cells=group.cells,
            learned=WholeVector(),
            facts=(CellFacts(subspace_dim=group.width),) * len(group.cells),
        )
        for group in context.groups
    ]
