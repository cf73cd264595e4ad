"""How often fitted columns are correct on pairs that they never saw, as counts.

What intervenes is measured by interchange intervention accuracy (IIA): the share of pairs on which the intervened
model's argmax token is the counterfactual label, each token of it given those before it. The controls, on the same
pairs: no intervention, the whole vector swapped, and an untrained random rotation at the learned width.
`workers.job.measures` says what else is summed of the same runs. `workers.job.reading_counts` counts what intervenes on
nothing.
Source: Geiger et al., "Finding Alignments Between Interpretable Causal Variables and Distributed Neural
Representations", 2023, section 3 (IIA).

Shapes, by suffix: C cells at one position, B pairs.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from workers.engine.base import AbstractEngine
from workers.files.place import AnyPlace
from workers.job.measures import Question, Tally
from workers.methods.alignment import Alignment, Column, Intervention, WholeVector, control_apart, n_blocks
from workers.methods.base import Batch, rows_of
from workers.methods.reading import AbstractReading


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What one cell and its controls do on `n_total` pairs, where it makes sense.

    Right answers; `n_dummy` is the most that one answer to everything gets; `n_only_*` are the pairs that just one of
    cell and "no intervention" gets right; `n_flips` those on which the source's answer is preferred to the base's;
    `sums` the columns of sums. `classes` has by class how many prompts are of it, are said to be, and both. `said` has
    the tokens that are the most likely ones at the answers of the first pairs, `said_none` those without intervention.
    """

    n_total: int
    n_correct: int | None = None
    n_dummy: int | None = None
    n_correct_none: int | None = None
    n_correct_full: int | None = None
    n_correct_random: int | None = None
    n_only_cell: int | None = None
    n_only_none: int | None = None
    n_flips: int | None = None
    sums: Mapping[str, float] = field(default_factory=dict)
    classes: tuple[tuple[int, ...], ...] = ()
    said: tuple[tuple[int, ...], ...] = ()
    said_none: tuple[tuple[int, ...], ...] = ()


def random_control(column: Column) -> Intervention | None:
    """The column's null, which depends on the cell keys alone: what it learned in a randomly rotated space, say. None
    for the whole vector, which any rotation leaves whole."""
    assert not isinstance(column.learned, AbstractReading)
    keys, count = [cell.key for cell in column.cells], n_blocks(column.cells[0])
    if count > 1 and isinstance(column.learned, Alignment):
        return control_apart(column.learned, keys[0], count)
    return column.learned.control(keys)


@dataclass(frozen=True, slots=True, kw_only=True)
class FullSwap:
    """What the swap of the whole vector at one place does on some pairs: it depends on nothing that a method learns."""

    n_correct: int
    sums: Mapping[str, float]


def count_right(
    engine: AbstractEngine,
    columns: Sequence[Column],
    pairs: Batch,
    *,
    micro_batch: int,
    moved: Mapping[int, int] | None = None,
    controls: Sequence[Intervention | None] | None = None,
    full_swaps: MutableMapping[AnyPlace, FullSwap] | None = None,
) -> list[list[Counts]]:
    """The counts of each cell of each column that intervenes, on `pairs`; `moved` has the columns' positions in these
    prompts, where they are others than in the task's own; `controls` their random controls, where they were drawn
    already. `full_swaps` has what is known of these pairs already, and takes what is found."""
    moved = moved or {position: position for column in columns for position in column.positions}
    controls = [random_control(column) for column in columns] if controls is None else controls
    known = {} if full_swaps is None else full_swaps
    runs = [
        _runs(column, column.places(moved), control, known) for column, control in zip(columns, controls, strict=True)
    ]
    none = tally_all(engine, runs, pairs, micro_batch=micro_batch)
    n_dummy = int(pairs.label_BN.unique(dim=0, return_counts=True)[1].max())
    for run in runs:
        if "_full" in run.tallies:
            known.update(zip(run.places, _full_swaps(run.tallies["_full"]), strict=True))
    return [_counts(run, none, n_dummy, [known[place] for place in run.places]) for run in runs]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Runs:
    """A column's places and what is interchanged there: `tallies` by the control's name, the cells' own under ""."""

    places: Sequence[AnyPlace]
    swapped: Mapping[str, Intervention]
    tallies: Mapping[str, Tally]


def _runs(
    column: Column, places: Sequence[AnyPlace], control: Intervention | None, known: Container[AnyPlace]
) -> _Runs:
    """The column's own intervention and its controls; where it swaps the whole vector, that is a control of its own.
    The swap of the whole vector is left out where it is `known` of every place."""
    assert not isinstance(column.learned, AbstractReading)
    swapped: dict[str, Intervention] = {"": column.learned}
    is_full = isinstance(column.learned, WholeVector)
    if not is_full and not all(place in known for place in places):
        swapped["_full"] = WholeVector()
    if control is not None:
        swapped["_random"] = control
    tallies = {name: Tally() for name in swapped}
    return _Runs(places=places, swapped=swapped, tallies=tallies | ({"_full": tallies[""]} if is_full else {}))


@torch.no_grad()
def tally_all(engine: AbstractEngine, runs: Sequence[_Runs], pairs: Batch, *, micro_batch: int) -> Tally:
    """Fill the tallies of `runs`. Returns that of no intervention."""
    none = Tally()
    for start in range(0, len(pairs), micro_batch):
        part = rows_of(pairs, start, start + micro_batch)
        forward = engine.forward(part.base, part.source)
        question = Question.of(part, forward.base_logits())
        none.add(question, question.plain_MV[None])
        for run in runs:
            for name, learned in run.swapped.items():
                logits_CMV = forward.intervene(run.places, learned.mix(part.variable_B, part.label_B))
                run.tallies[name].add(question, logits_CMV)
    return none


def _full_swaps(tally: Tally) -> list[FullSwap]:
    """One a place."""
    sums = dict(tally.sums())
    return [
        FullSwap(n_correct=n_correct, sums={column: values[index] for column, values in sums.items()})
        for index, n_correct in enumerate(tally.right().sum(dim=1).tolist())
    ]


def _counts(run: _Runs, none: Tally, n_dummy: int, full: Sequence[FullSwap]) -> list[Counts]:
    tallies = {name: tally for name, tally in run.tallies.items() if name != "_full"}
    cell_CB, none_B = tallies[""].right(), none.right()[0]
    columns: dict[str, list[Any]] = {
        f"n_correct{name}": tally.right().sum(dim=1).tolist() for name, tally in tallies.items()
    }
    columns["n_correct_full"] = [swap.n_correct for swap in full]
    columns["n_only_cell"] = (cell_CB & ~none_B).sum(dim=1).tolist()
    columns["n_only_none"] = (~cell_CB & none_B).sum(dim=1).tolist()
    columns["n_flips"] = tallies[""].n_flips()
    sums = {f"{column}{name}": values for name, tally in tallies.items() for column, values in tally.sums()}
    shared: dict[str, Any] = {"n_total": len(none_B), "n_dummy": n_dummy, "n_correct_none": int(none_B.sum())}
    shared["said_none"] = tuple(none.said()[0])
    columns["said"] = [tuple(answers) for answers in tallies[""].said()]
    shared_sums = {f"{column}_none": value for column, (value,) in none.sums()}
    return [
        Counts(
            **shared,
            **{name: values[index] for name, values in columns.items()},
            sums=shared_sums
            | {f"{column}_full": value for column, value in full[index].sums.items()}
            | {name: values[index] for name, values in sums.items()},
        )
        for index in range(len(cell_CB))
    ]
