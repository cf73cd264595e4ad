"""Directions used as interventions: each equals scikit-learn's, and finds the planted one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from tests.unit.workers.methods.test_on_activations import alignment_of, context_of, planted_counts
from tests.unit.workers.planted import P
from workers.methods import difference_of_means, kmeans, lda, probe_direction, random_direction
from workers.methods.base import NotApplicable
from workers.methods.kmeans import between_clusters
from workers.methods.lda import discriminant
from workers.methods.logistic import fit_classifier

MODULES = {
    "difference_of_means": difference_of_means,
    "kmeans": kmeans,
    "lda": lda,
    "probe_direction": probe_direction,
}


def clouds(n_prompts: int = 200, width: int = 6, apart: float = 1.0) -> tuple[Tensor, Tensor]:
    """hidden_ND of two classes that lie `apart` along a slanted line; which class each is of."""
    generator = torch.Generator().manual_seed(3)
    above_N = torch.arange(n_prompts) % 2 == 0
    scale_D = torch.linspace(0.3, 1.5, width)
    shift_D = torch.linspace(2.0, -1.0, width)
    hidden_ND = torch.randn(n_prompts, width, generator=generator) * scale_D + above_N[:, None] * apart * shift_D
    return hidden_ND, above_N


def cosine(one: Tensor, other: np.ndarray) -> float:
    other_D = torch.from_numpy(np.asarray(other, dtype=np.float64)).flatten()
    return float(torch.nn.functional.cosine_similarity(one.double(), other_D, dim=0))


def test_k_means_finds_scikit_learns_clusters() -> None:
    """The line between the centres of two clouds is that of the best of 20 random beginnings."""
    hidden_ND, _ = clouds(apart=3.0)
    centres = KMeans(n_clusters=2, n_init=20, random_state=0).fit(hidden_ND.numpy()).cluster_centers_
    found = between_clusters(hidden_ND)
    assert abs(cosine(found, centres[1] - centres[0])) > 1 - 1e-9
    assert float(found.norm()) == pytest.approx(float(np.linalg.norm(centres[1] - centres[0])), rel=1e-6)


def test_k_means_of_equal_states_has_no_direction() -> None:
    """Nothing varies, so nothing is interchanged, and nothing is NaN."""
    assert between_clusters(torch.ones(5, 3)).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("shrinkage", [0.01, 0.5])
def test_lda_equals_scikit_learns(shrinkage: float) -> None:
    """The same direction as its least-squares solver with the same shrinkage."""
    hidden_ND, above_N = clouds()
    wanted = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage).fit(hidden_ND.numpy(), above_N.numpy())
    assert cosine(discriminant(hidden_ND, above_N, shrinkage), wanted.coef_) > 1 - 1e-6


def test_lda_has_a_direction_where_prompts_are_fewer_than_dimensions() -> None:
    """The shrunk covariance can be inverted."""
    hidden_ND, above_N = clouds(n_prompts=8, width=30)
    assert torch.isfinite(discriminant(hidden_ND, above_N, 0.01)).all()


def test_the_probes_direction_is_scikit_learns() -> None:
    """Logistic regression on standardised features, its weights taken back to the states' own units."""
    hidden_ND, above_N = clouds()
    scale_D = hidden_ND.std(dim=0, correction=0)
    penalty = 1e-2
    x = ((hidden_ND - hidden_ND.mean(dim=0)) / scale_D).numpy()
    wanted = LogisticRegression(C=1 / (penalty * len(x)), tol=1e-10, max_iter=1000).fit(x, above_N.numpy())
    found = fit_classifier(hidden_ND, above_N, penalty=penalty, max_steps=500).weight_F
    assert cosine(found, wanted.coef_[0] / scale_D.numpy()) > 1 - 1e-6


@pytest.mark.parametrize("name", MODULES)
def test_directions_are_of_length_one_for_each_variable(tmp_path: Path, name: str) -> None:
    """Two variables, two directions, and each variable's mask lets its own through."""
    for column in MODULES[name].fit(context_of(tmp_path, name, n_variables=2)):
        learned = alignment_of(column)
        torch.testing.assert_close(learned.directions_CDK.norm(dim=1), torch.ones(len(column.cells), 2))
        assert learned.mask_CVK.tolist() == [[[1.0, 0.0], [0.0, 1.0]]] * len(column.cells)


@pytest.mark.parametrize("name", ["difference_of_means", "kmeans", "lda", "probe_direction"])
def test_a_direction_carries_the_planted_variable(tmp_path: Path, name: str) -> None:
    """The causal variable is what each finds as far as its definition lets it; a random direction carries nothing.

    Dimension P is 0 or 1 where the letters' numbers reach 9: k-means, which sees no labels, finds the numbers.
    """
    column, counts = planted_counts(tmp_path, MODULES[name], name)
    weight = float(alignment_of(column).directions_CDK[0, P, 0].abs())
    assert counts.n_correct_random is not None
    if name in ("lda", "probe_direction"):
        assert weight > 0.9
        assert counts.n_correct >= 0.97 * counts.n_total > counts.n_correct_random
    if name == "kmeans":
        assert weight < 0.5


def test_random_directions_depend_on_the_cell_alone(tmp_path: Path) -> None:
    """The same twice, orthonormal, k for each variable, and not those of the control."""
    first, again = (random_direction.fit(context_of(tmp_path, "random_direction", n_variables=2, k=3)) for _ in "ab")
    for one, other in zip(first, again, strict=True):
        directions_CDK = alignment_of(one).directions_CDK
        assert torch.equal(directions_CDK, alignment_of(other).directions_CDK)
        gram = directions_CDK.mT @ directions_CDK
        torch.testing.assert_close(gram, torch.eye(6).expand_as(gram), rtol=0, atol=1e-5)
        assert alignment_of(one).mask_CVK[0].tolist() == [[1.0] * 3 + [0.0] * 3, [0.0] * 3 + [1.0] * 3]


def test_more_random_directions_than_dimensions_are_refused(tmp_path: Path) -> None:
    """As for DAS: 33 of 32."""
    with pytest.raises(NotApplicable, match="expected 32 or less"):
        random_direction.fit(context_of(tmp_path, "random_direction", k=33))
