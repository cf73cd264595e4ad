"""How often fitted columns are correct on pairs that they never saw, as counts.

Of what intervenes: interchange intervention accuracy (IIA), the share of pairs on which the intervened model's argmax
token is the counterfactual label. The controls, on the same pairs: no intervention, the whole vector swapped, and an
untrained random rotation at the learned width. Of a probe: decoding accuracy, the share of base prompts whose value of
the variable it tells right. A probe intervenes on nothing, so it has none of these controls.
Source: Geiger et al., "Finding Alignments Between Interpretable Causal Variables and Distributed Neural
Representations", 2023, section 3 (IIA).

Shapes, by suffix: C cells at one position, B pairs, D width of the site, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from workers.engine.base import AbstractEngine, AbstractForward, Mix
from workers.methods.activations import HiddenStates
from workers.methods.alignment import Column, Intervention, Probe, WholeVector
from workers.methods.base import Batch, rows_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Right answers of one cell among `n_total` pairs, and of its controls where they make sense; `n_dummy` is the most
    that one answer to everything gets; `n_only_*` are the pairs that just one of cell and "no intervention" gets
    right."""

    n_total: int
    n_correct: int
    n_dummy: int
    n_correct_none: int | None = None
    n_correct_full: int | None = None
    n_correct_random: int | None = None
    n_only_cell: int | None = None
    n_only_none: int | None = None


def random_control(column: Column) -> Intervention | None:
    """The column's null, which depends on the cell keys alone: what it learned in a randomly rotated space, say. None
    for the whole vector, which any rotation leaves whole."""
    assert not isinstance(column.learned, Probe)
    return column.learned.control([cell.key for cell in column.cells])


def count_right(
    engine: AbstractEngine,
    columns: Sequence[Column],
    pairs: Batch,
    *,
    micro_batch: int,
    moved: Mapping[int, int] | None = None,
) -> list[list[Counts]]:
    """The counts of each cell of each column on `pairs`; `moved` has the columns' positions in these prompts, where
    they are others than in the task's own."""
    moved = moved or {column.position: column.position for column in columns}
    count = count_decoded if isinstance(columns[0].learned, Probe) else count_correct
    return count(engine, columns, pairs, moved, micro_batch=micro_batch)


@torch.no_grad()
def count_correct(
    engine: AbstractEngine, columns: Sequence[Column], pairs: Batch, moved: Mapping[int, int], *, micro_batch: int
) -> list[list[Counts]]:
    """The counts of columns that intervene."""
    controls = [random_control(column) for column in columns]
    right: list[list[Tensor]] = [[] for _ in columns]
    right_none: list[Tensor] = []
    for start in range(0, len(pairs), micro_batch):
        part = rows_of(pairs, start, start + micro_batch)
        forward = engine.forward(part.base, part.source)
        right_none.append(forward.base_logits().argmax(dim=-1) == part.label_B)
        for column, control, found in zip(columns, controls, right, strict=True):
            found.append(_right_answers(forward, column, control, part, moved[column.position]))
    none_B = torch.cat(right_none)
    n_dummy = int(pairs.label_B.unique(return_counts=True)[1].max())
    return [_counts(torch.cat(found, dim=2), none_B, n_dummy) for found in right]


def _right_answers(
    forward: AbstractForward, column: Column, control: Intervention | None, part: Batch, position: int
) -> Tensor:
    """right_ICB: whether the learned alignment, the whole vector and the random rotation (where there is one) lead to
    the label."""
    assert not isinstance(column.learned, Probe)
    mixes: list[Mix] = [learned.mix(part.variable_B, part.label_B) for learned in (column.learned, WholeVector())]
    if control is not None:
        mixes.append(control.mix(part.variable_B, part.label_B))
    logits = [forward.intervene(column.places(position), mix) for mix in mixes]
    return torch.stack([logits_CBV.argmax(dim=-1) == part.label_B for logits_CBV in logits])


def _counts(right_ICB: Tensor, none_B: Tensor, n_dummy: int) -> list[Counts]:
    cell_CB = right_ICB[0]
    columns: dict[str, list[Any]] = dict(
        zip(("n_correct", "n_correct_full", "n_correct_random"), right_ICB.sum(dim=2).tolist(), strict=False)
    )
    columns["n_only_cell"] = (cell_CB & ~none_B).sum(dim=1).tolist()
    columns["n_only_none"] = (~cell_CB & none_B).sum(dim=1).tolist()
    shared = {"n_total": len(none_B), "n_dummy": n_dummy, "n_correct_none": int(none_B.sum())}
    return [
        Counts(**shared, **{name: values[index] for name, values in columns.items()}) for index in range(len(cell_CB))
    ]


@torch.no_grad()
def count_decoded(
    engine: AbstractEngine, columns: Sequence[Column], pairs: Batch, moved: Mapping[int, int], *, micro_batch: int
) -> list[list[Counts]]:
    """The counts of columns of probes: each pair asks for the variable that it interchanges, in its base prompt."""
    n_right = [torch.zeros(len(column.cells), dtype=torch.int64, device=pairs.label_B.device) for column in columns]
    for start in range(0, len(pairs), micro_batch):
        part = rows_of(pairs, start, start + micro_batch)
        hidden = HiddenStates(engine, part.base)
        for column, n_right_C in zip(columns, n_right, strict=True):
            said_CB = _probe(column).says(hidden.at(column.places(moved[column.position])), part.variable_B)
            n_right_C += (said_CB == _probe(column).truth(part.value_B, part.variable_B)).sum(dim=1)
    return [
        [
            Counts(n_total=len(pairs), n_correct=n_correct, n_dummy=max(n_above, len(pairs) - n_above))
            for n_correct, n_above in zip(
                n_right_C.tolist(),
                _probe(column).truth(pairs.value_B, pairs.variable_B).sum(dim=1).tolist(),
                strict=True,
            )
        ]
        for column, n_right_C in zip(columns, n_right, strict=True)
    ]


def _probe(column: Column) -> Probe:
    assert isinstance(column.learned, Probe)
    return column.learned
