"""Attention knockout: the hand-wired model's answer when what its heads read is cut, worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.unit.workers.planted import Planted, planted_model, save_planted
from tests.unit.workers.tiny import cohort_at, make_context, ragged_pairs, states_of, tiny_model
from workers.data.answers import UNKNOWN
from workers.data.layout import read_layout
from workers.data.pairs import PairSet, make_pairs
from workers.data.tokenizer import Tokenizer
from workers.engine.model import LanguageModel, wrap_model
from workers.files.place import Place
from workers.job.evaluate import Counts
from workers.job.reading_counts import count_read
from workers.job.saved import load_columns, save_columns
from workers.methods import attention_knockout
from workers.methods.alignment import Column
from workers.methods.base import NotApplicable

N_PAIRS = 200
AT_X, AT_Z = 1, 2


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> PairSet:
    """Pairs of the hand-wired model's task: `<s> x3 z5 y7 =`."""
    task, tokenizer = Planted(), Tokenizer.load(save_planted(tmp_path_factory.mktemp("planted")))
    layout, hypothesis = read_layout(task, tokenizer), task.hypotheses["left_boundary"]
    return make_pairs(task, hypothesis, tokenizer, layout, n_pairs=N_PAIRS, split="test", seed=1)


def fitted(folder: Path, model: LanguageModel, places: list[Place], pairs: PairSet, **settings: object) -> list[Column]:
    """The columns of cells at these places."""
    cohort = cohort_at(places, method="attention_knockout", **settings)
    return attention_knockout.fit(make_context(folder, cohort, model, pairs))


def counts_of(folder: Path, pairs: PairSet, *places: Place, **settings: object) -> list[Counts]:
    """What each cell, all of one position, says of the hand-wired model."""
    model = wrap_model(planted_model())
    (column,) = columns = fitted(folder, model, list(places), pairs, **{"window": 1} | settings)
    context = make_context(folder, cohort_at(list(places), method="attention_knockout"), model, pairs)
    (counts,) = count_read(states_of(context.engine, pairs, []), columns)
    assert len(counts) == len(column.cells)
    return counts


def mean_change(counts: Counts) -> float:
    return counts.sums["sum_relative_change"] / counts.n_total


def numbers(pairs: PairSet) -> tuple[NDArray[np.float64], ...]:
    """x, z and y of each prompt, by their tokens."""
    return tuple(pairs.base.ids_BT[:, at] - first * 1.0 for at, first in ((1, 1), (2, 11), (3, 21)))


def wanted(pairs: PairSet, x: NDArray[np.float64], z: NDArray[np.float64]) -> float:
    """The mean relative change where the last token reads these numbers instead of its own."""

    def probability(x: NDArray[np.float64], z: NDArray[np.float64]) -> NDArray[np.float64]:
        is_above, is_below = (np.clip(one + 1, 0, 1) for one in (z - x, y - z))
        yes = 1 / (1 + np.exp(10 - 20 * np.maximum(is_above + is_below - 1, 0)))
        return np.where((own_x <= own_z) & (own_z <= y), yes, 1 - yes)

    own_x, own_z, y = numbers(pairs)
    return float((probability(x, z) / probability(own_x, own_z) - 1).mean())


def test_a_cut_edge_leaves_the_head_the_mean_of_the_other_tokens(tmp_path: Path, pairs: PairSet) -> None:
    """Without z its head attends to all others alike, of which two have numbers: it reads (x + y) / 4."""
    x, _, y = numbers(pairs)
    (counts,) = counts_of(tmp_path, pairs, Place(layer=0, position=AT_Z))
    assert counts.n_total == N_PAIRS
    assert mean_change(counts) == pytest.approx(wanted(pairs, x, (x + y) / 4), abs=1e-3)
    assert mean_change(counts) < -0.2


def test_further_positions_are_cut_with_it(tmp_path: Path, pairs: PairSet) -> None:
    """Without x and z both heads read y / 3."""
    _, _, y = numbers(pairs)
    (counts,) = counts_of(tmp_path, pairs, Place(layer=0, position=AT_X), also=[AT_Z])
    assert mean_change(counts) == pytest.approx(wanted(pairs, y / 3, y / 3), abs=1e-3)


def test_a_head_is_cut_alone(tmp_path: Path, pairs: PairSet) -> None:
    """Head 1 reads z: it alone does what all heads do, and another one changes nothing."""
    heads = [Place(layer=0, position=AT_Z, site="head_output", unit=unit) for unit in (0, 1)]
    other, own = counts_of(tmp_path, pairs, *heads)
    (every,) = counts_of(tmp_path, pairs, Place(layer=0, position=AT_Z))
    assert mean_change(own) == pytest.approx(mean_change(every), abs=1e-6)
    assert mean_change(other) == pytest.approx(0, abs=1e-6)


