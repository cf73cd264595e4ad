"""Two sweeps side by side, map by map: the cells that both have measured, their difference, and what only one has.

Maps are paired by experiment, method, site and setting, and by what their numbers are; cells by hypothesis, place,
token and seed, those at a set of places by all its points. Numbers of two models, or of two metrics, are never
subtracted.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd

from orchestrator.report.heatmap import PLACE
from orchestrator.report.measured import MAP_KEYS, measured
from orchestrator.store.metrics import Metric
from orchestrator.store.statistics import (
    ALPHA,
    CONFIDENCE,
    correlation,
    mean_difference,
    share_difference,
    student_quantile,
)
from workers.files.metrics import METRICS

SIDES: Final = ("a", "b")
BOTH: Final = "both"
_PAIRED: Final = [*MAP_KEYS, "metric", "hypothesis", *PLACE, "points", "token", "seed"]
_TAKEN: Final = ["cell_key", "state", "value", "low", "high", "n_total"]
_NO_INTERVAL: Final = (math.nan, math.nan)


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One of the two sweeps: its name here, its spec as nested plain values, its rows and its planned cells."""

    name: str
    spec: Mapping[str, Any]
    rows: pd.DataFrame
    cells: pd.DataFrame

    @property
    def fingerprints(self) -> tuple[tuple[str, str], ...]:
        """The checkpoints that the rows are of, with what each is called where there are several."""
        found = self.rows[["cell_key", "model_fingerprint"]].dropna()
        names = self.cells.set_index("cell_key")["model"] if "model" in self.cells else pd.Series(dtype=object)
        several = names.nunique() > 1
        called = found["cell_key"].map(names) if several else pd.Series("", index=found.index)
        return tuple(sorted(set(zip(called, found["model_fingerprint"], strict=True))))


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What a comparison found.

    `cells` has a line a cell of either sweep: `_PAIRED`, `where` (`both`, `a` or `b` has measured it; empty for none),
    `planned` (likewise), for each side `key`, `value`, `low`, `high`, `n`, and of cells of both `difference` (b less a)
    with `difference_low` and `difference_high` (95 %), and `differs` (the interval that holds for the whole map
    excludes 0). `maps` has a line a map (`_map_line`). `specs` are the keys in which the specs differ. Without
    `is_one_model` there are no differences.
    """

    sides: tuple[Side, Side]
    is_one_model: bool
    cells: pd.DataFrame
    maps: pd.DataFrame
    specs: tuple[tuple[str, str, str], ...]

    def document(self) -> dict[str, Any]:
        """Plain values for `--json`; a number that is not there is null."""
        return {
            "a": self.sides[0].name,
            "b": self.sides[1].name,
            "is_one_model": self.is_one_model,
            "maps": json.loads(self.maps.to_json(orient="records", double_precision=15)),
            "cells": json.loads(self.cells.to_json(orient="records", double_precision=15)),
            "specs": [{"key": key, "a": a, "b": b} for key, a, b in self.specs],
        }


def compare(first: Side, second: Side, *, metric: Metric = Metric.IIA) -> Comparison:
    """The comparison of two sweeps. Raises: ValueError where two cells of a sweep are one place and seed of a map."""
    prints = [side.fingerprints for side in (first, second)]
    is_one_model = not all(prints) or prints[0] == prints[1]
    lines = [_lines(side, name, metric) for side, name in zip((first, second), SIDES, strict=True)]
    order = pd.concat([one[_PAIRED] for one in lines]).drop_duplicates()  # that of the first sweep's grid
    cells = order.merge(lines[0], on=_PAIRED, how="left").merge(lines[1], on=_PAIRED, how="left")
    for column in ("where", "planned"):
        has = [cells[f"{column}_{side}"].eq(True) for side in SIDES]
        cells[column] = np.select([has[0] & has[1], *has], [BOTH, *SIDES], default="")
        cells = cells.drop(columns=[f"{column}_{side}" for side in SIDES])
    cells = cells.astype(dict.fromkeys(PLACE, "Int64"))
    cells = _with_differences(cells, is_one_model=is_one_model)
    groups = cells.groupby([*MAP_KEYS, "metric"], sort=False)
    maps = pd.DataFrame([_map_line(dict(zip([*MAP_KEYS, "metric"], keys, strict=True)), part) for keys, part in groups])
    specs = tuple(spec_differences(first.spec, second.spec))
    return Comparison(sides=(first, second), is_one_model=is_one_model, cells=cells, maps=maps, specs=specs)


def _lines(side: Side, name: str, metric: Metric) -> pd.DataFrame:
    """The side's planned cells, with what it has measured of them in columns that end in `_a` or `_b`."""
    lines = measured(side.rows, side.cells, metric)
    lines["token"] = lines["token"].fillna("")
    lines["points"] = lines["cell_key"].map(side.cells.set_index("cell_key")["points"]).fillna("")
    lines = lines.astype(dict.fromkeys(PLACE, "float64"))  # a set of places has no layer, most sites have no units
    is_done = lines["state"] == "done"
    found = lines[[*_PAIRED, *_TAKEN]].assign(where=is_done, planned=True)
    found.loc[~is_done, ["value", "low", "high", "n_total"]] = math.nan
    renamed = {"cell_key": "key", "n_total": "n"}
    return found.rename(columns={old: f"{renamed.get(old, old)}_{name}" for old in (*_TAKEN, "where", "planned")})


