"""Store and grid joined: one line a planned cell and setting, with every number that the report shows of it.

The grid says which cells there are and what they are called; the store says what was measured. A cell without a
measurement keeps its state and the reason, and has no number: it is never 0.
"""

from __future__ import annotations

import math
from typing import Any, Final

import pandas as pd

from orchestrator.report.class_scores import add_class_scores
from orchestrator.status.cell_state import CellState
from orchestrator.store.measures import numbers_of
from orchestrator.store.metrics import CONTROLS, NUMBERS, Metric
from orchestrator.store.statistics import ALPHA, benjamini_hochberg, holm, mcnemar_exact, normalise
from workers.files.job import MAIN_SETTING
from workers.files.metrics import DECODING, IIA, METRICS
from workers.files.place import AXES, PLACE_COLUMNS
from workers.files.shard import CLASS_COLUMNS

MAP_KEYS: Final = ["model", "experiment", "method", "setting", "site"]  # a family of tests: a site with all its units

_GRID: Final = [
    *("cell_key", "model", "experiment", "hypothesis", *PLACE_COLUMNS, "token", "seed", "method"),
    *("state", "reason", "job"),
]
_EVALUATED: Final = ["experiment", "method", "setting"]  # what is evaluated on a setting, is so at all its sites
_CONTROLLED: Final = ["n_correct_none", "n_correct_full", "n_correct_random", "n_only_cell", "n_only_none"]
_COUNTS: Final = ["n_correct", "n_total", *_CONTROLLED, "task_n_correct", "task_n_total"]
_NOT_OF_READINGS: Final = ["n_correct_none", "n_correct_full", "n_only_cell", "n_only_none", "none", "full"]
_STORE: Final = [
    *("cell_key", "setting", "status", "reason", "metric", "dummy_accuracy", "subspace_dim", "loss", "steps"),
    *("gpu_seconds", "gpu_name", "host", "job", "attempt", *_COUNTS, *CLASS_COLUMNS, "variables"),
]


def measured(rows: pd.DataFrame, grid: pd.DataFrame, metric: Metric = Metric.IIA) -> pd.DataFrame:
    """One line a cell of `grid` and setting that its experiment and method were evaluated on, in the grid's order.

    Columns: the grid's (`model` is empty where there is one), the store's counts, and `value` (of the metric), `low`,
    `high` (its interval), `normalised`, `excess` (over the better of "no intervention" and "random rotation"; of a
    reading over its own null), `none`, `full`, `random` (of a reading its own null) and their `*_normalised`, `task`,
    `dummy`, `p`, `p_holm`, `q` and `better` (more often right than without intervention, Holm over the map); of
    classifiers `chance`, `balanced`, `f1` and `mcc`. Only IIA has a scale and a test; readings have no other metric
    than theirs, and are left out.

    Raises: ValueError when two cells of the grid would be one place and seed of one map.
    """
    grid = _with_models(grid)
    _check_apart(grid)
    lines = _planned(rows, grid).merge(_of_store(rows, metric), on=["cell_key", "setting"], how="left")
    lines["metric"] = _metric(lines, grid)
    if metric is not Metric.IIA:
        lines = lines[lines["metric"] == Metric.IIA].assign(metric=metric.value).reset_index(drop=True)
    has_counts = (lines["status"] == "done") & (lines["n_total"] > 0) & (lines["value"].notna())
    stated = lines["state"].where(lines["state"] != "done", "missing")  # done, but not evaluated on this setting
    stated = stated.map({state.value: state.on_map.value for state in CellState})
    lines["state"] = lines["status"].where(lines["status"].isin(["failed", "skipped"]), stated).mask(has_counts, "done")
    for name in ("reason", "job"):
        of_row = lines[f"{name}_of_row"]
        lines[name] = of_row.where(of_row.notna(), lines[name].where(lines[name].notna(), ""))
    lines.loc[~has_counts & (lines["status"] == "done"), "reason"] = f"its row has no {metric.words}"
    lines.loc[~has_counts, [*_COUNTS, *NUMBERS]] = math.nan
    of_readings = ~lines["metric"].map(lambda name: METRICS[name].changes_model).astype(bool)
    lines.loc[of_readings, _NOT_OF_READINGS] = math.nan  # a reading intervenes on nothing
    lines["site"] = lines["site"].where(lines["place"].isna(), lines["place"])  # a set of places is called by its name
    _add_scales(lines)
    add_class_scores(lines)
    _add_tests(lines)
    return lines.drop(columns=["status", "reason_of_row", "job_of_row", "variables", *CLASS_COLUMNS])


def planned_from(rows: pd.DataFrame) -> pd.DataFrame:
    """A grid of the cells that have rows, for a store without its sweep."""
    first = rows.drop_duplicates("cell_key")
    return first.assign(state=first["status"], model=_told_apart(first))[_GRID]


def _told_apart(rows: pd.DataFrame) -> pd.Series:
    """The models of rows, with what tells apart those of one name: the revision, or else the fingerprint."""
    named = rows[["model", "model_revision", "model_fingerprint"]].astype(object)
    named = named.where(named.notna(), "")
    for column in ("model_revision", "model_fingerprint"):
        several = named.groupby("model")["model_fingerprint"].transform("nunique") > 1
        shown = named["model"] + "@" + named[column].str[:12]
        named["model"] = named["model"].where(~several | (named[column] == ""), shown)
    return named["model"]


