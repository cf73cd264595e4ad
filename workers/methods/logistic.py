"""Logistic regression with a penalty, solved to its one optimum: what probes are fitted by.

Shapes, by suffix: N examples, F features, K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

_LEAST_SCALE: Final = 1e-3  # relative to the features' common scale: a feature that hardly varies is not blown up


@dataclass(frozen=True, slots=True, kw_only=True)
class Classifier:
    """Says "above" where weight . (features - centre) + bias > 0. `loss` is the mean cross-entropy."""

    weight_F: Tensor
    bias: Tensor
    centre_F: Tensor
    loss: float
    steps: int


def standardised(features_NF: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The features in float64 with mean 0 and deviation 1, their means and their scales."""
    features_NF = features_NF.double()
    centre_F, deviation_F = features_NF.mean(dim=0), features_NF.std(dim=0, correction=0)
    least = (_LEAST_SCALE * deviation_F.square().mean().sqrt()).clamp_min(torch.finfo(torch.float32).tiny)
    scale_F = deviation_F.clamp_min(least)
    return (features_NF - centre_F) / scale_F, centre_F, scale_F


def fit_classifier(features_NF: Tensor, above_N: Tensor, *, penalty: float, max_steps: int) -> Classifier:
    """The minimum of the mean cross-entropy + penalty / 2 * |w|^2, w on standardised features."""
    x_NF, centre_F, scale_F = standardised(features_NF)
    target_N = above_N.double()
    weight_F = torch.zeros(x_NF.shape[1], dtype=torch.float64, device=x_NF.device, requires_grad=True)
    bias = torch.zeros((), dtype=torch.float64, device=x_NF.device, requires_grad=True)

    def entropy() -> Tensor:
        return nn.functional.binary_cross_entropy_with_logits(x_NF @ weight_F + bias, target_N)

    steps = _minimise(entropy, weight_F, bias, penalty=penalty, max_steps=max_steps)
    with torch.no_grad():
        return Classifier(
            weight_F=(weight_F / scale_F).float(),
            bias=bias.detach().float(),
            centre_F=centre_F.float(),
            loss=float(entropy()),
            steps=steps,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Multinomial:
    """Says the class of the highest weight . (features - centre) + bias. `loss` is the mean cross-entropy."""

    weight_KF: Tensor
    bias_K: Tensor
    centre_F: Tensor
    loss: float
    steps: int


def fit_multinomial(
    features_NF: Tensor, class_N: Tensor, *, n_classes: int, penalty: float, max_steps: int
) -> Multinomial:
    """The minimum of the mean cross-entropy of K classes + penalty / 2 * |W|^2, W on standardised features."""
    x_NF, centre_F, scale_F = standardised(features_NF)
    weight_KF = torch.zeros(n_classes, x_NF.shape[1], dtype=torch.float64, device=x_NF.device, requires_grad=True)
    bias_K = torch.zeros(n_classes, dtype=torch.float64, device=x_NF.device, requires_grad=True)

    def entropy() -> Tensor:
        return nn.functional.cross_entropy(x_NF @ weight_KF.T + bias_K, class_N)

    steps = _minimise(entropy, weight_KF, bias_K, penalty=penalty, max_steps=max_steps)
    with torch.no_grad():
        return Multinomial(
            weight_KF=(weight_KF / scale_F).float(),
            bias_K=bias_K.detach().float(),
            centre_F=centre_F.float(),
            loss=float(entropy()),
            steps=steps,
        )


def _minimise(entropy: Callable[[], Tensor], weight: Tensor, bias: Tensor, *, penalty: float, max_steps: int) -> int:
    """The steps taken; weight and bias, which `entropy` is of, are then at the minimum with the penalty.

    Source: the objective is convex and has one minimum; L-BFGS with a strong Wolfe line search (Nocedal, Wright,
    "Numerical Optimization", chapter 7) finds it.
    """
    solver = torch.optim.LBFGS(
        [weight, bias],
        max_iter=max_steps,
        max_eval=2 * max_steps,
        tolerance_grad=1e-8,
        tolerance_change=1e-14,
        line_search_fn="strong_wolfe",
    )

    def objective() -> Tensor:
        solver.zero_grad()
        value = entropy() + 0.5 * penalty * weight.square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        solver.step(objective)
    return int(solver.state[weight]["n_iter"])
