"""Steering: closed forms of the coefficient, the planted answer, and what it is compared with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.unit.workers.methods.test_on_activations import planted_counts, read_by_hooks
from tests.unit.workers.tiny import at, make_cohort, make_context, random_pairs, tiny_model
from workers.data.pairs import UNKNOWN
from workers.engine.suffix import SuffixEngine
from workers.job.evaluate import count_right
from workers.job.saved import load_columns, save_columns
from workers.methods import interchange, steering
from workers.methods.alignment import Column, PairSteering, Steering, groups_of
from workers.methods.base import FitContext, NotApplicable, to_device

CPU = torch.device("cpu")
ANSWERS = np.array([3, 4, 4, 3, UNKNOWN, 3, 4, 3] * 4)


def context_of(folder: Path, answers: Any = ANSWERS, **options: Any) -> FitContext:
    cohort = make_cohort([(0, 11), (2, 11)], method="steering", **options)
    pairs = replace(random_pairs(32, 12), base_answer_B=answers)
    return make_context(folder, cohort, tiny_model("llama"), pairs)


def fitted(folder: Path, **options: Any) -> Column:
    (column,) = steering.fit(context_of(folder, **options))
    return column


def logits_of(column: Column) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """logits_CBV under the steering, logits_BV without any, and logits_CBV with the whole vector interchanged."""
    batch = to_device(random_pairs(16, 12, seed=1), CPU)
    forward = SuffixEngine(tiny_model("llama"), places=at(0, 0, 2)).forward(batch.base, batch.source)
    assert isinstance(column.learned, Steering | PairSteering)
    steered = forward.intervene(at(11, 0, 2), column.learned.mix(batch.variable_B, batch.label_B))
    return steered, forward.base_logits(), forward.intervene(at(11, 0, 2), lambda _base, source: source)


@pytest.mark.parametrize("contrast", ["answers", "pairs"])
def test_a_coefficient_of_zero_changes_nothing(tmp_path: Path, contrast: str) -> None:
    """The logits of the plain run."""
    steered, plain, _ = logits_of(fitted(tmp_path, coefficient=0.0, contrast=contrast))
    torch.testing.assert_close(steered, plain.expand_as(steered), rtol=0, atol=1e-5)


def test_once_the_pairs_own_difference_is_the_interchange(tmp_path: Path) -> None:
    """h(base) + 1 (h(source) - h(base)); and the counts are those of `interchange`."""
    column = fitted(tmp_path, coefficient=1.0, contrast="pairs")
    steered, _, swapped = logits_of(column)
    torch.testing.assert_close(steered, swapped, rtol=0, atol=1e-5)
    model, batch = tiny_model("llama"), to_device(random_pairs(64, 12, seed=1), CPU)
    whole = interchange.fit(
        make_context(tmp_path, make_cohort([(0, 11), (2, 11)], method="interchange"), model, random_pairs(32, 12))
    )
    engine = SuffixEngine(model, places=at(0, 0, 2))
    (mine,), (other,) = (count_right(engine, columns, batch, micro_batch=64) for columns in ([column], whole))
    assert [one.n_correct for one in mine] == [one.n_correct for one in other]


def test_the_vector_is_the_difference_of_means_by_answer(tmp_path: Path) -> None:
    """numpy on hooked activations; prompts whose answer is not known are in neither mean."""
    context = context_of(tmp_path)
    (column,) = steering.fit(context)
    assert isinstance(column.learned, Steering)
    assert column.learned.answer_CA.tolist() == [[3, 4]] * 2
    for index, layer in enumerate((0, 2)):
        hidden = read_by_hooks(context, layer, 11)
        wanted = hidden[ANSWERS == 3].mean(axis=0) - hidden[ANSWERS == 4].mean(axis=0)
        np.testing.assert_allclose(column.learned.vector_CAD[index, 0].numpy(), wanted, atol=1e-5)
        np.testing.assert_allclose(column.learned.vector_CAD[index, 1].numpy(), -wanted, atol=1e-5)


def test_each_pair_is_steered_to_its_own_label(tmp_path: Path) -> None:
    """And by twice the vector with a coefficient of 2; to an answer without a vector not at all."""
    learned = fitted(tmp_path, coefficient=2.0).learned
    assert isinstance(learned, Steering)
    base, nothing = torch.randn(2, 3, 32), torch.zeros(3, dtype=torch.int64)
    moved = learned.mix(nothing, torch.tensor([4, 3, 90]))(base, base) - base
    wanted = 2 * torch.stack([learned.vector_CAD[:, 1], learned.vector_CAD[:, 0], learned.vector_CAD[:, 0] * 0], dim=1)
    torch.testing.assert_close(moved, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("contrast", ["answers", "pairs"])
def test_the_control_is_as_long_and_leads_elsewhere(tmp_path: Path, contrast: str) -> None:
    """The same norm for every pair; it depends on the cells' keys alone."""
    column = fitted(tmp_path, coefficient=1.5, contrast=contrast)
    assert isinstance(column.learned, Steering | PairSteering)
    base, source = torch.randn(2, 2, 5, 32, generator=torch.Generator().manual_seed(0))
    asks = torch.zeros(5, dtype=torch.int64), torch.tensor([3, 4, 3, 4, 3])
    keys = [cell.key for cell in column.cells]
    own, null, again = (
        one.mix(*asks)(base, source) - base
        for one in (column.learned, column.learned.control(keys), column.learned.control(keys))
    )
    assert torch.equal(null, again)
    torch.testing.assert_close(null.norm(dim=2), own.norm(dim=2))
    assert (torch.nn.functional.cosine_similarity(own, null, dim=2).abs() < 0.9).all()


