"""A chain: a further method runs at the best places of an earlier one, decided from the results so far.

The grid has the further method's cells at every place. They wait until all cells of the earlier method are settled.
Then those at its `best` places, of each model and experiment, are run, and the others are left out. The best places are
those with the largest share of right answers on the *validation* pairs, over all seeds: nothing was chosen by the
numbers on test pairs, which are reported. Of equal places the first counts, by position and layer.

The choice is a function of the grid and the rows: made again from the same results it is the same, whatever ran first.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from orchestrator.grid.expand import Grid, Strand
from orchestrator.status.coarse_to_fine import WAITS as COARSE_WAITS
from orchestrator.store.store import RowState
from workers.files.job import VALIDATION_SETTING
from workers.files.place import AnyPlace, span_label
from workers.methods.settings import method_label

WAITS: Final = "then: to be decided when the cells of the method before are done"

Index = Mapping[tuple[str, str], RowState]


class Chosen(NamedTuple):
    """Places that were chosen, and why; both empty while the choice has to wait."""

    places: frozenset[AnyPlace]
    reason: str


@dataclass(frozen=True, slots=True)
class Chain:
    """What a chain makes of the results: why cells are left out, by key, and for people what was chosen and why."""

    left_out: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def chained(grid: Grid, out: Mapping[str, str], settled: Collection[str], index: Index) -> Chain:
    """The decisions so far. `out` has the cells that are left out already; `settled` and `index` are as for coarse to
    fine."""
    chain = Chain(left_out=dict(out))
    choices: dict[tuple[str, str, str, int], Chosen] = {}
    for strand in grid.strands:
        if not strand.after:
            continue
        step = (strand.model, strand.experiment, strand.after, strand.best)
        if step not in choices:
            choices[step] = _choice(grid, strand, chain.left_out, settled, index)
        chosen = choices[step]
        for cell in strand.cells:
            if cell.place not in chosen.places:
                chain.left_out[cell.key] = chosen.reason or WAITS
        of = f"{strand.experiment}, {strand.model}," if len(grid.models) > 1 else strand.experiment
        note = f"{method_label(strand.stream.method)} of {of} is run at {chosen.reason.removeprefix(_OUT)}"
        if chosen.places and note not in chain.notes:
            chain.notes.append(note)
    return chain


_OUT: Final = "then: not among "


def _choice(grid: Grid, step: Strand, out: Mapping[str, str], settled: Collection[str], index: Index) -> Chosen:
    """The best places of the method before `step`."""
    before = [
        one
        for one in grid.strands
        if (one.model, one.experiment) == (step.model, step.experiment)
        and method_label(one.stream.method) == step.after
    ]
    shares: dict[AnyPlace, list[tuple[int, int]]] = {}
    for strand in before:
        for cell in () if strand.inapplicable else strand.cells:
            if out.get(cell.key) in (WAITS, COARSE_WAITS):
                return Chosen(frozenset(), "")
            if cell.key in out:
                continue
            if cell.key not in settled:
                return Chosen(frozenset(), "")
            row = index.get((cell.key, VALIDATION_SETTING))
            if row is not None and row.status == "done" and row.n_correct is not None and row.n_total:
                shares.setdefault(cell.place, []).append((row.n_correct, row.n_total))
    if not shares:
        return Chosen(frozenset(), f"then: no place of {step.after} was measured on validation pairs")
    found = {place: sum(n for n, _ in counts) / sum(n for _, n in counts) for place, counts in shares.items()}
    best = sorted(found, key=lambda place: (-found[place], place.rank))[: step.best]
    named = ", ".join(f"{span_label([place])} ({found[place]:.3f})" for place in best)
    which = "the best place" if step.best == 1 else f"the {step.best} best places"
    return Chosen(frozenset(best), f"{_OUT}{which} of {step.after} on validation pairs: {named}")
