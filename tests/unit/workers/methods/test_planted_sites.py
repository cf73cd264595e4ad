"""Planted truth inside blocks: one head, one key-value head, one neuron, one MLP carries the variable, and is found.

In the hand-wired model, head 1 of block 0 brings the amount to the last token, neuron 0 of block 1's MLP says whether
it lies inside the bracket, and no other head or neuron does. Positions: 1 x, 2 z, 3 y, 4 the last.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import pytest
import torch

from tests.unit.workers.planted import Planted, planted_grouped_model, planted_model, save_planted
from tests.unit.workers.tiny import cohort_at, make_context, states_of
from workers.causal_model import CausalModel, Hypothesis
from workers.data.layout import read_layout
from workers.data.pairs import PairSet, make_pairs
from workers.data.tokenizer import Tokenizer
from workers.engine.check import why_not_exact
from workers.engine.meaning import check_meaning
from workers.engine.model import LanguageModel, wrap_model
from workers.engine.suffix import SuffixEngine
from workers.files.place import AnyPlace, Place, PlaceSet
from workers.job.evaluate import Counts, count_right
from workers.job.reading_counts import count_read
from workers.methods.alignment import Alignment
from workers.methods.base import to_device
from workers.methods.reading import AbstractReading

CPU = torch.device("cpu")
AMOUNT = Hypothesis(
    name="amount",
    model=CausalModel(A=lambda Z: Z, answer=lambda A, X, Y: X <= A <= Y),
    variables=("A",),
)
INSIDE = Hypothesis(
    name="inside", model=CausalModel(N=lambda X, Y, Z: X <= Z <= Y, answer=lambda N: N), variables=("N",)
)
HEADS = [Place(layer=0, position=4, site="head_output", unit=unit) for unit in range(3)]
NEURONS = [Place(layer=1, position=4, site="mlp_neurons", unit=unit) for unit in range(8)]


def pairs_of(folder: Path, hypothesis: Hypothesis, split: str, n_pairs: int) -> PairSet:
    task, tokenizer = Planted(), Tokenizer.load(save_planted(folder))
    layout = read_layout(task, tokenizer)
    return make_pairs(task, hypothesis, tokenizer, layout, n_pairs=n_pairs, split=split, seed=1)


def counts_at(
    folder: Path,
    hypothesis: Hypothesis,
    places: Sequence[AnyPlace],
    *,
    method: str = "interchange",
    model: LanguageModel | None = None,
    n_train: int = 300,
    **settings: float,
) -> Mapping[AnyPlace, Counts]:
    """The cells' counts on 300 pairs, once they are fitted."""
    model = model or wrap_model(planted_model())
    cohort = cohort_at(places, method=method, **settings)
    context = make_context(folder, cohort, model, pairs_of(folder, hypothesis, "train", n_train))
    columns = importlib.import_module(f"workers.methods.{method}").fit(context)
    engine, test = SuffixEngine(model, places=places), pairs_of(folder, hypothesis, "test", 300)
    if isinstance(columns[0].learned, AbstractReading):
        counts = count_read(states_of(engine, test, places, micro_batch=100), columns)
    else:
        counts = count_right(engine, columns, to_device(test, CPU), micro_batch=100)
    return {
        cell.place: count
        for column, column_counts in zip(columns, counts, strict=True)
        for cell, count in zip(column.cells, column_counts, strict=True)
    }


def test_one_head_carries_the_amount(tmp_path: Path) -> None:
    """Head 1 swapped at the last position: right on every pair; the heads of the bounds, or all heads at once: not."""
    places = [*HEADS, Place(layer=0, position=4, site="attention_output")]
    counts = counts_at(tmp_path, AMOUNT, places)
    by_place = {place: count.n_correct / count.n_total for place, count in counts.items()}
    assert by_place[HEADS[1]] == 1.0
    assert max(share for place, share in by_place.items() if place != HEADS[1]) < 0.9


def test_its_value_carries_the_amount_where_the_amount_stands(tmp_path: Path) -> None:
    """Head 1's value at z is correct on every pair. Its key and query say which letter is there, and another head
    does not look: these change nothing."""
    value, *others = (
        Place(layer=0, position=position, site=site, unit=unit)
        for site, unit, position in (("value", 1, 2), ("value", 0, 2), ("value", 2, 2), ("key", 1, 2), ("query", 1, 4))
    )
    counts = counts_at(tmp_path, AMOUNT, [value, *others])
    assert counts[value].n_correct == counts[value].n_total
    for place in others:
        assert counts[place].n_correct == counts[place].n_correct_none, place


def test_a_shared_value_carries_the_amount_for_its_head(tmp_path: Path) -> None:
    """Three query heads on one key-value head: its value at z, and query head 1 at the last position, are correct on
    every pair; another head is not. The tables and the fast engine hold for this family too."""
    model = wrap_model(planted_grouped_model())
    value = Place(layer=0, position=2, site="value", unit=0)
    check_meaning(model, [value, Place(layer=0, position=2, site="key", unit=0), HEADS[1]])
    assert [why_not_exact(model, place) for place in (value, HEADS[1])] == ["", ""]
    counts = counts_at(tmp_path, AMOUNT, [value, *HEADS], model=model)
    for place in (value, HEADS[1]):
        assert counts[place].n_correct == counts[place].n_total, place
    for place in (HEADS[0], HEADS[2]):
        assert counts[place].n_correct < 0.9 * counts[place].n_total, place