def _with_differences(cells: pd.DataFrame, *, is_one_model: bool) -> pd.DataFrame:
    """The cells with `difference`, its interval, and `differs`: the interval at 1 - alpha / n excludes 0, with n the
    number of cells of the map that both have (Bonferroni)."""
    both = (cells["where"] == BOTH) & is_one_model
    cells["difference"] = (cells["value_b"] - cells["value_a"]).where(both)
    n_both = cells[both].groupby([*MAP_KEYS, "metric"])["seed"].transform("size").reindex(cells.index).fillna(1)
    narrow = [
        _interval(line, CONFIDENCE) if is_both else _NO_INTERVAL
        for is_both, line in zip(both, cells.to_dict("records"), strict=True)
    ]
    wide = [
        _interval(line, 1 - ALPHA / n) if is_both else _NO_INTERVAL
        for is_both, n, line in zip(both, n_both, cells.to_dict("records"), strict=True)
    ]
    ends = np.array(narrow, dtype=float).reshape(-1, 2)
    all_hold = np.array(wide, dtype=float).reshape(-1, 2)
    return cells.assign(
        difference_low=ends[:, 0],
        difference_high=ends[:, 1],
        differs=(all_hold[:, 0] > 0) | (all_hold[:, 1] < 0),
    )


def _interval(line: Mapping[str, Any], confidence: float) -> tuple[float, float]:
    """The interval of a difference: Newcombe's of shares; Welch's of means, whose standard errors follow from their own
    intervals."""
    if METRICS[line["metric"]].is_share:
        first, second = ((round(line[f"value_{side}"] * line[f"n_{side}"]), line[f"n_{side}"]) for side in SIDES)
        return share_difference(first, second, confidence=confidence)
    samples = []
    for side in SIDES:
        n = int(line[f"n_{side}"])
        if n < 2:
            return _NO_INTERVAL
        half = (line[f"high_{side}"] - line[f"low_{side}"]) / 2
        samples.append((line[f"value_{side}"], half / student_quantile(CONFIDENCE, n - 1), n))
    return mean_difference(samples[0], samples[1], confidence=confidence)


def _map_line(keys: dict[str, Any], cells: pd.DataFrame) -> dict[str, Any]:
    """One map: how many cells both have and each alone, the best value of each, the mean of each over the cells that
    both have, the mean difference with its interval, how many cells differ, and the correlation.

    The interval's ends are the means of the cells' ends. Its standard error is that of cells which depend on each other
    as strongly as they can, so it is too wide rather than too narrow.
    """
    both = cells[cells["where"] == BOTH]
    is_lowest = METRICS[keys["metric"]].best == "lowest"
    line = dict(keys)
    for name in (BOTH, *SIDES):
        line[f"n_{name}"] = int((cells["where"] == name).sum())
        line[f"n_planned_{name}"] = int((cells["planned"] == name).sum())
    for side in SIDES:
        values = cells[f"value_{side}"]
        line[f"best_{side}"] = float(values.min() if is_lowest else values.max())
        line[f"mean_{side}"] = float(both[f"value_{side}"].mean())
    has_difference = both["difference"].notna()
    line["n_same_key"] = int((both["key_a"] == both["key_b"]).sum())
    for name in ("difference", "difference_low", "difference_high"):
        line[name] = float(both[name].mean()) if has_difference.all() else math.nan
    line["n_differ"] = int(both["differs"].sum())
    found = correlation(*(dict(zip(both.index, both[f"value_{side}"], strict=True)) for side in SIDES))
    line["correlation"] = found.r if has_difference.any() else math.nan
    return line


def spec_differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """The keys, dotted, at which two specs differ, with both values as JSON; empty where one has none. Names aside."""
    one, other = _flat(first), _flat(second)
    keys = [key for key in dict.fromkeys([*one, *other]) if key != "name"]
    return [(key, one.get(key, ""), other.get(key, "")) for key in keys if one.get(key) != other.get(key)]


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        elif value not in ({}, [], None, ""):
            flat[f"{prefix}{key}"] = json.dumps(value, ensure_ascii=False)
    return flat


def only_in_one(line: Mapping[str, Any], names: Sequence[str]) -> str:
    """What one sweep has measured of a map and the other has not, in words; empty where there is nothing."""
    counts = [(line[f"n_{side}"], name) for side, name in zip(SIDES, names, strict=True)]
    return ", ".join(f"{n:,} in {name} only" for n, name in counts if n)
