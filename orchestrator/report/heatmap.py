"""A map: one model, experiment, method, setting and site as numbers, in every scale and over every choice of seeds.

Each site has a map of layers x token positions; where it has units (heads), the best unit of a place stands for it.
Such a site also has a map of layers x units for each position.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from orchestrator.report.measured import MAP_KEYS
from orchestrator.status.cell_state import CellState
from workers.data.sites import SITES
from workers.files.metrics import IIA, METRICS
from workers.files.place import AXES

Spot: TypeAlias = tuple[int, int, int, str]  # layer, position, unit or -1, token: what makes cells of two maps equal

PLACE: Final = [axis.name for axis in AXES if axis.name not in MAP_KEYS]  # what tells the places of a map apart
_MAPPED: Final = [*PLACE, "token", "seed", "value", "normalised", "excess", "better"]
_BYTE_TOKENS: Final = {"<0x0A>": "\n", "<0x09>": "\t", "<0x0D>": "\r"}
_SHOWN: Final = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}


class Scale(StrEnum):
    """The units of a map; its value is the measured column that holds them."""

    RAW = "value"
    NORMALISED = "normalised"
    EXCESS = "excess"


class Over(StrEnum):
    """How the seeds of a place become one number."""

    MAXIMUM = "maximum"
    MEAN = "mean"


class Axis(StrEnum):
    """What the columns of a map are; its value is the measured column that holds them."""

    POSITION = "position"
    UNIT = "unit"


@dataclass(frozen=True, slots=True, kw_only=True)
class HeatMap:
    """One map. `cells` are its lines of `measured`; grids are indexed [layer, column], layers ascending.

    `tokens` are those of the columns, or of the one position that a map of units is at. `model` is empty where there is
    one model. With `is_set`, `site` is the name of a set of places: it has no layers, so that there is nothing to draw.
    It has positions if it follows those of the grid.
    """

    model: str
    experiment: str
    method: str
    setting: str
    site: str
    metric: str
    axis: Axis
    layers: tuple[int, ...]
    columns: tuple[int, ...]
    tokens: tuple[str, ...]
    seeds: tuple[int, ...]
    cells: pd.DataFrame
    is_set: bool = False
    has_positions: bool = True

    def chosen(self, over: Over | int) -> pd.DataFrame:
        """The measured line that stands for each place: that of the seed given, or of the best value.

        The best line is chosen by its raw value, so all its numbers in all units are of one and the same cell. Its
        index is that of `cells`.
        """
        done = self._done()
        if isinstance(over, int):
            done = done[done["seed"] == over]
        return self._best_first(done).drop_duplicates(["layer", self.axis.value])

    def values(self, scale: Scale, over: Over | int) -> NDArray[np.float64]:
        """Numbers [layer, column]: NaN where nothing is measured or the unit is not defined."""
        if over is Over.MEAN:
            means = self._done().groupby(PLACE, dropna=False)[scale.value].mean().reset_index()
            best = means.groupby(["layer", self.axis.value])[scale.value]
            is_low_best = self.best == "lowest" and scale is Scale.RAW
            numbers = (best.min() if is_low_best else best.max()).reset_index()
        else:
            numbers = self.chosen(over)
        grid = np.full((len(self.layers), len(self.columns)), math.nan)
        grid[self._at(numbers)] = numbers[scale.value].to_numpy(dtype=float)
        return grid

    def states(self, over: Over | int) -> NDArray[np.object_]:
        """States [layer, column]: `done` where a number is measured, empty where no cell is planned."""
        at_layer, at_position = self._at(self.cells)
        states = self.cells["state"].to_numpy(dtype=object)  # a fixed width would cut a longer name
        if isinstance(over, int):
            states = np.where(self.cells["seed"] == over, states, "")
        grid = np.full((len(self.layers), len(self.columns)), "", dtype=object)
        for state in reversed(CellState):  # the first state in its order is written last, and stays
            here = states == state.value
            grid[at_layer[here], at_position[here]] = state.value
        return grid

    def better(self, over: Over | int) -> NDArray[np.bool_]:
        """Where [layer, column] the chosen cell beats its "no intervention"; nowhere for a mean: it has no test."""
        grid = np.zeros((len(self.layers), len(self.columns)), dtype=bool)
        if over is not Over.MEAN:
            lines = self.chosen(over)
            grid[self._at(lines)] = lines["better"].to_numpy(dtype=bool)
        return grid

    def by_place(self) -> dict[Spot, float]:
        """The raw value of each measured place and unit, the best over seeds."""
        lines = self._best_first(self._done()).drop_duplicates(PLACE)
        units = lines["unit"].fillna(-1).astype(int)
        places = zip(lines["layer"], lines["position"], units, lines["token"].fillna(""), strict=True)
        return dict(zip(places, lines["value"], strict=True))

    def axis_labels(self) -> list[str]:
        """One label a column: the index and the token of a position, the index of a unit."""
        if self.axis is Axis.UNIT:
            return [str(unit) for unit in self.columns]
        pairs = zip(self.columns, self.tokens, strict=True)
        return [f"{position} {shown_token(token)}" for position, token in pairs]

    @property
    def best(self) -> str:
        """Which end of the map is of interest: `highest`, `lowest`."""
        return METRICS[self.metric].best

    def _best_first(self, lines: pd.DataFrame) -> pd.DataFrame:
        return lines.sort_values(["value", "seed", "unit"], ascending=[self.best == "lowest", True, True])

    @property
    def unit_name(self) -> str:
        """What a unit of the site is called; empty where it has none."""
        return SITES[self.site].unit_name if self.site in SITES else "unit"

    @property
    def at(self) -> str:
        """The position that a map of units is at, as an axis names it; empty for a map of positions."""
        if self.axis is Axis.POSITION:
            return ""
        return f"{self.cells['position'].iloc[0]} {shown_token(self.tokens[0])}"

    @property
    def column_name(self) -> str:
        """What a column is called: `position`, `head`."""
        return "position" if self.axis is Axis.POSITION else self.unit_name

    def _done(self) -> pd.DataFrame:
        return self.cells[_MAPPED][self.cells["state"] == "done"]

    def _at(self, lines: pd.DataFrame) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        return np.searchsorted(self.layers, lines["layer"]), np.searchsorted(self.columns, lines[self.axis.value])


def heat_maps(cells: pd.DataFrame) -> list[HeatMap]:
    """Every map in `measured` cells, in their order: of positions, and behind it those of the site's units."""
    maps = []
    for keys, lines in cells.groupby(MAP_KEYS, sort=False):
        maps.append(_heat_map(keys, lines, Axis.POSITION))
        units = lines[lines["unit"].notna()]
        maps += [_heat_map(keys, part, Axis.UNIT) for _, part in units.groupby("position")]
    return maps


