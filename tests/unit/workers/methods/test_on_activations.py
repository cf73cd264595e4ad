"""Methods fitted on hidden states: closed forms, planted truths, and no cell that sees another."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.unit.workers.planted import P, Planted, planted_model, save_planted
from tests.unit.workers.tiny import at, make_cohort, make_context, random_pairs, states_of, tiny_model
from workers.data.layout import read_layout
from workers.data.pairs import PairSet, make_pairs
from workers.data.tokenizer import Tokenizer
from workers.engine.base import TokenBatch
from workers.engine.model import wrap_model
from workers.engine.reference import ReferenceEngine
from workers.engine.suffix import SuffixEngine
from workers.job.evaluate import Counts, count_right
from workers.job.reading_counts import count_read
from workers.methods import difference_of_means, interchange, linear_probe, pca, sparse_probe
from workers.methods.alignment import Alignment, Column, Probe
from workers.methods.base import FitContext, NotApplicable, to_device
from workers.methods.classes import classes_of, even_cut
from workers.methods.reading import AbstractReading
from workers.methods.states import HiddenStates

CPU = torch.device("cpu")
POINTS = [(layer, position) for position in (8, 11) for layer in (0, 2)]
METHODS = {
    "difference_of_means": difference_of_means,
    "pca": pca,
    "linear_probe": linear_probe,
    "sparse_probe": sparse_probe,
}


def context_of(folder: Path, method: str, points: list[tuple[int, int]] = POINTS, **options: Any) -> FitContext:
    n_variables = options.pop("n_variables", 1)
    pairs = random_pairs(41, 12, n_prefix=3, n_variables=n_variables)
    cohort = make_cohort(points, method=method, **options)
    return make_context(folder, cohort, tiny_model("llama"), pairs, n_variables=n_variables, micro_batch=16)


def read_by_hooks(context: FitContext, layer: int, position: int) -> NDArray[np.float64]:
    """The base prompts' hidden states, by the plain engine."""
    prompts = TokenBatch.of(context.train.base, context.device)
    hidden, _ = ReferenceEngine(tiny_model("llama")).forward(prompts, prompts).activations(at(position, layer))
    return hidden[0].double().numpy()


def alignment_of(column: Column) -> Alignment:
    assert isinstance(column.learned, Alignment)
    return column.learned


@pytest.mark.parametrize("n_prompts", [1, 2, 7, 8])
def test_both_lanes_of_a_forward_give_every_prompt_once(n_prompts: int) -> None:
    """Even and odd numbers of prompts, in their order."""
    model, prompts = tiny_model("llama"), TokenBatch.of(random_pairs(8, 9).base, CPU).rows(0, n_prompts)
    found = HiddenStates(SuffixEngine(model, places=at(0, 0, 1)), prompts).at(at(5, 0, 1))
    wanted, _ = ReferenceEngine(model).forward(prompts, prompts).activations(at(5, 0, 1))
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_difference_of_means_is_the_closed_form(tmp_path: Path) -> None:
    """For each variable and cell, the unit vector between the means by numpy on hooked activations."""
    context = context_of(tmp_path, "difference_of_means", n_variables=2)
    for column in difference_of_means.fit(context):
        for index, place in enumerate(column.places({column.position: column.position})):
            hidden = read_by_hooks(context, place.layer, column.position)
            for variable in (0, 1):
                asks = context.train.variable_B == variable
                above = context.train.value_B > 0.5
                difference = hidden[asks & above].mean(axis=0) - hidden[asks & ~above].mean(axis=0)
                found = alignment_of(column).directions_CDK[index, :, variable].numpy()
                np.testing.assert_allclose(found, difference / np.linalg.norm(difference), atol=1e-4)


def test_each_variable_moves_along_its_own_difference(tmp_path: Path) -> None:
    """Interchanging the second variable moves the base along the second direction, up to the source's coordinate."""
    (column,) = difference_of_means.fit(context_of(tmp_path, "difference_of_means", [(1, 11)], n_variables=2))
    base, source = torch.randn(2, 1, 5, 32, generator=torch.Generator().manual_seed(0))
    mixed = alignment_of(column).mix(torch.ones(5, dtype=torch.int64))(base, source)
    direction = alignment_of(column).directions_CDK[0, :, 1]
    torch.testing.assert_close(mixed @ direction, source @ direction)
    torch.testing.assert_close(mixed - base, ((mixed - base) @ direction)[..., None] * direction)


def test_principal_components_equal_numpys_svd(tmp_path: Path) -> None:
    """The first three right singular vectors of the centred hidden states, up to sign."""
    context = context_of(tmp_path, "pca", k=3)
    for column in pca.fit(context):
        for index, place in enumerate(column.places({column.position: column.position})):
            hidden = read_by_hooks(context, place.layer, column.position)
            wanted = np.linalg.svd(hidden - hidden.mean(axis=0))[2][:3].T
            found = alignment_of(column).directions_CDK[index].numpy()
            np.testing.assert_allclose(np.abs(np.sum(found * wanted, axis=0)), 1.0, atol=1e-4)


def test_every_variable_takes_over_the_same_components(tmp_path: Path) -> None:
    """Principal components know no variable: two of them have one mask."""
    (column,) = pca.fit(context_of(tmp_path, "pca", [(1, 11)], n_variables=2, k=2))
    assert alignment_of(column).mask_CVK.tolist() == [[[1.0, 1.0], [1.0, 1.0]]]


