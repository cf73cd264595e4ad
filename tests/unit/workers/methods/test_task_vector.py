"""Task vectors: the mean of the sources' states, which answers as they do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.unit.workers.methods.test_on_activations import planted_pairs, read_by_hooks
from tests.unit.workers.planted import VOCABULARY, planted_model
from tests.unit.workers.tiny import at, make_cohort, make_context, random_pairs, tiny_model
from workers.data.pairs import PairSet
from workers.engine.model import wrap_model
from workers.engine.suffix import SuffixEngine
from workers.job.evaluate import count_right
from workers.job.saved import load_columns, save_columns
from workers.methods import task_vector
from workers.methods.alignment import Column, Replacement, groups_of
from workers.methods.base import FitContext, NotApplicable, to_device

CPU = torch.device("cpu")


def context_of(folder: Path, pairs: PairSet, *, n_variables: int = 1) -> FitContext:
    cohort = make_cohort([(0, 11), (2, 11)], method="task_vector")
    return make_context(folder, cohort, tiny_model("llama"), pairs, n_variables=n_variables, micro_batch=12)


def replacement_of(column: Column) -> Replacement:
    assert isinstance(column.learned, Replacement)
    return column.learned


def test_the_vector_is_the_mean_of_the_sources(tmp_path: Path) -> None:
    """By variable, and its null that of the bases: numpy on hooked activations."""
    pairs = random_pairs(32, 12, n_variables=2)
    (column,) = task_vector.fit(context_of(tmp_path, pairs, n_variables=2))
    turned = context_of(tmp_path, replace(pairs, base=pairs.source, source=pairs.base), n_variables=2)
    for index, layer in enumerate((0, 2)):
        bases, sources = (read_by_hooks(one, layer, 11) for one in (context_of(tmp_path, pairs), turned))
        for variable in (0, 1):
            asks = pairs.variable_B == variable
            found = replacement_of(column)
            np.testing.assert_allclose(found.vector_CVD[index, variable], sources[asks].mean(axis=0), atol=1e-5)
            np.testing.assert_allclose(found.null_CVD[index, variable], bases[asks].mean(axis=0), atol=1e-5)


def test_a_variable_that_no_training_pair_interchanges_is_refused(tmp_path: Path) -> None:
    """A vector of zeros would be put into its prompts."""
    with pytest.raises(NotApplicable, match="no training pair interchanges variable 'Q'"):
        task_vector.fit(context_of(tmp_path, random_pairs(16, 12), n_variables=2))


def test_a_prompts_own_state_changes_nothing(tmp_path: Path) -> None:
    """The mean over one prompt, put into the same prompt: the logits of the plain run."""
    one = random_pairs(1, 12)
    one = replace(one, source=one.base)
    (column,) = task_vector.fit(context_of(tmp_path, one))
    batch = to_device(one, CPU)
    forward = SuffixEngine(tiny_model("llama"), places=at(0, 0, 2)).forward(batch.base, batch.source)
    logits = forward.intervene(at(11, 0, 2), replacement_of(column).mix(batch.variable_B))
    torch.testing.assert_close(logits, forward.base_logits().expand_as(logits), rtol=0, atol=1e-5)


def test_the_state_of_prompts_of_one_answer_gives_this_answer(tmp_path: Path) -> None:
    """Behind block 1 of the hand-wired model the answer is one number: sources that all say Yes make any base say it,
    and the mean of the bases does not."""
    yes, model = VOCABULARY.index("Yes"), wrap_model(planted_model())
    pairs = planted_pairs(tmp_path, "train", 400)
    assert pairs.source_answer_B is not None
    pairs = pairs.take(np.flatnonzero(pairs.source_answer_B == yes))
    pairs = replace(pairs, label_B=np.full(len(pairs), yes))
    (column,) = task_vector.fit(make_context(tmp_path, make_cohort([(1, 4)], method="task_vector"), model, pairs))
    engine, batch = SuffixEngine(model, places=at(0, 1)), to_device(pairs, CPU)
    ((counts,),) = count_right(engine, [column], batch, micro_batch=100)
    assert counts.n_correct == counts.n_total
    assert counts.n_correct_random is not None
    assert counts.n_correct_random < counts.n_total


def test_what_was_saved_is_the_same_vector(tmp_path: Path) -> None:
    """Written and read again: equal to the last bit."""
    context = context_of(tmp_path, random_pairs(32, 12))
    (column,) = task_vector.fit(context)
    save_columns(tmp_path, context.cohort, [column], whole=False, variables=("P",), indices=())
    groups = groups_of(context.cohort.cells, width_of=context.width_of, join_places=True)
    (loaded,) = load_columns(tmp_path, groups, CPU)
    assert loaded.facts == column.facts
    for name in Replacement.__slots__:
        assert torch.equal(getattr(loaded.learned, name), getattr(column.learned, name)), name