def test_one_neuron_and_its_mlp_carry_the_answer(tmp_path: Path) -> None:
    """Neuron 0 of block 1 and what its MLP returns: right on every pair. Neurons that read nothing and the idle
    attention of this block: no better than no intervention."""
    mlp, attention = (Place(layer=1, position=4, site=site) for site in ("mlp_output", "attention_output"))
    counts = counts_at(tmp_path, INSIDE, [NEURONS[0], NEURONS[6], NEURONS[7], mlp, attention])
    for place in (NEURONS[0], mlp):
        assert counts[place].n_correct == counts[place].n_total, place
    for place in (NEURONS[6], NEURONS[7], attention):
        assert counts[place].n_correct == counts[place].n_correct_none, place


@pytest.mark.parametrize("method", ["difference_of_means", "pca", "das", "linear_probe"])
def test_every_method_finds_the_neuron(tmp_path: Path, method: str) -> None:
    """At a width of 1 too: neuron 0 is correct on every pair; neuron 6, which reads nothing, only as a guess is."""
    settings = {"das": {"k": 1, "epochs": 1}, "pca": {"k": 1}}.get(method, {})
    counts = counts_at(tmp_path, INSIDE, [NEURONS[0], NEURONS[6]], method=method, **settings)
    assert counts[NEURONS[0]].n_correct == counts[NEURONS[0]].n_total
    assert counts[NEURONS[6]].n_correct <= max(counts[NEURONS[6]].n_dummy, counts[NEURONS[6]].n_correct_none or 0)


def test_a_learned_direction_of_the_head_carries_the_amount(tmp_path: Path) -> None:
    """One dimension of eight, learned: found in head 1, and in no head of a bound."""
    settings = {"k": 1, "batch_size": 32, "rotation_lr": 1e-2, "epochs": 6}
    counts = counts_at(tmp_path, AMOUNT, HEADS, method="das", n_train=1200, **settings)
    shares = [counts[place].n_correct / counts[place].n_total for place in HEADS]
    assert shares[1] >= 0.98
    assert max(shares[0], shares[2]) < 0.9


PAIR = Hypothesis(
    name="pair",
    model=CausalModel(
        B=lambda X, Z: 10 * X + Z,  # both numbers in one
        answer=lambda B, Y: B // 10 <= B % 10 <= Y,
    ),
    variables=("B",),
)


def set_of(subspace: Literal["one", "each"], *units: int) -> PlaceSet:
    return PlaceSet(name="heads", points=tuple(HEADS[unit] for unit in units), subspace=subspace)


def test_two_heads_carry_a_variable_together(tmp_path: Path) -> None:
    """The lower bound and the amount, one variable: heads 0 and 1 swapped at once are correct on every pair; each
    alone, and each with the third head, is not."""
    sets = [set_of("one", 0, 1), set_of("one", 0, 2), set_of("one", 1, 2)]
    counts = counts_at(tmp_path, PAIR, [*HEADS, *sets])
    shares = {place: count.n_correct / count.n_total for place, count in counts.items()}
    assert shares[sets[0]] == 1.0
    assert max(share for place, share in shares.items() if place != sets[0]) < 0.95


@pytest.mark.parametrize(("subspace", "k"), [("one", 2), ("each", 1)])
def test_learned_subspaces_of_two_heads_carry_it(tmp_path: Path, subspace: Literal["one", "each"], k: int) -> None:
    """Two dimensions of both heads together, and one dimension of each: DAS finds the variable, and random ones of the
    same width do not."""
    place = set_of(subspace, 0, 1)
    settings = {"k": k, "batch_size": 32, "rotation_lr": 1e-2, "epochs": 6}
    count = counts_at(tmp_path, PAIR, [place], method="das", n_train=1200, **settings)[place]
    assert count.n_correct / count.n_total >= 0.95
    assert count.n_correct_full == count.n_total
    assert count.n_correct_random is not None
    assert count.n_correct_random / count.n_total < 0.9


def test_a_direction_of_each_head_is_that_of_the_head_alone(tmp_path: Path) -> None:
    """Difference of means with a subspace of each: the directions of single heads side by side, zero at the other."""
    place, model = set_of("each", 0, 1), wrap_model(planted_model())
    pairs = pairs_of(tmp_path, AMOUNT, "train", 200)
    found = []
    for places in ([place], HEADS[:2]):
        context = make_context(tmp_path, cohort_at(places, method="difference_of_means"), model, pairs)
        (column,) = importlib.import_module("workers.methods.difference_of_means").fit(context)
        assert isinstance(column.learned, Alignment)
        found.append(column.learned)
    together, apart = found
    wanted = torch.block_diag(*apart.directions_CDK)
    torch.testing.assert_close(together.directions_CDK[0], wanted)
    assert together.mask_CVK.tolist() == [[[1.0, 1.0]]]
