"""Variables with several values: names and digits, read by probes and interchanged along directions."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from tests.unit.workers.planted import Planted, planted_model, save_planted
from tests.unit.workers.tiny import at, cohort_at, make_cohort, make_context, random_pairs, states_of, tiny_model
from workers.causal_model import CausalModel, Hypothesis
from workers.data.layout import read_layout
from workers.data.pairs import PairSet, make_pairs
from workers.data.tokenizer import Tokenizer
from workers.data.values import NO_VALUE, value_id
from workers.engine.model import wrap_model
from workers.engine.suffix import SuffixEngine
from workers.files.place import Place
from workers.job.evaluate import Counts, count_right
from workers.job.reading_counts import count_read
from workers.job.saved import load_columns, save_columns
from workers.methods import difference_of_means, lda, linear_probe, probe_direction, reading_vector, sparse_probe
from workers.methods.alignment import Alignment, Column
from workers.methods.base import NotApplicable, to_device
from workers.methods.class_probe import ClassProbe
from workers.methods.classes import values_of
from workers.methods.directions import means_apart, orthonormal
from workers.methods.lda import discriminants
from workers.methods.reading_vector import one_against_the_rest
from workers.methods.settings import MOST_CLASSES, method_label, method_settings
from workers.methods.sparse_probe import best_neurons

PROBES: dict[str, Any] = {
    "linear_probe": linear_probe,
    "sparse_probe": sparse_probe,
    "reading_vector": reading_vector,
}
DIRECTIONS: dict[str, Any] = {
    "difference_of_means": difference_of_means,
    "lda": lda,
    "probe_direction": probe_direction,
}
NAMES = ("Anna", "Bob", "Carl", "Dora", "Emil")
AT = (0, 5)  # where the last token is read


def named_pairs(n_pairs: int, *, seed: int, names: tuple[str, ...] = NAMES) -> PairSet:
    """Prompts of random tokens; the variable is a name, which the last token tells."""
    pairs = random_pairs(n_pairs, 6, seed=seed)
    which_B = np.random.default_rng(seed).integers(0, len(names), n_pairs)
    pairs.base.ids_BT[:, -1] = 10 + which_B
    ids = np.array([value_id(names[which]) for which in which_B])
    return replace(pairs, value_B=np.full(n_pairs, np.nan), value_id_B=ids)


def read_by(folder: Path, name: str, test: PairSet, **options: Any) -> tuple[Column, Counts]:
    """A probe of the names fitted after block 0 of a random model, and its counts on `test`."""
    model = tiny_model("llama")
    context = make_context(folder, make_cohort([AT], method=name, **options), model, named_pairs(400, seed=1))
    (column,) = PROBES[name].fit(context)
    ((counts,),) = count_read(states_of(SuffixEngine(model, places=at(5, 0)), test, at(5, 0)), [column])
    return column, counts


@pytest.mark.parametrize(
    ("name", "options"), [("linear_probe", {}), ("sparse_probe", {"k": 16}), ("reading_vector", {})]
)
def test_a_name_is_read_and_its_null_is_near_chance(tmp_path: Path, name: str, options: dict[str, int]) -> None:
    """Five names that the token tells: right nearly always, where shuffled labels are right on a fifth."""
    _, counts = read_by(tmp_path, name, named_pairs(300, seed=2), **options)
    assert counts.n_total == 300
    assert counts.n_correct is not None
    assert counts.n_correct > 285
    if name == "linear_probe":
        assert counts.n_correct_random is not None
        assert counts.n_correct_random < 150
    totals, said, both = zip(*counts.classes, strict=True)
    assert (len(totals), sum(totals), sum(said), sum(both)) == (5, 300, 300, counts.n_correct)
    assert counts.n_dummy == max(totals)


def test_a_prompt_with_a_value_that_was_not_trained_on_is_not_counted(tmp_path: Path) -> None:
    """It is of no class; the others are right."""
    test = named_pairs(300, seed=2)
    ids = np.where(np.arange(300) < 100, value_id("Zoe"), test.values)
    _, counts = read_by(tmp_path, "linear_probe", replace(test, value_id_B=ids))
    assert counts.n_total == 200
    assert sum(n_of_it for n_of_it, *_ in counts.classes) == 200


def test_a_saved_classifier_reads_the_same(tmp_path: Path) -> None:
    """Every tensor comes back to the last bit, class numbers among them."""
    column, _ = read_by(tmp_path, "linear_probe", named_pairs(64, seed=2))
    cohort = make_cohort([AT], method="linear_probe")
    save_columns(tmp_path, cohort, [column], whole=False, variables=["P"], indices=[5])
    group = make_context(tmp_path, cohort, tiny_model("llama"), named_pairs(64, seed=1)).groups
    (loaded,) = load_columns(tmp_path, group, torch.device("cpu"))
    assert isinstance(loaded.learned, ClassProbe)
    for field in fields(ClassProbe):
        assert torch.equal(getattr(loaded.learned, field.name), getattr(column.learned, field.name))


def test_digits_are_cut_in_two_unless_each_is_asked_for(tmp_path: Path) -> None:
    """The same token by five digits: two classes, or five."""
    model = tiny_model("llama")
    for options, n_classes in (({}, 2), ({"classes": "each"}, 5)):
        train = named_pairs(200, seed=1)
        digit_B = train.base.ids_BT[:, -1].astype(np.float64)
        train = replace(train, value_B=digit_B, value_id_B=None)
        cohort = make_cohort([AT], method="linear_probe", **options)
        (column,) = linear_probe.fit(make_context(tmp_path, cohort, model, train))
        ((counts,),) = count_read(states_of(SuffixEngine(model, places=at(5, 0)), train, at(5, 0)), [column])
        assert len(counts.classes) == n_classes
        assert counts.n_correct == counts.n_total == 200


def test_numbers_are_classes_in_their_order_and_each_variable_has_its_own(tmp_path: Path) -> None:
    """Classes ascend, those of the first variable first; a prompt's is one of its pair's variable."""
    pairs = random_pairs(6, 6)
    variable_B, value_B = np.array([0, 0, 0, 1, 1, 1]), np.array([7.0, 3.0, 7.0, 3.0, 5.0, 9.0])
    pairs = replace(pairs, variable_B=variable_B, value_B=value_B)
    cohort = make_cohort([AT], method="linear_probe", classes="each")
    found = values_of(make_context(tmp_path, cohort, tiny_model("llama"), pairs, n_variables=2))
    assert found.id_K.tolist() == [value_id(value) for value in (3, 7, 3, 5, 9)]
    assert found.variable_K.tolist() == [0, 0, 1, 1, 1]
    assert found.class_N.tolist() == [1, 0, 1, 2, 3, 4]
    assert [(len(label_N), n) for _, label_N, n in found.by_variable()] == [(3, 2), (3, 3)]


@pytest.mark.parametrize(
    ("ids", "why"),
    [
        (np.full(300, value_id("Anna")), "has one value only on the training pairs"),
        (np.full(300, NO_VALUE), "has values that are no numbers and no texts"),
        (np.arange(1, 301), f"has 300 values on the training pairs; expected {MOST_CLASSES} or less"),
    ],
)
def test_values_that_make_no_classes_are_refused(tmp_path: Path, ids: Any, why: str) -> None:
    """The message names method, variable and hypothesis."""
    train = replace(named_pairs(300, seed=1), value_id_B=ids)
    context = make_context(tmp_path, make_cohort([AT], method="linear_probe"), tiny_model("llama"), train)
    with pytest.raises(NotApplicable, match=f"linear_probe needs classes: variable 'P' of hypothesis 'h' {why}"):
        linear_probe.fit(context)


def planted_pairs(folder: Path, split: str) -> PairSet:
    """Pairs of the hand-wired model's task that interchange the middle number, whose values are names."""
    model = CausalModel(N=lambda Z: f"z{Z}", answer=lambda N, X, Y: X <= int(N[1:]) <= Y)
    hypothesis = Hypothesis(name="middle", model=model, variables=("N",))
    task, tokenizer = Planted(), Tokenizer.load(save_planted(folder))
    return make_pairs(task, hypothesis, tokenizer, read_layout(task, tokenizer), n_pairs=400, split=split, seed=1)


