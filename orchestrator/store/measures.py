"""What a row's counts and sums say, by metric: the cell's number with its interval, and those of its controls.

IIA and flips are shares of the pairs, with Wilson's interval. The other metrics are means over the pairs, from their
sum and the sum of their squares, with Student's interval.
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from orchestrator.store.metrics import CONTROLS, Metric
from orchestrator.store.statistics import mean_interval, wilson_interval
from workers.files.metrics import METRICS


def metric_numbers(rows: pd.DataFrame, metric: Metric) -> pd.DataFrame:
    """One line a row of the store: `value`, the ends `low` and `high` of its 95 % interval, and `none`, `full`,
    `random` of its controls; NaN where the row does not say."""
    own = {Metric.IIA: "n_correct", Metric.FLIPS: "n_flips"}.get(metric, f"sum_{metric}")
    return _numbers(rows, own, is_share=metric.is_share)


def _numbers(rows: pd.DataFrame, own: str, *, is_share: bool) -> pd.DataFrame:
    """`metric_numbers` of the count or sum `own`, whose controls are in the columns `own_CONTROL`."""
    n_total = rows["n_total"].astype("float64")
    n_total = n_total.where(n_total > 0)
    total = rows[own].astype("float64")
    found = pd.DataFrame({"value": total / n_total})
    square = total if is_share else rows[f"{own}_sq"].astype("float64")
    ends = [_interval(*line, is_share=is_share) for line in zip(total, square, n_total, strict=True)]
    found[["low", "high"]] = np.array(ends, dtype="float64").reshape(-1, 2)
    for control in CONTROLS:
        name = f"{own}_{control}"
        found[control] = rows[name].astype("float64") / n_total if name in rows.columns else math.nan
    return found


def _interval(total: float, square: float, n_pairs: float, *, is_share: bool) -> tuple[float, float]:
    if not (math.isfinite(total) and n_pairs > 0):
        return math.nan, math.nan
    return wilson_interval(total, n_pairs) if is_share else mean_interval(total, square, int(n_pairs))


def numbers_of(rows: pd.DataFrame, metric: Metric) -> pd.DataFrame:
    """`metric_numbers`, but for a reading's row those of its own metric: the mean of its measure, or the share of right
    answers, and as `random` its own null."""
    found = metric_numbers(rows, metric)
    for name in rows["metric"].dropna().unique():
        meaning, here = METRICS[name], rows["metric"] == name
        if meaning.changes_model:
            continue
        own = _numbers(rows, f"sum_{meaning.measure}" if meaning.measure else "n_correct", is_share=meaning.is_share)
        found.loc[here] = own.loc[here]
        found.loc[here, ["none", "full"]] = math.nan
    return found
