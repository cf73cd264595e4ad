"""DAS with a fixed width: its masks, its limit, and the planted direction."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.unit.workers.methods.test_on_activations import planted_counts
from tests.unit.workers.tiny import SilentMonitor, at, make_cohort, make_context, random_pairs, tiny_model
from workers.engine.suffix import SuffixEngine
from workers.job.evaluate import count_right
from workers.methods import das, interchange
from workers.methods.alignment import Alignment, Column
from workers.methods.base import Interrupted, NotApplicable, to_device

CPU = torch.device("cpu")


def fitted(folder: Path, *, k: int, n_variables: int = 1, **options: Any) -> list[Column]:
    cohort = make_cohort([(0, 11), (2, 11)], method="das", epochs=1, batch_size=16, k=k)
    pairs = random_pairs(32, 12, n_variables=n_variables)
    return das.fit(make_context(folder, cohort, tiny_model("llama"), pairs, n_variables=n_variables, **options))


def alignment_of(column: Column) -> Alignment:
    assert isinstance(column.learned, Alignment)
    return column.learned


def test_each_variable_has_k_dimensions_of_its_own(tmp_path: Path) -> None:
    """Two variables of three: six orthonormal directions, the first three and the last three."""
    (column,) = fitted(tmp_path, k=3, n_variables=2)
    learned = alignment_of(column)
    assert learned.mask_CVK.tolist() == [[[1.0] * 3 + [0.0] * 3, [0.0] * 3 + [1.0] * 3]] * 2
    gram = learned.directions_CDK.mT @ learned.directions_CDK
    torch.testing.assert_close(gram, torch.eye(6).expand(2, 6, 6), rtol=0, atol=1e-5)
    assert [(facts.boundary, facts.subspace_dim, facts.steps) for facts in column.facts] == [((), 6, 2)] * 2


def test_all_dimensions_are_the_whole_vector(tmp_path: Path) -> None:
    """With k = d DAS is activation patching: the same counts, whatever the rotation."""
    model, batch = tiny_model("llama"), to_device(random_pairs(64, 12, seed=1), CPU)
    context = make_context(tmp_path, make_cohort([(0, 11), (2, 11)], method="interchange"), model, random_pairs(32, 12))
    counts = [
        count_right(SuffixEngine(model, places=at(0, 0, 2)), columns, batch, micro_batch=64)[0]
        for columns in (fitted(tmp_path, k=32), interchange.fit(context))
    ]
    for of_das, of_whole in zip(*counts, strict=True):
        assert of_das.n_correct == of_whole.n_correct == of_das.n_correct_full
        assert (of_das.n_only_cell, of_das.n_only_none) == (of_whole.n_only_cell, of_whole.n_only_none)


def test_more_dimensions_than_there_are_is_refused(tmp_path: Path) -> None:
    """2 x 17 of 32; the message says what fits."""
    with pytest.raises(NotApplicable, match="2 x 17 dimensions do not fit into a vector of 32; expected 16 or less"):
        fitted(tmp_path, k=17, n_variables=2)


def test_an_interrupted_training_ends_as_an_undisturbed_one(tmp_path: Path) -> None:
    """Without a mask that learns the checkpoint is whole too: equal to the last bit."""
    (undisturbed,) = fitted(tmp_path / "a", k=2)
    (tmp_path / "b").mkdir()
    with pytest.raises(Interrupted):
        fitted(tmp_path / "b", k=2, monitor=SilentMonitor(stop_after=1))
    (resumed,) = fitted(tmp_path / "b", k=2)
    assert torch.equal(alignment_of(resumed).directions_CDK, alignment_of(undisturbed).directions_CDK)
    assert resumed.facts == undisturbed.facts


def test_one_dimension_carries_the_planted_variable(tmp_path: Path) -> None:
    """After block 0 at the last position one direction is enough: IIA of at least 0.99; a random one is not."""
    options = {"k": 1, "epochs": 48, "batch_size": 32, "rotation_lr": 3e-2}
    _, counts = planted_counts(tmp_path, das, "das", **options)
    assert counts.n_correct >= 0.99 * counts.n_total
    assert counts.n_correct_random <= 0.75 * counts.n_total
