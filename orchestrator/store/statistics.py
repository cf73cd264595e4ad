"""The statistics of a sweep: intervals, paired tests, many tests at once, correlation of maps, spread over seeds.

Counts go in, never rounded rates. What each number means to a reader is told in docs/statistics.md.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

CONFIDENCE: Final = 0.95  # for every interval in a report
ALPHA: Final = 0.05  # family-wise error of every family of tests in a report

Place = TypeVar("Place", bound=Hashable)
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Correlation:
    """Pearson's r of two maps over the `n` cells that both have; NaN where it is not defined."""

    r: float
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """How a number varies over `n` seeds. `sd` is the sample's standard deviation (n - 1), NaN for one seed."""

    n: int
    mean: float
    sd: float
    minimum: float
    maximum: float


def wilson_interval(n_correct: float, n_total: float, *, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The lower and upper end of Wilson's score interval for a proportion; (0, 1) where nothing was counted.

    Raises: ValueError when the counts are no counts of a proportion.
    Source: Wilson 1927, J. Am. Stat. Assoc. 22, 209-212; in the form of Brown, Cai and DasGupta 2001, Stat. Sci. 16,
    101-133, equation 4.
    """
    if not 0 <= n_correct <= n_total:
        raise ValueError(f"got {n_correct} correct of {n_total}; expected 0 <= correct <= total")
    if n_total == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    rate = n_correct / n_total
    centre = (n_correct + z * z / 2) / (n_total + z * z)
    half = z * math.sqrt(n_total) / (n_total + z * z) * math.sqrt(rate * (1 - rate) + z * z / (4 * n_total))
    # At 0 and at n the interval ends exactly there; the sum above misses it by a rounding error.
    low = 0.0 if n_correct == 0 else centre - half
    high = 1.0 if n_correct == n_total else centre + half
    return low, high


def mean_interval(total: float, square: float, n: int, *, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The ends of Student's interval for a mean, from the sum of `n` numbers and the sum of their squares.

    NaN for fewer than two numbers, or where a sum is not finite.
    Source: Student 1908, Biometrika 6, 1-25.
    """
    if n < 2 or not math.isfinite(total + square):
        return math.nan, math.nan
    mean = total / n
    variance = max(0.0, square - total * mean) / (n - 1)  # a rounding error may make it negative
    half = student_quantile(confidence, n - 1) * math.sqrt(variance / n)
    return mean - half, mean + half


def share_difference(
    first: tuple[float, float], second: tuple[float, float], *, confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """The ends of Newcombe's interval for the second share less the first, each `(n_correct, n_total)`.

    It takes the two samples as independent. NaN where one of them is empty.
    Source: Newcombe 1998, Stat. Med. 17, 873-890, method 10: Wilson's intervals, combined.
    """
    if first[1] == 0 or second[1] == 0:
        return math.nan, math.nan
    (low_1, high_1), (low_2, high_2) = (wilson_interval(*counts, confidence=confidence) for counts in (first, second))
    rate_1, rate_2 = first[0] / first[1], second[0] / second[1]
    difference = rate_2 - rate_1
    below = math.hypot(rate_2 - low_2, high_1 - rate_1)
    above = math.hypot(high_2 - rate_2, rate_1 - low_1)
    return difference - below, difference + above


def mean_difference(
    first: tuple[float, float, int], second: tuple[float, float, int], *, confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """The ends of Welch's interval for the second mean less the first, each `(mean, standard error, n)`.

    It takes the two samples as independent; the degrees of freedom are rounded down. NaN for fewer than two numbers.
    Source: Welch 1947, Biometrika 34, 28-35.
    """
    (mean_1, error_1, n_1), (mean_2, error_2, n_2) = first, second
    if min(n_1, n_2) < 2 or not math.isfinite(mean_1 + error_1 + mean_2 + error_2):
        return math.nan, math.nan
    squares = error_1**2 + error_2**2
    if squares == 0:
        return mean_2 - mean_1, mean_2 - mean_1
    df = squares**2 / (error_1**4 / (n_1 - 1) + error_2**4 / (n_2 - 1))
    half = student_quantile(confidence, int(df + 1e-9)) * math.sqrt(squares)
    return mean_2 - mean_1 - half, mean_2 - mean_1 + half


@cache
def student_quantile(confidence: float, df: int) -> float:
    """The t with P(-t < T < t) = `confidence` for Student's distribution with `df` degrees of freedom: bisection."""
    low, high = 0.0, 1.0
    while _student_inside(high, df) < confidence:
        low, high = high, 2 * high
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if _student_inside(middle, df) < confidence else (low, middle)
    return (low + high) / 2


def _student_inside(t: float, df: int) -> float:
    """P(-t < T < t). Source: Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.3 and 26.7.4."""
    angle = math.atan(t / math.sqrt(df))
    sine, cosine = math.sin(angle), math.cos(angle)
    is_odd = df % 2
    k = np.arange(1, (df - is_odd) // 2)
    ratios = (2 * k - 1 + is_odd) / (2 * k + is_odd) * cosine**2
    terms = np.concatenate([[1.0], np.cumprod(ratios)]).sum()
    if not is_odd:
        return float(sine * terms)
    return 2 / math.pi * (angle + (float(sine * cosine * terms) if df > 1 else 0.0))


def normalise(accuracy: float, *, dummy: float, task: float) -> float:
    """The accuracy on the scale whose 0 is the majority label and whose 1 is the model's own task accuracy.

    NaN where the model is no better at its task than the majority label, because the scale then has no length.
    Source: the figures of Wu et al., NeurIPS 2023 (arXiv 2305.08809), as their published code scales them.
    """
    return (accuracy - dummy) / (task - dummy) if task > dummy else math.nan


def mcnemar_exact(n_only_first: int, n_only_second: int) -> float:
    """The two-sided p-value that two procedures, tried on the same pairs, are correct equally often.

    Only the pairs count that exactly one of the two gets right: under the null hypothesis each of them is a fair coin,
    so p is twice the smaller tail of Binomial(n, 1/2), at most 1. Logarithms keep it right for any count.
    Source: McNemar 1947, Psychometrika 12, 153-157; the exact form is the sign test.
    """
    n, smaller = n_only_first + n_only_second, min(n_only_first, n_only_second)
    if 2 * smaller >= n - 1:  # the tails meet or overlap
        return 1.0
    k = np.arange(1, smaller + 1)
    log_choose = np.concatenate([[0.0], np.cumsum(np.log((n - k + 1) / k))])  # log C(n, 0..smaller)
    return min(1.0, 2 * float(np.exp(log_choose - n * math.log(2)).sum()))


def holm(p_values: Sequence[float] | Floats) -> Floats:
    """Adjusted p-values: reject those at or below alpha, and the chance of even one false rejection is at most alpha.

    Valid however the tests depend on each other. Source: Holm 1979, Scand. J. Stat. 6, 65-70.
    """
    p, order = _ranked(p_values)
    n = len(p)
    adjusted = np.maximum.accumulate((n - np.arange(n)) * p[order])
    return _unranked(adjusted, order)


def benjamini_hochberg(p_values: Sequence[float] | Floats) -> Floats:
    """q-values: of those at or below alpha an expected share of at most alpha is false.

    Valid for independent or positively dependent tests. Source: Benjamini and Hochberg 1995, J. R. Stat. Soc. B 57,
    289-300.
    """
    p, order = _ranked(p_values)
    n = len(p)
    scaled = n / np.arange(1, n + 1) * p[order]
    return _unranked(np.minimum.accumulate(scaled[::-1])[::-1], order)


def correlation(first: Mapping[Place, float], second: Mapping[Place, float]) -> Correlation:
    """Pearson's correlation of two maps, over the cells that both have and nothing else.

    NaN for fewer than three such cells, or where one of the maps is flat on them.
    Source: Pearson 1895, Proc. R. Soc. Lond. 58, 240-242.
    """
    places = [
        place for place in first if place in second and math.isfinite(first[place]) and math.isfinite(second[place])
    ]
    x = np.array([first[place] for place in places], dtype=float)
    y = np.array([second[place] for place in places], dtype=float)
    if len(places) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return Correlation(r=math.nan, n=len(places))
    x, y = x - x.mean(), y - y.mean()
    r = float(x @ y / math.sqrt((x @ x) * (y @ y)))
    return Correlation(r=max(-1.0, min(1.0, r)), n=len(places))


def spread(values: Sequence[float]) -> Spread:
    """How `values`, one a seed, vary. Raises: ValueError for none."""
    if not values:
        raise ValueError("got no values; expected one per seed")
    numbers = np.array(values, dtype=float)
    return Spread(
        n=len(numbers),
        mean=float(numbers.mean()),
        sd=float(numbers.std(ddof=1)) if len(numbers) > 1 else math.nan,
        minimum=float(numbers.min()),
        maximum=float(numbers.max()),
    )


def _ranked(p_values: Sequence[float] | Floats) -> tuple[Floats, NDArray[np.intp]]:
    p = np.asarray(p_values, dtype=float)
    if not np.all((p >= 0) & (p <= 1)):
        raise ValueError(f"got p-values {p[~((p >= 0) & (p <= 1))].tolist()}; expected numbers from 0 to 1")
    return p, np.argsort(p, kind="stable")


def _unranked(adjusted: Floats, order: NDArray[np.intp]) -> Floats:
    result = np.empty_like(adjusted)
    result[order] = np.minimum(adjusted, 1.0)
    return result