def _with_models(grid: pd.DataFrame) -> pd.DataFrame:
    """The grid, whose models are named where there are several."""
    is_one = "model" not in grid or grid["model"].nunique() < 2
    return grid.assign(model="") if is_one else grid


def unplanned(rows: pd.DataFrame, grid: pd.DataFrame) -> int:
    """Cells of the store that the grid does not plan: kept, and not shown."""
    return int(rows.loc[~rows["cell_key"].isin(grid["cell_key"]), "cell_key"].nunique())


def _check_apart(grid: pd.DataFrame) -> None:
    same = ["experiment", "method", *(name for name in PLACE_COLUMNS if name != "place"), "seed"]
    twice = grid[grid.duplicated([*same, "place", "model"])]
    if len(twice):
        cell = twice.iloc[0]
        raise ValueError(
            f"grid: {len(twice)} cells share {', '.join(same[:-1])} and {same[-1]} with another (first: "
            f"{cell['experiment']}, {cell['method']}, layer {cell['layer']}, position {cell['position']}, "
            f"seed {cell['seed']}); methods that differ in their settings need `method` labels that differ"
        )


def _planned(rows: pd.DataFrame, grid: pd.DataFrame) -> pd.DataFrame:
    """The grid once for each setting of its experiment and method; the main one always."""
    labels = grid[["cell_key", "experiment", "method"]]
    seen = labels.merge(rows[["cell_key", "setting"]], on="cell_key")[_EVALUATED]
    always = labels[["experiment", "method"]].drop_duplicates().assign(setting=MAIN_SETTING)
    settings = pd.concat([always, seen], ignore_index=True).drop_duplicates()
    types: dict[str, Any] = dict.fromkeys(["token", "state", "reason", "job", "place"], object)
    empty = {axis.name for axis in AXES if axis.is_number and (axis.is_optional or grid[axis.name].isna().any())}
    types |= dict.fromkeys(empty, "float64")  # no unit is NaN, as are a set's layer and position
    planned = grid[_GRID].astype(types)
    return planned.merge(settings, on=["experiment", "method"], how="left")


def _of_store(rows: pd.DataFrame, metric: Metric) -> pd.DataFrame:
    store = rows[_STORE].rename(columns={"reason": "reason_of_row", "job": "job_of_row"})
    numbers = [*_COUNTS, "dummy_accuracy", "subspace_dim", "loss", "steps", "gpu_seconds", "attempt"]
    store[numbers] = store[numbers].astype("float64")  # a count that is not there is NaN
    texts = store.columns.difference(numbers)
    store[texts] = store[texts].astype(object)  # whatever the reader made of a column without a value
    return store.rename(columns={"dummy_accuracy": "dummy"}).join(numbers_of(rows, metric))


def _metric(lines: pd.DataFrame, grid: pd.DataFrame) -> pd.Series:
    """A method has one metric: its rows say which, or the grid where no cell has a number; else it is IIA."""
    sources = (grid, lines) if "metric" in grid else (lines,)
    known: dict[str, str] = {}
    for source in sources:
        known |= source.dropna(subset=["metric"]).drop_duplicates("method").set_index("method")["metric"].to_dict()
    return pd.Series([known.get(method, IIA) for method in lines["method"]], index=lines.index, dtype=object)


def _add_scales(lines: pd.DataFrame) -> None:
    lines["task"] = lines["task_n_correct"] / lines["task_n_total"]
    lines["dummy"] = lines["dummy"].where(lines["value"].notna() & lines["metric"].isin([IIA, DECODING]))
    # Readings are not on this scale: the model's task is not theirs.
    on_scale = lines["metric"] == IIA
    for column, target in [("value", "normalised"), *((name, f"{name}_normalised") for name in CONTROLS)]:
        scaled = [
            normalise(accuracy, dummy=dummy, task=task)
            for accuracy, dummy, task in zip(lines[column], lines["dummy"], lines["task"], strict=True)
        ]
        lines[target] = pd.Series(scaled, index=lines.index, dtype="float64").where(on_scale)
    excess = lines["value"] - lines[["none", "random"]].max(axis=1)
    is_low_best = lines["metric"].map(lambda metric: METRICS[metric].best == "lowest")
    lines["excess"] = excess.mask(is_low_best, -excess)


def _add_tests(lines: pd.DataFrame) -> None:
    """The paired test of each cell against its own "no intervention"; a family is a whole site, all seeds."""
    paired = (lines["metric"] == "iia") & lines["n_only_cell"].notna() & lines["n_only_none"].notna()
    lines["p"] = math.nan
    lines.loc[paired, "p"] = [
        mcnemar_exact(int(cell), int(none))
        for cell, none in lines.loc[paired, ["n_only_cell", "n_only_none"]].itertuples(index=False)
    ]
    lines["p_holm"] = lines["q"] = math.nan
    for _, family in lines[paired].groupby(MAP_KEYS, sort=False):
        lines.loc[family.index, "p_holm"] = holm(family["p"].to_numpy())
        lines.loc[family.index, "q"] = benjamini_hochberg(family["p"].to_numpy())
    lines["better"] = (lines["p_holm"] <= ALPHA) & (lines["n_only_cell"] > lines["n_only_none"])