@pytest.mark.parametrize("name", METHODS)
def test_a_cell_is_fitted_as_if_alone(tmp_path: Path, name: str) -> None:
    """Four cells together equal each of them alone, to the last bit."""
    module = METHODS[name]
    together = module.fit(context_of(tmp_path, name))
    for column in together:
        for index, cell in enumerate(column.cells):
            (alone,) = module.fit(context_of(tmp_path, name, [(cell.place.layer, cell.place.position)]))
            assert alone.facts == (column.facts[index],)
            for field in fields(column.learned):
                one, of_many = getattr(alone.learned, field.name)[0], getattr(column.learned, field.name)[index]
                assert torch.equal(one, of_many), (cell, field.name)


def planted_pairs(folder: Path, split: str, n_pairs: int) -> PairSet:
    """Pairs of the hand-wired model's task that ask for the left boundary's variable."""
    task, tokenizer = Planted(), Tokenizer.load(save_planted(folder))
    layout, hypothesis = read_layout(task, tokenizer), task.hypotheses["left_boundary"]
    return make_pairs(task, hypothesis, tokenizer, layout, n_pairs=n_pairs, split=split, seed=1)


def planted_counts(folder: Path, module: Any, name: str, **options: Any) -> tuple[Column, Counts]:
    """A method fitted on the hand-wired model after block 0 at the last position, and its counts on fresh pairs."""
    model = wrap_model(planted_model())
    points = options.pop("points", [(0, 4)])
    cohort = make_cohort(points, method=name, **options)
    (column,) = module.fit(make_context(folder, cohort, model, planted_pairs(folder, "train", 400)))
    engine, test = SuffixEngine(model, places=at(0, 0, 1)), planted_pairs(folder, "test", 300)
    if isinstance(column.learned, AbstractReading):
        ((counts,),) = count_read(states_of(engine, test, column.places({4: 4}), micro_batch=100), [column])
    else:
        ((counts,),) = count_right(engine, [column], to_device(test, CPU), micro_batch=100)
    return column, counts


def test_a_linear_probe_decodes_the_planted_variable(tmp_path: Path) -> None:
    """Every fresh prompt right; no control but shuffled labels, because nothing is intervened on."""
    _, counts = planted_counts(tmp_path, linear_probe, "linear_probe")
    assert counts.n_correct == counts.n_total == 300
    assert 150 <= counts.n_dummy < 300
    assert (counts.n_correct_none, counts.n_correct_full) == (None, None)
    assert counts.n_correct_random is not None
    assert counts.n_correct_random < 300


def test_a_test_prompt_whose_value_is_no_number_is_not_counted(tmp_path: Path) -> None:
    """It is of neither class; a probe that classifies all others correctly has an accuracy of 1."""
    cohort, model = make_cohort([(0, 4)], method="linear_probe"), wrap_model(planted_model())
    (column,) = linear_probe.fit(make_context(tmp_path, cohort, model, planted_pairs(tmp_path, "train", 400)))
    test = planted_pairs(tmp_path, "test", 300)
    test = replace(test, value_B=np.where(np.arange(300) < 100, np.nan, test.value_B))
    ((counts,),) = count_read(states_of(SuffixEngine(model, places=at(4, 0)), test, at(4, 0)), [column])
    assert counts.n_correct == counts.n_total == 200
    assert sum(n_of_it for n_of_it, *_ in counts.classes) == 200


def test_a_sparse_probe_picks_the_planted_neuron(tmp_path: Path) -> None:
    """With one neuron it reads dimension P, and is correct every time."""
    column, counts = planted_counts(tmp_path, sparse_probe, "sparse_probe", k=1)
    assert isinstance(column.learned, Probe)
    assert column.learned.weight_CVD[0, 0].nonzero().flatten().tolist() == [P]
    assert counts.n_correct == 300
    assert column.facts[0].subspace_dim == 1


def test_a_probe_of_all_neurons_has_no_other_neurons_as_its_null(tmp_path: Path) -> None:
    """A null that reads the same neurons would say what the probe says: there is none, rather than an equal number."""
    width = planted_model().config.hidden_size
    _, counts = planted_counts(tmp_path, sparse_probe, "sparse_probe", k=width)
    assert counts.n_correct == 300
    assert counts.n_correct_random is None


def test_the_whole_vector_is_its_own_control(tmp_path: Path) -> None:
    """Activation patching is what the control of a whole swap counts; a rotation of it is none."""
    _, counts = planted_counts(tmp_path, interchange, "interchange")
    assert counts.n_correct == counts.n_correct_full
    assert counts.n_correct_random is None


def test_truth_values_are_cut_in_the_middle_and_numbers_at_the_median() -> None:
    """Midway between two values, as even as can be, whatever the majority."""
    assert even_cut(np.array([0.0] * 9 + [1.0])) == 0.5
    assert even_cut(np.array([1.0, 2.0, 3.0, 10.0])) == 2.5
    assert even_cut(np.array([5.0, 5.0, 5.0, 7.0, 9.0])) == 6.0


@pytest.mark.parametrize(
    ("value", "why"), [(np.nan, "has values that are no numbers"), (1.0, "has one value only on the training pairs")]
)
def test_a_variable_without_two_classes_is_refused(tmp_path: Path, value: float, why: str) -> None:
    """The message names method, variable and hypothesis."""
    context = context_of(tmp_path, "linear_probe")
    train = replace(context.train, value_B=np.full(len(context.train), value))
    with pytest.raises(NotApplicable, match=f"linear_probe needs two classes: variable 'P' of hypothesis 'h' {why}"):
        classes_of(replace(context, train=train))


@pytest.mark.parametrize("name", ["pca", "sparse_probe"])
def test_more_than_there_is_is_refused(tmp_path: Path, name: str) -> None:
    """33 of 32 dimensions."""
    with pytest.raises(NotApplicable, match="k: got 33; a vector of 32"):
        METHODS[name].fit(context_of(tmp_path, name, k=33))
