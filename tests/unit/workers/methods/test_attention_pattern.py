"""Attention patterns: the planted heads, and torch's own arithmetic."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.unit.workers.planted import Planted, planted_model, save_planted
from tests.unit.workers.tiny import cohort_at, make_context, random_pairs, states_of, tiny_model
from workers.data.layout import read_layout
from workers.data.pairs import make_pairs
from workers.data.token_ids import Prompts
from workers.data.tokenizer import Tokenizer
from workers.engine.model import wrap_model
from workers.engine.suffix import SuffixEngine
from workers.files.place import Place
from workers.job.reading_counts import count_read
from workers.methods import attention_pattern
from workers.methods.base import NotApplicable


@pytest.mark.parametrize(("to", "head"), [(1, 0), (2, 1), (3, 2)])
def test_a_hand_wired_head_is_found(tmp_path: Path, to: int, head: int) -> None:
    """At `=`, heads 0, 1, 2 of block 0 look at x, z and y: their weight is 1 there and 0 elsewhere."""
    task, model = Planted(), wrap_model(planted_model())
    tokenizer = Tokenizer.load(save_planted(tmp_path))
    layout, hypothesis = read_layout(task, tokenizer), task.hypotheses["left_boundary"]
    pairs = make_pairs(task, hypothesis, tokenizer, layout, n_pairs=20, split="test", seed=1)
    places = [Place(layer=0, position=4, site="head_output", unit=unit) for unit in range(3)]
    engine = SuffixEngine(model, places=places)
    cohort = cohort_at(places, method="attention_pattern", to=to)
    columns = attention_pattern.fit(make_context(tmp_path, cohort, model, pairs, engine=engine))
    (counts,) = count_read(states_of(engine, pairs, places), columns)
    weights = [one.sums["sum_attention"] / one.n_total for one in counts]
    assert weights == pytest.approx([1.0 if unit == head else 0.0 for unit in range(3)], abs=1e-6)
    assert [one.sums["sum_attention_random"] / one.n_total for one in counts] == pytest.approx([0.2] * 3)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "gpt_neox"])
def test_the_weights_of_a_query_sum_to_one(tmp_path: Path, family: str) -> None:
    """Over all keys that it sees; the key behind it has none, and the model's attention is what it was."""
    model, pairs = tiny_model(family), random_pairs(5, 8)
    places = [Place(layer=0, position=5, site="head_output", unit=1)]
    engine = SuffixEngine(model, places=places)
    before = model.model.config._attn_implementation
    total = 0.0
    for to in range(7):
        cohort = cohort_at(places, method="attention_pattern", to=to)
        columns = attention_pattern.fit(make_context(tmp_path, cohort, model, pairs, engine=engine))
        ((one,),) = count_read(states_of(engine, pairs, places), columns)
        total += one.sums["sum_attention"] / one.n_total
        if to == 6:
            assert one.sums["sum_attention"] == 0
            assert one.sums["sum_attention_random"] == 0
    assert total == pytest.approx(1.0, abs=1e-5)
    assert model.model.config._attn_implementation == before
    assert torch.is_grad_enabled()


def test_a_family_whose_attention_cannot_be_switched_is_refused(tmp_path: Path) -> None:
    """Falcon's eager code runs without its mask: its cells are skipped, with the reason."""
    model, pairs = tiny_model("falcon"), random_pairs(5, 8)
    places = [Place(layer=0, position=5, site="head_output", unit=1)]
    engine = SuffixEngine(model, places=places)
    columns = attention_pattern.fit(
        make_context(tmp_path, cohort_at(places, method="attention_pattern"), model, pairs, engine=engine)
    )
    with pytest.raises(NotApplicable, match="FalconForCausalLM: its attention gives no weights that are the model's"):
        count_read(states_of(engine, pairs, places), columns)


def test_the_key_moves_with_a_settings_prompts(tmp_path: Path) -> None:
    """A setting has a token more behind the first: the key is found one further on, as the cell's position is."""
    model, pairs = tiny_model("llama"), random_pairs(5, 8)
    ids_BT = pairs.base.ids_BT
    longer = Prompts.of_rows(np.insert(ids_BT, 1, 7, axis=1).tolist())
    place = Place(layer=0, position=5, site="head_output", unit=1)
    moved_place = replace(place, position=6)
    cohort = cohort_at([place], method="attention_pattern", to=3)
    engine = SuffixEngine(model, places=[place, moved_place])
    columns = attention_pattern.fit(make_context(tmp_path, cohort, model, pairs, engine=engine))
    other = replace(pairs, base=longer)
    ((moved,),) = count_read(states_of(engine, other, [moved_place]), columns, moved={5: 6, 3: 4})
    cohort = cohort_at([moved_place], method="attention_pattern", to=4)
    columns = attention_pattern.fit(make_context(tmp_path, cohort, model, other, engine=engine))
    ((wanted,),) = count_read(states_of(engine, other, [moved_place]), columns)
    assert moved.sums == wanted.sums
