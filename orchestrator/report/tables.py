"""The tables of a report as data: the paper's summary, one line a map."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from orchestrator.report.heatmap import PLACE, HeatMap, Over, heat_maps, site_maps
from orchestrator.report.measured import measured, planned_from
from orchestrator.status.cell_state import CellState
from orchestrator.store.metrics import CONTROLS, Metric
from orchestrator.store.statistics import Correlation, correlation
from workers.files.job import MAIN_SETTING
from workers.files.metrics import CLASS_SCORES

_OF_THE_BEST = [
    *("layer", "position", "token", "seed", "low", "high", "n_correct", "n_total", "normalised", *CONTROLS),
    *("dummy", "task", "task_n_correct", "task_n_total", "p_holm", "unit", *CLASS_SCORES),
]
_NOT_RUN = (CellState.SKIPPED.value, CellState.LEFT_OUT.value)  # a map calls inapplicable cells skipped
_UNMEASURED = Correlation(r=math.nan, n=0)


def summary(
    rows: pd.DataFrame,
    grid: pd.DataFrame | None = None,
    *,
    baselines: Mapping[str, str] | None = None,
    metric: Metric = Metric.IIA,
) -> pd.DataFrame:
    """One line a model, experiment, method, setting and site: the paper's table, for the main setting and every other.

    `grid` names the planned cells; without it the store's own cells are taken to be all. `baselines` says for an
    experiment which experiment its map is correlated with: the first one where it is silent. `metric` is the number
    that the maps have; only IIA has `normalised`, `dummy` and tests.

    Columns: `n_places` (layer x position x unit) and `n_measured` of them, `n_seeds`; `maximum` over places and seeds,
    and of that one cell: its place (`unit` where the site has some) and seed, interval (`low`, `high`), counts,
    `normalised`, controls, `dummy`, `task` accuracy, `p_holm`; `mean` and `variance_x100` over the map (population
    variance, maximum over seeds); `seeds_sd`, the mean over places of the standard deviation over seeds; `n_better` of
    `n_tested` cells more often right than without intervention (Holm); `correlation` with the map of `baseline` in the
    main setting and `correlation_own` with the experiment's own main map, each with the number of cells that both maps
    have, all of the same model; `site`, or the name of a set of places, which has no layer; `model`, empty where the
    sweep has one.
    `metric` says what the numbers are (`workers.files.metrics`); those of two metrics are not to be compared. Where low
    values are of interest, `maximum` is the lowest. A classifier has `chance`, `balanced` accuracy, `f1` and `mcc`.
    Of metric `decoding` it is a probe's accuracy and no IIA: decodable is not causal.
    """
    lines = measured(rows, planned_from(rows) if grid is None else grid, metric)
    return summary_of(heat_maps(lines), baselines=baselines)


def summary_of(maps: Sequence[HeatMap], *, baselines: Mapping[str, str] | None = None) -> pd.DataFrame:
    """`summary` of maps that are there already; no columns where there are none.

    Raises: ValueError for a baseline that is no experiment.
    """
    maps = site_maps(maps)
    if not maps:
        return pd.DataFrame()
    experiments = list(dict.fromkeys(item.experiment for item in maps))
    for name, baseline in (baselines or {}).items():
        if baseline not in experiments:
            raise ValueError(f"baseline of {name!r}: got {baseline!r}; expected one of {', '.join(experiments)}")
    mains = {
        (item.model, item.experiment, item.method, item.site): item.by_place()
        for item in maps
        if item.setting == MAIN_SETTING
    }
    shown = _worth_a_line(maps)
    return pd.DataFrame([_line(item, mains, (baselines or {}).get(item.experiment, experiments[0])) for item in shown])


def _worth_a_line(maps: Sequence[HeatMap]) -> list[HeatMap]:
    """The maps without those of sites at which a method has nothing to run, where it has something elsewhere."""
    is_idle = [bool(item.cells["state"].isin(_NOT_RUN).all()) for item in maps]
    busy = {(item.experiment, item.method) for item, idle in zip(maps, is_idle, strict=True) if not idle}
    return [
        item for item, idle in zip(maps, is_idle, strict=True) if not idle or (item.experiment, item.method) not in busy
    ]


def _line(item: HeatMap, mains: Mapping[tuple[str, str, str, str], dict[Any, float]], baseline: str) -> dict[str, Any]:
    places = item.by_place()
    is_baseline = item.setting == MAIN_SETTING and item.experiment == baseline
    is_main = item.setting == MAIN_SETTING
    with_baseline = (
        correlation(places, mains.get((item.model, baseline, item.method, item.site), {}))
        if not is_baseline
        else _UNMEASURED
    )
    own = mains[item.model, item.experiment, item.method, item.site]
    with_own = correlation(places, own) if not is_main else _UNMEASURED
    done = item.cells.loc[item.cells["state"] == "done", [*PLACE, "value", "better", "p"]]
    return {
        "experiment": item.experiment,
        "method": item.method,
        "setting": item.setting,
        "metric": item.metric,
        "n_places": len(item.cells[PLACE].drop_duplicates()),
        "n_measured": len(places),
        "n_seeds": len(item.seeds),
        "maximum": (min if item.best == "lowest" else max)(places.values(), default=math.nan),
        **_best(item),
        "mean": float(pd.Series(places, dtype=float).mean()),
        "variance_x100": 100 * float(pd.Series(places, dtype=float).var(ddof=0)),
        "seeds_sd": float(done.groupby(PLACE, dropna=False)["value"].std(ddof=1).mean()),
        "n_better": int(done["better"].sum()),
        "n_tested": int(done["p"].notna().sum()),
        "baseline": baseline,
        "correlation": with_baseline.r,
        "correlation_n": with_baseline.n,
        "correlation_own": with_own.r,
        "correlation_own_n": with_own.n,
        "site": item.site,
        "model": item.model,
    }


def _best(item: HeatMap) -> dict[str, Any]:
    """The numbers of the one cell with the highest accuracy; None where nothing is measured."""
    lines = item.chosen(Over.MAXIMUM)
    if lines.empty:
        return dict.fromkeys(_OF_THE_BEST)
    best: dict[str, Any] = item.cells.loc[lines.index[0], _OF_THE_BEST].to_dict()
    best["unit"] = None if pd.isna(best["unit"]) else int(best["unit"])
    none = [name for name, has in (("layer", not item.is_set), ("position", item.has_positions)) if not has]
    return best | dict.fromkeys(none)