@pytest.mark.parametrize("name", DIRECTIONS)
def test_ten_names_that_lie_on_a_line_are_interchanged_along_it(tmp_path: Path, name: str) -> None:
    """The letter's embedding has its number in one dimension: the ten means span a line, and every label comes true."""
    model, place = wrap_model(planted_model()), Place(layer=0, position=2, site="block_input")
    cohort = cohort_at([place], method=name)
    columns = DIRECTIONS[name].fit(make_context(tmp_path, cohort, model, planted_pairs(tmp_path, "train")))
    test = planted_pairs(tmp_path, "test")
    engine = SuffixEngine(model, places=[place])
    ((counts,),) = count_right(engine, columns, to_device(test, torch.device("cpu")), micro_batch=100)
    assert columns[0].facts[0].subspace_dim == 1
    assert counts.n_correct == counts.n_total == 400
    assert counts.n_correct_none is not None
    assert counts.n_correct_none < 400


def test_names_in_all_directions_have_a_subspace_of_one_dimension_less(tmp_path: Path) -> None:
    """Five means of a random model: four dimensions, orthonormal, and the differences of means lie in them."""
    train = named_pairs(400, seed=1)
    context = make_context(tmp_path, make_cohort([AT], method="difference_of_means"), tiny_model("llama"), train)
    (column,) = difference_of_means.fit(context)
    assert isinstance(column.learned, Alignment)
    basis_DK = column.learned.directions_CDK[0]
    torch.testing.assert_close(basis_DK.T @ basis_DK, torch.eye(4), rtol=0, atol=1e-5)
    assert column.learned.mask_CVK.tolist() == [[[1.0] * 4]]
    assert column.facts[0].subspace_dim == 4


