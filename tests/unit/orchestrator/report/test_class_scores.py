"""How well classes are told apart, against scikit-learn."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import balanced_accuracy_score, f1_score, matthews_corrcoef

from orchestrator.report.class_scores import add_class_scores, class_scores


@pytest.mark.parametrize("n_classes", [2, 5])
def test_the_scores_are_scikit_learns(n_classes: int) -> None:
    """An uneven classifier, and classes of uneven size."""
    rng = np.random.default_rng(0)
    truth = rng.choice(n_classes, 500, p=np.arange(1, n_classes + 1) / np.arange(1, n_classes + 1).sum())
    said = np.where(rng.random(500) < 0.6, truth, rng.integers(0, n_classes, 500))
    at = range(n_classes)
    counts = ([int((part == one).sum()) for one in at] for part in (truth, said, truth[truth == said]))
    chance, balanced, f1, mcc = class_scores(*counts, n_variables=1)
    assert chance == pytest.approx(1 / n_classes)
    assert balanced == pytest.approx(balanced_accuracy_score(truth, said))
    assert f1 == pytest.approx(f1_score(truth, said, average="macro"))
    assert mcc == pytest.approx(matthews_corrcoef(truth, said))


def test_chance_is_that_of_guessing_within_each_variable() -> None:
    """Two variables of two classes: a guess is right on a half of each, not on a quarter."""
    lines = pd.DataFrame(
        {
            "class_total": [[50, 50, 20, 80], [50, 50], None],
            "class_said": [[50, 50, 50, 50], [60, 40], None],
            "class_correct": [[25, 25, 10, 40], [40, 30], None],
            "variables": [["P", "Q"], ["P"], ["P"]],
        }
    )
    add_class_scores(lines)
    assert lines["chance"].tolist()[:2] == [0.5, 0.5]
    assert lines["balanced"].tolist()[0] == 0.5
    assert lines.loc[2, ["chance", "balanced"]].isna().all()