def test_the_planted_answer_is_steered_to(tmp_path: Path) -> None:
    """After block 1 the answer is one number at the last position: the contrast leads to the label of every pair."""
    _, counts = planted_counts(tmp_path, steering, "steering", points=[(1, 4)], coefficient=1.0)
    assert counts.n_correct == counts.n_total
    assert counts.n_correct_random is not None
    assert counts.n_correct_random < 0.75 * counts.n_total


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        (None, "needs each pair's base_answer, which the data lack"),
        (np.full(32, UNKNOWN), "needs each pair's base_answer, which the data lack"),
        (np.full(32, 3), "needs two answers among the training prompts"),
    ],
)
def test_without_answers_there_is_nothing_to_contrast(tmp_path: Path, answers: Any, message: str) -> None:
    """The reason is what the cells are skipped for."""
    with pytest.raises(NotApplicable, match=message):
        steering.fit(context_of(tmp_path, answers=answers))


@pytest.mark.parametrize("contrast", ["answers", "pairs"])
def test_what_was_saved_steers_the_same_way(tmp_path: Path, contrast: str) -> None:
    """Written and read again: equal to the last bit."""
    context = context_of(tmp_path, contrast=contrast, coefficient=0.5)
    (column,) = steering.fit(context)
    save_columns(tmp_path, context.cohort, [column], whole=False, variables=("P",), indices=())
    groups = groups_of(context.cohort.cells, width_of=context.width_of, join_places=True)
    (loaded,) = load_columns(tmp_path, groups, CPU)
    assert type(loaded.learned) is type(column.learned)
    assert loaded.facts == column.facts
    for name in type(column.learned).__slots__:
        assert torch.equal(getattr(loaded.learned, name), getattr(column.learned, name)), name


def test_answers_of_several_tokens_are_refused_in_validation_too(tmp_path: Path) -> None:
    """A vector leads to one token: an answer of two that only validation pairs have is refused as well."""
    context = context_of(tmp_path)
    rest = {"label": np.full((len(context.validation), 1), 5)}
    with pytest.raises(NotApplicable, match="answers of one token"):
        steering.fit(replace(context, validation=replace(context.validation, rest=rest)))