def test_what_is_not_read_changes_nothing_and_random_edges_stand_beside(tmp_path: Path, pairs: PairSet) -> None:
    """Block 1 has no attention; and no head reads the first token, while some of the random others are read."""
    later, first = Place(layer=1, position=AT_Z), Place(layer=0, position=0)
    for place in (later, first):
        (counts,) = counts_of(tmp_path, pairs, place)
        assert mean_change(counts) == pytest.approx(0, abs=1e-5)
    assert counts.sums["sum_relative_change_random"] / counts.n_total < -0.05


def test_a_window_holds_the_layers_around_the_cells_own(tmp_path: Path, pairs: PairSet) -> None:
    """A window of two at block 1 of two begins at block 0: one of an even number has one more before it."""
    ((wide,), (narrow,)) = (
        counts_of(tmp_path, pairs, Place(layer=1, position=AT_Z), window=window) for window in (2, 1)
    )
    (at_0,) = counts_of(tmp_path, pairs, Place(layer=0, position=AT_Z))
    assert mean_change(wide) == pytest.approx(mean_change(at_0), abs=1e-6)
    assert mean_change(narrow) == pytest.approx(0, abs=1e-5)


def test_a_prompt_without_a_known_answer_is_not_counted(tmp_path: Path, pairs: PairSet) -> None:
    """The mean is that of the others; where none is known the method has no meaning."""
    assert pairs.base_answer_B is not None
    some = replace(pairs, base_answer_B=np.where(np.arange(N_PAIRS) < 50, UNKNOWN, pairs.base_answer_B))
    (counts,) = counts_of(tmp_path, some, Place(layer=0, position=AT_Z))
    x, _, y = numbers(part := pairs.take(slice(50, None)))
    assert counts.n_total == N_PAIRS - 50
    assert mean_change(counts) == pytest.approx(wanted(part, x, (x + y) / 4), abs=1e-3)
    with pytest.raises(NotApplicable, match="the prompts' own right answers are not known"):
        counts_of(tmp_path, replace(pairs, base_answer_B=None), Place(layer=0, position=AT_Z))


def test_a_prompt_with_nothing_left_is_refused(tmp_path: Path, pairs: PairSet) -> None:
    """A softmax over nothing has no meaning."""
    with pytest.raises(NotApplicable, match="a prompt has no token beside those that are cut"):
        counts_of(tmp_path, pairs, Place(layer=0, position=0), also=[1, 2, 3, 4])


def test_the_random_others_are_as_many_and_are_seen_by_the_last_token(tmp_path: Path) -> None:
    """In prompts of unequal length: none is cut, and none is filling."""
    pairs, model = ragged_pairs(40), tiny_model("llama")
    context = make_context(tmp_path, cohort_at([Place(layer=0, position=0)], method="attention_knockout"), model, pairs)
    for _, run in states_of(context.engine, pairs, []).runs():
        cut_BT = attention_knockout._cut(run, [0, 1])
        other_BT = attention_knockout._others(run, cut_BT, "0" * 15)
        assert other_BT is not None
        assert torch.equal(other_BT.sum(dim=1), cut_BT.sum(dim=1))
        assert not (other_BT & cut_BT).any()
        behind_BT = torch.arange(other_BT.shape[1]) >= torch.from_numpy(run.prompts.length_B)[:, None]
        assert not (other_BT & behind_BT).any()


def test_it_reads_further_settings_from_its_file(tmp_path: Path, pairs: PairSet) -> None:
    """Window and further positions come back, also where there are none of these."""
    model, place = wrap_model(planted_model()), Place(layer=0, position=AT_Z)
    for also in ([], [1, 3]):
        cohort = cohort_at([place], method="attention_knockout", window=3, also=also)
        context = make_context(tmp_path, cohort, model, pairs)
        (column,) = attention_knockout.fit(context)
        save_columns(tmp_path, cohort, [column], whole=False, variables=["P"], indices=[AT_Z])
        (loaded,) = load_columns(tmp_path, context.groups, torch.device("cpu"))
        assert isinstance(loaded.learned, attention_knockout.AttentionKnockout)
        assert (loaded.learned.window_C.tolist(), loaded.learned.also_CA.tolist()) == ([3], [also])
