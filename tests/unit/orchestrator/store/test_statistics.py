"""The statistics against published tables, closed forms, and scipy and statsmodels as independent implementations."""

import math
import statistics
from fractions import Fraction

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import confint_proportions_2indep, proportion_confint

from orchestrator.store.statistics import (
    benjamini_hochberg,
    correlation,
    holm,
    mcnemar_exact,
    mean_difference,
    normalise,
    share_difference,
    spread,
    wilson_interval,
)

# Newcombe 1998, Stat. Med. 17, 857-872, table I, method 3.
NEWCOMBE = [
    (81, 263, 0.2553, 0.3662),
    (15, 148, 0.0624, 0.1605),
    (0, 20, 0.0000, 0.1611),
    (1, 29, 0.0061, 0.1718),
]
# Benjamini and Hochberg 1995, section 4.1: fifteen tests of one trial.
TRIAL = [
    *(0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459),
    *(0.3240, 0.4262, 0.5719, 0.6528, 0.7590, 1.0000),
]
# Anscombe 1973, Am. Stat. 27, 17-21, first set.
ANSCOMBE_X = [10, 8, 13, 9, 11, 14, 6, 4, 12, 7, 5]
ANSCOMBE_Y = [8.04, 6.95, 7.58, 8.81, 8.33, 9.96, 7.24, 4.26, 10.84, 4.82, 5.68]


@pytest.mark.parametrize(("n_correct", "n_total", "low", "high"), NEWCOMBE)
def test_wilson_is_newcombes_table(n_correct: int, n_total: int, low: float, high: float) -> None:
    """The interval is the published one to its four digits."""
    assert wilson_interval(n_correct, n_total) == pytest.approx((low, high), abs=5e-5)


def test_wilson_inverts_the_score_test() -> None:
    """Each end is the proportion whose score test statistic is exactly the normal quantile."""
    for end in wilson_interval(37, 120):
        assert abs(37 / 120 - end) / math.sqrt(end * (1 - end) / 120) == pytest.approx(1.959964, abs=1e-6)


