"""Logistic regression: at its one optimum, and of the known value where that has a closed form."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from workers.methods.logistic import fit_classifier, fit_multinomial, standardised


def test_the_gradient_vanishes_at_the_solution() -> None:
    """The objective is convex, so a point without slope is its minimum: here by numpy, penalty included."""
    rng = np.random.default_rng(0)
    features = rng.normal(3.0, [1.0, 5.0, 0.2, 1.0], (300, 4))
    above = features @ [1.0, 0.3, -2.0, 0.0] + rng.normal(0, 1, 300) > 4.0
    found = fit_classifier(torch.from_numpy(features), torch.from_numpy(above), penalty=0.01, max_steps=200)
    x = (features - features.mean(axis=0)) / features.std(axis=0)
    weight = found.weight_F.double().numpy() * features.std(axis=0)
    residual = 1 / (1 + np.exp(-(x @ weight + found.bias.item()))) - above
    assert np.abs(x.T @ residual / 300 + 0.01 * weight).max() < 1e-6
    assert abs(residual.mean()) < 1e-6


@pytest.mark.parametrize("penalty", [1e-3, 0.1, 10.0])
def test_the_solution_is_scikit_learns(penalty: float) -> None:
    """The same objective, whose strength C is 1 / (N penalty): the same weights and bias."""
    rng = np.random.default_rng(3)
    features = rng.normal(-1.0, [2.0, 0.5, 4.0], (200, 3))
    above = features @ [0.5, 2.0, -0.3] + rng.normal(0, 1, 200) > 0.0
    found = fit_classifier(torch.from_numpy(features), torch.from_numpy(above), penalty=penalty, max_steps=500)
    x = (features - features.mean(axis=0)) / features.std(axis=0)
    expected = LogisticRegression(C=1 / (len(x) * penalty), tol=1e-10, max_iter=10_000).fit(x, above)
    weight = found.weight_F.double().numpy() * features.std(axis=0)
    assert weight == pytest.approx(expected.coef_[0], abs=2e-5)
    assert found.bias.item() == pytest.approx(expected.intercept_[0], abs=2e-5)


@pytest.mark.parametrize("penalty", [1e-3, 0.1])
def test_the_multinomial_solution_is_scikit_learns(penalty: float) -> None:
    """Three classes: the same weights, and the same biases up to what all of them share."""
    rng = np.random.default_rng(5)
    features = rng.normal(-1.0, [2.0, 0.5, 4.0], (300, 3))
    scores = features @ rng.normal(0, 1, (3, 3)) + rng.gumbel(0, 1, (300, 3))
    classes = scores.argmax(axis=1)
    options = {"n_classes": 3, "penalty": penalty, "max_steps": 1000}
    found = fit_multinomial(torch.from_numpy(features), torch.from_numpy(classes), **options)
    x = (features - features.mean(axis=0)) / features.std(axis=0)
    expected = LogisticRegression(C=1 / (len(x) * penalty), tol=1e-10, max_iter=10_000).fit(x, classes)
    weight = found.weight_KF.double().numpy() * features.std(axis=0)
    bias = found.bias_K.double().numpy()
    assert weight == pytest.approx(expected.coef_, abs=5e-5)
    assert bias - bias.mean() == pytest.approx(expected.intercept_ - expected.intercept_.mean(), abs=5e-5)


def test_one_truth_value_gives_the_log_odds() -> None:
    """8 of 10 with the feature are above, and 3 of 10 without it: the weights' score is log 4 and log 3/7."""
    feature = torch.tensor([[1.0]] * 10 + [[0.0]] * 10)
    above = torch.tensor([True] * 8 + [False] * 2 + [True] * 3 + [False] * 7)
    found = fit_classifier(feature, above, penalty=1e-9, max_steps=200)
    scores = (feature[[0, 10]] - found.centre_F) @ found.weight_F + found.bias
    assert scores.tolist() == pytest.approx([np.log(4), np.log(3 / 7)], abs=1e-4)


def test_a_constant_feature_is_not_blown_up() -> None:
    """Rounding noise around 1000 stays small beside a feature that varies."""
    noise = 1000 + 1e-4 * torch.randn(50, 1, generator=torch.Generator().manual_seed(0))
    x_NF, _, _ = standardised(torch.cat([torch.linspace(-1, 1, 50)[:, None], noise], dim=1))
    assert x_NF[:, 1].abs().max() < 1.0
    assert x_NF[:, 0].std(correction=0).item() == pytest.approx(1.0)
