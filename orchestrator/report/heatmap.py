"""A map: one experiment, method and setting as layer x token position, in every unit and over every choice of seeds."""

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
from workers.files.job import MAIN_SETTING

Place: TypeAlias = tuple[int, int, str]  # layer, position, token: what makes cells of two maps equal

METRIC_NAMES: Final = {"iia": "IIA", "decoding": "Decoding accuracy"}
_MAPPED: Final = ["layer", "position", "token", "seed", "value", "normalised", "excess", "better"]
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


@dataclass(frozen=True, slots=True, kw_only=True)
class HeatMap:
    """One map. `cells` are its lines of `measured`; grids are indexed [layer, position], layers ascending."""

    experiment: str
    method: str
    setting: str
    metric: str
    layers: tuple[int, ...]
    positions: tuple[int, ...]
    tokens: tuple[str, ...]
    seeds: tuple[int, ...]
    cells: pd.DataFrame

    def chosen(self, over: Over | int) -> pd.DataFrame:
        """The measured line that stands for each place: that of the seed given, or of the highest accuracy.

        The best line is chosen by its raw accuracy, so all its numbers in all units are of one and the same cell. Its
        index is that of `cells`.
        """
        done = self._done()
        if isinstance(over, int):
            return done[done["seed"] == over]
        return done.sort_values(["value", "seed"], ascending=[False, True]).drop_duplicates(["layer", "position"])

    def values(self, scale: Scale, over: Over | int) -> NDArray[np.float64]:
        """Numbers [layer, position]: NaN where nothing is measured or the unit is not defined."""
        if over is Over.MEAN:
            numbers = self._done().groupby(["layer", "position"])[scale.value].mean().reset_index()
        else:
            numbers = self.chosen(over)
        grid = np.full((len(self.layers), len(self.positions)), math.nan)
        grid[self._at(numbers)] = numbers[scale.value].to_numpy(dtype=float)
        return grid

    def states(self, over: Over | int) -> NDArray[np.object_]:
        """States [layer, position]: `done` where a number is measured, empty where no cell is planned."""
        at_layer, at_position = self._at(self.cells)
        states = self.cells["state"].to_numpy(dtype=object)  # a fixed width would cut a longer name
        if isinstance(over, int):
            states = np.where(self.cells["seed"] == over, states, "")
        grid = np.full((len(self.layers), len(self.positions)), "", dtype=object)
        for state in reversed(CellState):  # the first state in its order is written last, and stays
            here = states == state.value
            grid[at_layer[here], at_position[here]] = state.value
        return grid

    def better(self, over: Over | int) -> NDArray[np.bool_]:
        """Where [layer, position] the chosen cell beats its "no intervention"; nowhere for a mean: it has no test."""
        grid = np.zeros((len(self.layers), len(self.positions)), dtype=bool)
        if over is not Over.MEAN:
            lines = self.chosen(over)
            grid[self._at(lines)] = lines["better"].to_numpy(dtype=bool)
        return grid

    def by_place(self) -> dict[Place, float]:
        """The raw accuracy of each measured place, the maximum over seeds."""
        lines = self.chosen(Over.MAXIMUM)
        places = zip(lines["layer"], lines["position"], lines["token"].fillna(""), strict=True)
        return dict(zip(places, lines["value"], strict=True))

    def axis_labels(self) -> list[str]:
        """One label a position: its index and its token."""
        pairs = zip(self.positions, self.tokens, strict=True)
        return [f"{position} {shown_token(token)}" for position, token in pairs]

    def _done(self) -> pd.DataFrame:
        return self.cells[_MAPPED][self.cells["state"] == "done"]

    def _at(self, lines: pd.DataFrame) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        return np.searchsorted(self.layers, lines["layer"]), np.searchsorted(self.positions, lines["position"])


def heat_maps(cells: pd.DataFrame) -> list[HeatMap]:
    """Every map in `measured` cells, in their order."""
    return [
        _heat_map(experiment, method, setting, lines)
        for (experiment, method, setting), lines in cells.groupby(MAP_KEYS, sort=False)
    ]


def value_range(maps: Sequence[HeatMap], scale: Scale) -> tuple[float, float]:
    """The ends of the colour scale that all `maps` share, so that equal colours are equal numbers.

    Raw: from 0.5, or lower where a cell is, to 1. Normalised: from 0 to 1, or beyond where a cell is. Over the
    controls: as far down as up. In steps of 0.05; never stretched to make noise look like a pattern.
    """
    columns = [heat_map.cells[scale.value].dropna() for heat_map in maps]
    found = pd.concat(columns) if columns else pd.Series(dtype=float)
    low, high = (float(found.min()), float(found.max())) if len(found) else (math.nan, math.nan)
    below, above = math.floor(low * 20) / 20 if len(found) else 1.0, math.ceil(high * 20) / 20 if len(found) else 0.0
    if scale is Scale.EXCESS:
        reach = max(0.1, abs(below) if len(found) else 0.0, above)
        return -reach, reach
    floor = 0.5 if scale is Scale.RAW else 0.0
    return min(floor, below), max(1.0, above)


def shown_token(token: str) -> str:
    """A token as people can read it: line ends escaped, a leading blank as an open box."""
    token = _BYTE_TOKENS.get(token, token)
    blanks = len(token) - len(token.lstrip(" "))
    return "␣" * blanks + "".join(_SHOWN.get(letter, letter) for letter in token[blanks:])


def shown_name(name: str) -> str:
    """An experiment, method or setting as a heading."""
    return name.replace("_", " ")


def main_maps(maps: Sequence[HeatMap]) -> list[HeatMap]:
    """The maps of the distribution that the cells were trained for."""
    return [heat_map for heat_map in maps if heat_map.setting == MAIN_SETTING]


def _heat_map(experiment: str, method: str, setting: str, lines: pd.DataFrame) -> HeatMap:
    tokens = lines.drop_duplicates("position").set_index("position")["token"].fillna("").sort_index()
    return HeatMap(
        experiment=experiment,
        method=method,
        setting=setting,
        metric=lines["metric"].iloc[0],
        layers=tuple(int(layer) for layer in sorted(lines["layer"].unique())),
        positions=tuple(int(position) for position in tokens.index),
        tokens=tuple(tokens),
        seeds=tuple(int(seed) for seed in sorted(lines["seed"].unique())),
        cells=lines,
    )