def test_wilson_ends_at_the_border() -> None:
    """None and all correct end at exactly 0 and 1, and no pairs tell nothing."""
    assert wilson_interval(0, 1000)[0] == 0.0
    assert wilson_interval(1000, 1000)[1] == 1.0
    assert wilson_interval(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize("counts", [(5, 4), (-1, 4)])
def test_wilson_refuses_what_is_no_proportion(counts: tuple[int, int]) -> None:
    """More correct than pairs, or fewer than none, is an error that shows the counts."""
    with pytest.raises(ValueError, match=f"got {counts[0]} correct of {counts[1]}"):
        wilson_interval(*counts)


def test_normalised_scale_has_its_two_ends() -> None:
    """The majority label is 0 and the task accuracy is 1, whatever they are; without a length there is no scale."""
    assert normalise(0.51, dummy=0.51, task=0.85) == 0.0
    assert normalise(0.85, dummy=0.51, task=0.85) == pytest.approx(1.0)
    assert normalise(0.68, dummy=0.51, task=0.85) == pytest.approx(0.5)
    assert math.isnan(normalise(0.7, dummy=0.5, task=0.5))


def exact_two_sided(first: int, second: int) -> float:
    """The sign test in rational numbers."""
    n = first + second
    tail = sum(Fraction(math.comb(n, k), 2**n) for k in range(min(first, second) + 1))
    return float(min(Fraction(1), 2 * tail))


@pytest.mark.parametrize("counts", [(0, 0), (1, 0), (5, 5), (4, 5), (1, 9), (9, 1), (86, 150), (3, 700), (400, 600)])
def test_mcnemar_is_the_sign_test_in_fractions(counts: tuple[int, int]) -> None:
    """The p-value is that of exact rational arithmetic; (1, 9) by hand: 2 x (1 + 10) / 1024."""
    assert mcnemar_exact(*counts) == pytest.approx(exact_two_sided(*counts), rel=1e-10)
    assert mcnemar_exact(1, 9) == pytest.approx(22 / 1024)


def test_mcnemar_holds_for_large_counts() -> None:
    """A million pairs neither overflow nor take a factorial; equal counts mean no difference."""
    assert mcnemar_exact(500_000, 500_000) == 1.0
    assert 0.0 <= mcnemar_exact(498_000, 502_000) < 1e-4


def test_holm_by_hand() -> None:
    """Sorted 0.005 0.01 0.03 0.04 times 4 3 2 1 is 0.02 0.03 0.06 0.04, and the last may not be below the third."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm_and_hochberg_on_the_published_trial() -> None:
    """At 0.05 the false discovery rate rejects four of the fifteen tests and the family-wise error three."""
    assert int((benjamini_hochberg(TRIAL) <= 0.05).sum()) == 4
    assert int((holm(TRIAL) <= 0.05).sum()) == 3


def test_hochberg_by_hand() -> None:
    """Sorted 0.01 0.02 0.03 0.04 times 4/1 4/2 4/3 4/4 is 0.04 each, back in the order given."""
    assert benjamini_hochberg([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.04, 0.04, 0.04, 0.04])


def test_adjusted_p_values_stay_probabilities() -> None:
    """No adjusted value exceeds 1, an empty family stays empty, and what is no probability is refused."""
    assert holm([0.9, 0.8]).tolist() == [1.0, 1.0]
    assert holm([]).tolist() == []
    assert benjamini_hochberg([]).tolist() == []
    with pytest.raises(ValueError, match=r"got p-values \[1\.5\]"):
        holm([0.1, 1.5])


def test_correlation_is_anscombes() -> None:
    """The first set of the quartet has r = 0.816."""
    found = correlation(dict(enumerate(ANSCOMBE_X)), dict(enumerate(ANSCOMBE_Y)))
    assert found.r == pytest.approx(0.81642, abs=5e-6)
    assert found.n == 11


def test_correlation_uses_shared_cells_only() -> None:
    """Cells of one map alone, or without a number, take no part and are not counted."""
    first = {(0, 1): 0.1, (0, 2): 0.2, (0, 3): 0.3, (5, 1): 0.9, (5, 2): math.nan}
    second = {(0, 3): 0.6, (0, 2): 0.4, (0, 1): 0.2, (9, 9): 0.0, (5, 2): 0.5}
    assert correlation(first, second).r == pytest.approx(1.0)
    assert correlation(first, second).n == 3


def test_correlation_of_a_flat_or_tiny_map_is_not_a_number() -> None:
    """Two cells always lie on a line, and a flat map has no direction: neither is given as a correlation."""
    assert math.isnan(correlation({1: 0.1, 2: 0.2}, {1: 0.3, 2: 0.4}).r)
    assert math.isnan(correlation({1: 0.5, 2: 0.5, 3: 0.5}, {1: 0.1, 2: 0.2, 3: 0.3}).r)


def test_spread_by_hand() -> None:
    """1, 2, 6: mean 3, squares 4 + 1 + 9 over 2; one seed has no spread; none is an error."""
    found = spread([1, 2, 6])
    assert (found.n, found.mean, found.minimum, found.maximum) == (3, 3.0, 1.0, 6.0)
    assert found.sd == pytest.approx(math.sqrt(7))
    assert math.isnan(spread([0.5]).sd)
    with pytest.raises(ValueError, match="no values"):
        spread([])


# Independent implementations ------------------------------------------------------------------------------------


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.99, 0.99999])
def test_wilson_is_statsmodels(confidence: float) -> None:
    """For small and large counts at any confidence, Bonferroni's included."""
    for n_total in (1, 2, 7, 60, 1000, 20_000):
        for n_correct in {0, 1, n_total // 3, n_total // 2, n_total - 1, n_total}:
            expected = proportion_confint(n_correct, n_total, alpha=1 - confidence, method="wilson")
            assert wilson_interval(n_correct, n_total, confidence=confidence) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("first", [0, 1, 5, 40, 399])
@pytest.mark.parametrize("second", [0, 1, 6, 41, 350, 1000])
def test_mcnemar_is_statsmodels_and_scipys_binomial(first: int, second: int) -> None:
    """The exact test of a table, and the binomial test of its discordant pairs."""
    found = mcnemar_exact(first, second)
    assert found == pytest.approx(mcnemar([[7, first], [second, 11]], exact=True).pvalue, rel=1e-9)
    if first + second:
        assert found == pytest.approx(stats.binomtest(first, first + second).pvalue, rel=1e-9)


@pytest.mark.parametrize("seed", range(20))
def test_holm_and_hochberg_are_statsmodels(seed: int) -> None:
    """Families of any size, with ties, zeros and ones."""
    rng = np.random.default_rng(seed)
    p_values = rng.uniform(size=rng.integers(1, 200)) ** rng.uniform(1, 8)
    p_values = np.concatenate([p_values, p_values[:3], [0.0, 1.0, 1.0]])
    np.testing.assert_allclose(holm(p_values), multipletests(p_values, method="holm")[1], rtol=1e-9)
    np.testing.assert_allclose(benjamini_hochberg(p_values), multipletests(p_values, method="fdr_bh")[1], rtol=1e-9)


@pytest.mark.parametrize("seed", range(20))
def test_correlation_is_scipys(seed: int) -> None:
    """Maps of IIA with more and less in common."""
    rng = np.random.default_rng(seed)
    first = rng.uniform(0.5, 1.0, rng.integers(3, 200))
    second = first + rng.uniform(0, 2) * rng.normal(size=len(first))
    found = correlation(dict(enumerate(first.tolist())), dict(enumerate(second.tolist())))
    assert found.r == pytest.approx(stats.pearsonr(first, second).statistic, abs=1e-9)


@pytest.mark.parametrize("seed", range(10))
def test_spread_is_the_standard_librarys(seed: int) -> None:
    """Number, ends, mean and the sample's standard deviation, there in exact fractions."""
    values = np.random.default_rng(seed).uniform(size=2 + seed).tolist()
    found = spread(values)
    assert (found.n, found.minimum, found.maximum) == (len(values), min(values), max(values))
    assert (found.mean, found.sd) == pytest.approx((statistics.fmean(values), statistics.stdev(values)), rel=1e-12)


# Newcombe 1998, Stat. Med. 17, 873-890, table II, method 10; there the first share less the second.
DIFFERENCES = [
    ((56, 70), (48, 80), 0.0524, 0.3339),
    ((9, 10), (3, 10), 0.1705, 0.8090),
    ((5, 56), (0, 29), -0.0381, 0.1926),
    ((0, 10), (0, 20), -0.1611, 0.2775),
]


@pytest.mark.parametrize(("one", "other", "low", "high"), DIFFERENCES)
def test_difference_of_shares_is_newcombes(
    one: tuple[int, int], other: tuple[int, int], low: float, high: float
) -> None:
    """The published intervals, to the four digits that are printed."""
    assert share_difference(other, one) == pytest.approx((low, high), abs=6e-5)


def test_difference_of_shares_equals_statsmodels() -> None:
    """Statsmodels computes the same interval at another confidence."""
    found = share_difference((40, 90), (77, 130), confidence=0.999)
    wanted = confint_proportions_2indep(77, 130, 40, 90, method="newcomb", alpha=0.001)
    assert found == pytest.approx(wanted)


def test_difference_of_means_is_welchs() -> None:
    """Scipy's interval, but for degrees of freedom that are rounded down: it is wider by less than a per cent."""
    random = np.random.default_rng(3)
    one, other = random.normal(0.0, 1.0, 40), random.normal(0.4, 2.0, 60)
    described = [(float(x.mean()), float(x.std(ddof=1) / math.sqrt(len(x))), len(x)) for x in (one, other)]
    low, high = mean_difference(*described)
    wanted = stats.ttest_ind(other, one, equal_var=False).confidence_interval(0.95)
    assert (low + high) / 2 == pytest.approx((wanted.low + wanted.high) / 2)
    assert 1.0 <= (high - low) / (wanted.high - wanted.low) < 1.01


def test_nothing_counted_has_no_difference() -> None:
    """Without pairs, or with one number, there is no interval."""
    assert all(map(math.isnan, share_difference((0, 0), (3, 4))))
    assert all(map(math.isnan, mean_difference((0.5, 0.1, 1), (0.5, 0.1, 9))))
