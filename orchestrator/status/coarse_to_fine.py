"""Coarse to fine: which cells of a map are worth their cost, decided from the results so far.

A map (one model, experiment, method and site) begins with every n-th layer and position, first and last included. When
all of these are settled, the places next to one that may be the map's best are added, and so on until there are none.
A place may be the best while its upper bound reaches the best one's lower bound: Wilson intervals of its pairs, each at
the level at which all intervals of the map hold at once with the stated confidence (Bonferroni). Of several seeds and
units the highest counts, and a chosen place is run with all of them.

The choice is a function of the grid and the rows: made again from the same results it is the same, whatever ran first.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from orchestrator.grid.expand import Grid
from orchestrator.spec.schema import CoarseSection
from orchestrator.store.statistics import wilson_interval
from orchestrator.store.store import RowState
from workers.files.job import MAIN_SETTING
from workers.files.place import PlaceSet
from workers.methods.settings import method_label

WAITS: Final = "coarse to fine: to be decided when the cells chosen so far are done"


class Point(NamedTuple):
    """A cell of a map: indices of its layer and its position among the map's."""

    row: int
    column: int


class Bounds(NamedTuple):
    """What a place's measured seeds allow: the ends of the highest one's interval."""

    low: float
    high: float


@dataclass(slots=True)
class Map:
    """The places of one model, experiment, method and site, and the cell keys of each: one a seed and unit."""

    layers: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    keys: dict[Point, list[str]] = field(default_factory=dict)

    def coarse(self, section: CoarseSection) -> set[Point]:
        """Every n-th layer and position, the first and the last of each among them."""
        rows, columns = _every(section.layers, len(self.layers)), _every(section.positions, len(self.positions))
        return {place for place in self.keys if place.row in rows and place.column in columns}

    def around(self, place: Point) -> Iterator[Point]:
        """The up to eight places next to it."""
        for row in range(place.row - 1, place.row + 2):
            for column in range(place.column - 1, place.column + 2):
                if (row, column) != place and (row, column) in self.keys:
                    yield Point(row, column)

    def named(self, place: Point) -> str:
        """As people call it."""
        return f"L{self.layers[place.row]} p{self.positions[place.column]}"


def left_out(
    grid: Grid, section: CoarseSection, settled: Collection[str], index: Mapping[tuple[str, str], RowState]
) -> dict[str, str]:
    """By the key of each cell that is not chosen, why. `settled` are the keys of cells for which nothing is left to do;
    `index` has the row of each cell key and setting."""
    found: dict[str, str] = {}
    for one in _maps(grid):
        chosen, reason = _chosen(one, section, settled, index)
        for place, keys in one.keys.items():
            if place not in chosen:
                found |= dict.fromkeys(keys, reason)
    return found


def _maps(grid: Grid) -> list[Map]:
    by_name: dict[tuple[str, ...], dict[tuple[int, int], list[str]]] = {}
    for strand, cell in grid.cells():
        if isinstance(cell.place, PlaceSet):
            continue  # it lies on no map
        name = (strand.model, strand.experiment, method_label(strand.stream.method), cell.place.site)
        by_name.setdefault(name, {}).setdefault((cell.place.layer, cell.place.position), []).append(cell.key)
    maps = []
    for cells in by_name.values():
        layers, positions = (sorted({point[axis] for point in cells}) for axis in (0, 1))
        keys = {Point(layers.index(layer), positions.index(at)): keys for (layer, at), keys in cells.items()}
        maps.append(Map(layers, positions, keys))
    return maps


def _chosen(
    one: Map, section: CoarseSection, settled: Collection[str], index: Mapping[tuple[str, str], RowState]
) -> tuple[set[Point], str]:
    """The places chosen so far, and why no other is."""
    level = 1 - (1 - section.confidence) / sum(len(keys) for keys in one.keys.values())
    chosen, wave = set[Point](), one.coarse(section)
    bounds: dict[Point, Bounds] = {}
    while wave:
        chosen |= wave
        if not all(key in settled for place in wave for key in one.keys[place]):
            return chosen, WAITS
        bounds |= {place: found for place in wave if (found := _bounds(one.keys[place], index, level))}
        if not bounds:
            return chosen, "coarse to fine: no place of the map was measured"
        best = max(bounds, key=lambda place: (bounds[place].low, place))
        hopeful = [place for place, found in bounds.items() if found.high >= bounds[best].low]
        wave = {place for hope in hopeful for place in one.around(hope)} - chosen
    reason = (
        f"coarse to fine: next to no place that may be the best ({one.named(best)}, {bounds[best].low:.3f} or more)"
    )
    return chosen, reason


def _bounds(keys: Collection[str], index: Mapping[tuple[str, str], RowState], level: float) -> Bounds | None:
    """The highest ends over the seeds that were measured."""
    rows = [index[key, MAIN_SETTING] for key in keys if (key, MAIN_SETTING) in index]
    ends = [
        wilson_interval(row.n_correct, row.n_total, confidence=level)
        for row in rows
        if row.status == "done" and row.n_correct is not None and row.n_total
    ]
    return Bounds(max(low for low, _ in ends), max(high for _, high in ends)) if ends else None


def _every(step: int, size: int) -> set[int]:
    return {*range(0, size, step), size - 1}