def test_more_values_than_dimensions_have_no_subspace(tmp_path: Path) -> None:
    """34 values need 33 dimensions, and a token of the tiny model has 32."""
    names = tuple(f"name {index}" for index in range(34))
    train = named_pairs(400, seed=1, names=names)
    context = make_context(tmp_path, make_cohort([AT], method="lda"), tiny_model("llama"), train)
    with pytest.raises(NotApplicable, match="34 values of 1 variables need 33 dimensions, and a vector has 32"):
        lda.fit(context)


def clouds(n_prompts: int = 300, width: int = 6, n_classes: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    """hidden_ND of classes whose means lie anywhere, and the class of each."""
    generator = torch.Generator().manual_seed(4)
    class_N = torch.arange(n_prompts) % n_classes
    mean_KD = 3 * torch.randn(n_classes, width, generator=generator)
    noise_ND = torch.randn(n_prompts, width, generator=generator) * torch.linspace(0.3, 1.5, width)
    return mean_KD[class_N] + noise_ND, class_N


@pytest.mark.parametrize("shrinkage", [0.01, 0.5])
def test_discriminants_of_several_classes_span_scikit_learns(shrinkage: float) -> None:
    """Each coefficient of its least-squares solver lies in the subspace, which has no more dimensions."""
    hidden_ND, class_N = clouds()
    wanted = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage).fit(hidden_ND.numpy(), class_N.numpy())
    basis_DR = orthonormal(discriminants(hidden_ND, class_N, shrinkage), n_dims=3).double()
    apart_KD = torch.from_numpy(wanted.coef_ - wanted.coef_.mean(axis=0))
    torch.testing.assert_close(apart_KD @ basis_DR @ basis_DR.T, apart_KD, rtol=0, atol=1e-4)
    assert basis_DR.shape == (6, 3)


def test_directions_that_are_nothing_have_no_basis() -> None:
    """Equal means span nothing, and rounding is no direction."""
    assert orthonormal(torch.zeros(6, 4), n_dims=3).shape == (6, 0)
    assert orthonormal(means_apart(torch.ones(8, 6) / 3, torch.arange(8) % 4), n_dims=3).shape == (6, 0)


def test_one_against_the_rest_scores_one_at_its_mean_and_minus_one_at_the_others() -> None:
    """By hand: along the axis the class's prompts have 3, the others 1; a vector that tells nothing scores 0."""
    hidden_ND = torch.tensor([[3.0, 0.0], [3.0, 0.0], [0.0, 0.0], [2.0, 0.0]])
    is_it_KN = torch.tensor([[True, True, False, False]])
    for vector, wanted in (([1.0, 0.0], [1.0, 1.0, -2.0, 0.0]), ([0.0, 1.0], [0.0] * 4)):
        scores = one_against_the_rest([torch.tensor(vector)], hidden_ND, is_it_KN)
        assert (hidden_ND @ scores.weight_KD[0] + scores.bias_K[0]).tolist() == pytest.approx(wanted)


def test_the_best_neuron_of_several_classes_is_that_of_the_largest_variance_between_means() -> None:
    """Neuron 2 tells four classes apart, neuron 0 one of them, neuron 1 none."""
    class_N = torch.arange(400) % 4
    noise_ND = torch.randn(400, 3, generator=torch.Generator().manual_seed(0))
    signal_ND = torch.stack([2.0 * (class_N == 1), torch.zeros(400), 2.0 * class_N], dim=1)
    assert best_neurons(noise_ND + signal_ND, class_N, 1).tolist() == [2]
    assert best_neurons(noise_ND + signal_ND, class_N, 2).tolist() == [0, 2]


def test_the_classes_are_part_of_key_and_label_only_where_they_are_not_the_usual_ones() -> None:
    """Cells of earlier versions keep their keys, and those of `each` have others."""
    assert "classes" not in method_settings("lda", {"classes": "cut"})
    assert (
        method_settings("lda", {}) == method_settings("lda", {"classes": "cut"}) == {"name": "lda", "shrinkage": 0.01}
    )
    each = method_settings("sparse_probe", {"classes": "each"})
    assert each["classes"] == "each"
    assert (method_label(each), method_label(method_settings("sparse_probe", {}))) == (
        "sparse_probe_k1_each",
        "sparse_probe_k1",
    )
