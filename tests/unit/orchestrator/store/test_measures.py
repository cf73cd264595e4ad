"""The numbers of a row by metric, against statsmodels and scipy on the pairs themselves."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from orchestrator.store.measures import metric_numbers
from orchestrator.store.metrics import Metric
from orchestrator.store.statistics import mean_interval, student_quantile, wilson_interval


@pytest.mark.parametrize("df", [1, 2, 3, 4, 7, 30, 199, 999, 20_000])
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
def test_students_quantile_is_scipys(df: int, confidence: float) -> None:
    """To ten digits, for even and odd degrees of freedom."""
    assert student_quantile(confidence, df) == pytest.approx(stats.t.ppf((1 + confidence) / 2, df), rel=1e-10)


@pytest.mark.parametrize("n", [2, 3, 50, 1000])
def test_the_interval_of_a_mean_is_scipys(n: int) -> None:
    """From the sum and the sum of squares alone."""
    values = np.random.default_rng(n).normal(3, 2, n)
    wanted = stats.t.interval(0.95, n - 1, loc=values.mean(), scale=stats.sem(values))
    assert mean_interval(values.sum(), (values**2).sum(), n) == pytest.approx(wanted, rel=1e-9)


def test_a_mean_without_spread_has_an_interval_of_no_width() -> None:
    """A rounding error that makes the variance negative makes no NaN of it; one number has no interval."""
    assert mean_interval(0.1 * 3, 3 * 0.1**2 - 1e-17, 3) == pytest.approx((0.1, 0.1))
    assert all(math.isnan(end) for end in mean_interval(1.0, 1.0, 1))
    assert all(math.isnan(end) for end in mean_interval(math.nan, 1.0, 5))


def rows() -> tuple[np.ndarray, pd.DataFrame]:
    """A row of 40 pairs, and one that has counts alone."""
    values = np.random.default_rng(0).normal(-1, 1, 40)
    whole = {
        "n_total": 40,
        "n_correct": 30,
        "n_correct_none": 10,
        "n_correct_full": 35,
        "n_correct_random": None,
        "n_flips": 12,
        "sum_kl": values.sum(),
        "sum_kl_sq": (values**2).sum(),
        "sum_kl_none": 0.0,
        "sum_kl_full": 80.0,
        "sum_kl_random": 4.0,
    }
    old = {name: value if name.startswith("n_correct") or name == "n_total" else None for name, value in whole.items()}
    return values, pd.DataFrame([whole, old])


def test_a_mean_comes_from_its_sums() -> None:
    """The mean, Student's interval, and the controls' means; nothing of a row that has no sums."""
    values, frame = rows()
    found, nothing = metric_numbers(frame, Metric.KL).to_dict("records")
    assert found["value"] == pytest.approx(values.mean())
    assert (found["low"], found["high"]) == pytest.approx(stats.t.interval(0.95, 39, values.mean(), stats.sem(values)))
    assert (found["none"], found["full"], found["random"]) == (0.0, 2.0, 0.1)
    assert all(math.isnan(value) for value in nothing.values())


def test_shares_keep_wilsons_interval() -> None:
    """IIA from its counts, with controls; flips without."""
    _, frame = rows()
    found = metric_numbers(frame, Metric.IIA).iloc[0]
    assert (found["value"], found["none"], found["full"]) == (0.75, 0.25, 0.875)
    assert math.isnan(found["random"])
    assert (found["low"], found["high"]) == wilson_interval(30, 40)
    flips = metric_numbers(frame, Metric.FLIPS).iloc[0]
    assert (flips["value"], flips["low"], flips["high"]) == (0.3, *wilson_interval(12, 40))
    assert flips[["none", "full", "random"]].isna().all()