def site_maps(maps: Sequence[HeatMap]) -> list[HeatMap]:
    """The maps of positions: one a model, experiment, method, setting and site, with all its cells."""
    return [item for item in maps if item.axis is Axis.POSITION]


def drawn_maps(maps: Sequence[HeatMap]) -> list[HeatMap]:
    """The maps that have something to draw."""
    return [item for item in maps if not item.is_set]


def value_range(maps: Sequence[HeatMap], scale: Scale) -> tuple[float, float]:
    """The ends of the colour scale that all `maps` share, so that equal colours are equal numbers. They are of one
    metric.

    A share, raw: from 0.5, or lower where a cell is, to 1. Normalised: from 0 to 1, or beyond where a cell is. Over the
    controls: as far down as up. In steps of 0.05; never stretched to make noise look like a pattern. A metric that is
    no share has no such ends: from 0 to the cell that is farthest from it.
    """
    columns = [heat_map.cells[scale.value].dropna() for heat_map in maps]
    found = pd.concat(columns) if columns else pd.Series(dtype=float)
    return range_of(found, maps[0].metric if maps else IIA, scale)


def range_of(found: pd.Series[float], metric: str, scale: Scale) -> tuple[float, float]:
    """`value_range` of numbers of one metric."""
    if not is_share(metric):
        return _range_of_means(found, scale)
    low, high = (float(found.min()), float(found.max())) if len(found) else (math.nan, math.nan)
    below, above = math.floor(low * 20) / 20 if len(found) else 1.0, math.ceil(high * 20) / 20 if len(found) else 0.0
    if scale is Scale.EXCESS:
        reach = max(0.1, abs(below) if len(found) else 0.0, above)
        return -reach, reach
    floor = 0.5 if scale is Scale.RAW else 0.0
    return min(floor, below), max(1.0, above)


def is_share(metric: str) -> bool:
    """Whether a map's numbers are shares, from 0 to 1."""
    return METRICS[metric].is_share


def _range_of_means(found: pd.Series[float], scale: Scale) -> tuple[float, float]:
    """From 0 to the farthest number on either side, in small steps; over a null as far down as up."""
    reach = float(found.abs().max()) if len(found) else 0.0
    if reach == 0:
        return (-1.0, 1.0) if scale is Scale.EXCESS else (0.0, 1.0)
    step = 10.0 ** math.floor(math.log10(reach)) / 20
    low, high = (math.floor(found.min() / step + 1e-9) * step, math.ceil(found.max() / step - 1e-9) * step)
    if scale is Scale.EXCESS:
        return -max(-low, high), max(-low, high)
    return min(0.0, low), max(0.0, high)


def shown_token(token: str) -> str:
    """A token as people can read it: line ends escaped, a leading blank as an open box."""
    token = _BYTE_TOKENS.get(token, token)
    blanks = len(token) - len(token.lstrip(" "))
    return "␣" * blanks + "".join(_SHOWN.get(letter, letter) for letter in token[blanks:])


def shown_name(name: str) -> str:
    """An experiment, method or setting as a heading."""
    return name.replace("_", " ")


def _heat_map(keys: Sequence[str], lines: pd.DataFrame, axis: Axis) -> HeatMap:
    model, experiment, method, setting, site = keys
    is_set, has_positions = bool(lines["place"].notna().any()), bool(lines["position"].notna().all())
    if is_set:
        lines = lines.fillna({"layer": 0, "position": 0})
    lines = lines.astype({"layer": "int64", "position": "int64"})  # no whole numbers beside a set that has none
    tokens = lines.drop_duplicates("position").set_index("position")["token"].fillna("").sort_index()
    return HeatMap(
        model=model,
        experiment=experiment,
        method=method,
        setting=setting,
        site=site,
        metric=lines["metric"].iloc[0],
        axis=axis,
        layers=tuple(int(layer) for layer in sorted(lines["layer"].unique())),
        columns=tuple(int(column) for column in sorted(lines[axis.value].unique())),
        tokens=tuple(tokens),
        seeds=tuple(int(seed) for seed in sorted(lines["seed"].unique())),
        cells=lines,
        is_set=is_set,
        has_positions=has_positions,
    )
