"""The gate's sequential test: exact in small cases, its error over random orders, and what a reason says."""

from __future__ import annotations

from fractions import Fraction
from math import comb

import numpy as np
import pytest
from scipy import stats

from workers.files import gate
from workers.files.gate import Verdict, count_interval, fails, reason


@pytest.mark.parametrize(("n_correct", "n_seen", "n_all"), [(0, 0, 9), (3, 5, 9), (9, 9, 9), (1, 8, 20), (0, 12, 30)])
def test_the_interval_is_that_of_the_exact_posterior(n_correct: int, n_seen: int, n_all: int) -> None:
    """Fractions give the same set of counts as the logarithms."""
    error = Fraction(1, 10)
    weights = {k: comb(k, n_correct) * comb(n_all - k, n_seen - n_correct) for k in range(n_all + 1)}
    total = sum(weights.values())
    inside = [k for k, weight in weights.items() if Fraction(1, n_all + 1) * total < weight / error]
    assert count_interval(n_correct, n_seen, n_all, error=0.1) == (min(inside), max(inside))


def test_all_prompts_leave_nothing_to_chance() -> None:
    """After all of them the interval is the count, and the gate is the plain comparison."""
    assert count_interval(7, 10, 10, error=1e-4) == (7, 7)
    assert fails(7, 10, 10, threshold=0.71)
    assert not fails(7, 10, 10, threshold=0.7)
    assert not fails(0, 0, 0, threshold=0.8)


def test_what_is_certain_fails_at_once() -> None:
    """With 21 of 25 prompts wrong, fewer than 80 of 100 can be right; with 20 of 20 wrong all the others may be."""
    assert fails(4, 25, 100, threshold=0.8)
    assert count_interval(0, 20, 100, error=1e-300) == (0, 80)


def test_few_prompts_find_a_hopeless_model() -> None:
    """The likelihood ratio needs about log(1e4) nats: at 0.3 right under a gate of 0.8 the first 64 of 1,000 suffice,
    at 0.5 too, at 0.75 they do not."""
    assert fails(19, 64, 1000, threshold=0.8)
    assert fails(32, 64, 1000, threshold=0.8)
    assert not fails(48, 64, 1000, threshold=0.8)
    assert not fails(60, 64, 1000, threshold=0.8)


def test_a_sample_that_passes_seldom_fails_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """4,000 random orders of 200 prompts, of which just the threshold's share is right, looked at after every prompt:
    with an error of 5 % at most 5 % of the orders fail, to three standard errors."""
    monkeypatch.setattr(gate, "ERROR", 0.05)
    random, n_all, n_right, n_orders = np.random.default_rng(5), 200, 160, 4000
    failing = np.array(
        [
            [
                s <= n and fails(s, n, n_all, threshold=0.8) if n < n_all and n - s <= 40 and s <= 160 else False
                for s in range(n_right + 1)
            ]
            for n in range(n_all)
        ]
    )
    orders = random.permuted(np.tile(np.arange(n_all) < n_right, (n_orders, 1)), axis=1).cumsum(axis=1)
    failed = failing[np.arange(1, n_all), orders[:, :-1]].any(axis=1).mean()
    assert failed <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / n_orders)
    assert failed > 0


def test_the_posterior_is_the_hypergeometric_ones() -> None:
    """Scipy's hypergeometric probabilities, normalised over all counts, give the same interval."""
    k = np.arange(501)
    weight = stats.hypergeom.pmf(70, 500, k, 100)
    inside = k[weight / weight.sum() * 501 > 0.05]
    assert count_interval(70, 100, 500, error=0.05) == (inside.min(), inside.max())


def test_a_reason_says_what_was_decided() -> None:
    """Threshold and numbers can be read from it again; a first look decides for no lower gate."""
    early = Verdict.of(reason(10, 64, 1000, threshold=0.8))
    assert early == Verdict(threshold=0.8, n_seen=64, n_all=1000)
    assert early.holds_for(0.8)
    assert early.holds_for(0.9)
    assert not early.holds_for(0.4)
    whole = Verdict.of(reason(700, 1000, 1000, threshold=0.8))
    assert whole == Verdict(threshold=0.8)
    assert whole.holds_for(0.75)


def test_reasons_of_earlier_versions_are_known() -> None:
    """They were all decided on all prompts; another reason is no verdict."""
    assert Verdict.of("task accuracy 0.7000 is below the gate's 0.8000") == Verdict(threshold=0.8)
    assert Verdict.of("the method works at block_output") is None


def test_counts_that_are_none_are_refused() -> None:
    """More right than asked."""
    with pytest.raises(ValueError, match="got 3 of 2 of 9"):
        count_interval(3, 2, 9, error=0.1)
