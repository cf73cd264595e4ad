"""Planted truth: Boundless DAS finds the variable where it provably is, and nothing where it is not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from orchestrator.statistics import wilson_interval
from tests.unit.workers.planted import D, P, Planted, planted_model, save_planted
from tests.unit.workers.tiny import make_cohort, make_context
from workers.alignment import Alignment
from workers.engine.suffix import SuffixEngine
from workers.evaluate import Counts, count_right
from workers.layout import read_layout
from workers.methods import boundless_das
from workers.methods.base import to_device
from workers.models import wrap_model
from workers.pairs import make_pairs
from workers.tokens import Tokenizer

CPU = torch.device("cpu")
POINTS = [(layer, position) for position in (2, 4) for layer in (0, 1)]
SETTINGS = {"batch_size": 32, "rotation_lr": 1e-2, "boundary_lr": 2e-2, "boundary_penalty": 0.2}


def counts_by_point(folder: Path, hypothesis_name: str, *, wired: bool) -> dict[tuple[int, int], Counts]:
    task, model = Planted(), wrap_model(planted_model(wired=wired))
    tokenizer = Tokenizer.load(save_planted(folder, wired=wired))
    hypothesis, layout = task.hypotheses[hypothesis_name], read_layout(task, tokenizer)

    def pairs(split: str, n_pairs: int):
        return make_pairs(task, hypothesis, tokenizer, layout, n_pairs=n_pairs, split=split, seed=1)

    cohort = make_cohort(POINTS, **SETTINGS, epochs=12 if wired else 2)
    n_variables = len(hypothesis.variables)
    context = make_context(folder, cohort, model, pairs("train", 1200), n_variables=n_variables)
    columns = boundless_das.fit(context)
    engine = SuffixEngine(model, layers=[0, 1])
    counts = count_right(engine, columns, to_device(pairs("test", 500), CPU), micro_batch=100)
    return {
        (cell.layer, column.position): count
        for column, column_counts in zip(columns, counts, strict=True)
        for cell, count in zip(column.cells, column_counts, strict=True)
    }


def test_the_planted_model_plays_its_game(tmp_path: Path) -> None:
    """All 1,000 prompts are answered right."""
    task = Planted()
    tokenizer = Tokenizer.load(save_planted(tmp_path))
    draws = [{"X": x, "Y": y, "Z": z} for x in range(10) for y in range(10) for z in range(10)]
    ids = torch.tensor(tokenizer.encode([task.prompt(draw) for draw in draws]))
    said = planted_model()(ids).logits[:, -1].argmax(dim=-1)
    answers = read_layout(task, tokenizer).answer_tokens
    assert said.tolist() == [answers[draw["X"] <= draw["Z"] <= draw["Y"]] for draw in draws]


def test_interchanging_the_planted_direction_is_the_counterfactual(tmp_path: Path) -> None:
    """Dimension P alone, swapped after block 0 at the last position, gives the causal model's label on every pair."""
    task, model = Planted(), wrap_model(planted_model())
    tokenizer = Tokenizer.load(save_planted(tmp_path))
    layout = read_layout(task, tokenizer)
    pairs = make_pairs(task, task.hypotheses["left_boundary"], tokenizer, layout, n_pairs=300, split="test", seed=1)
    batch = to_device(pairs, CPU)
    alignment = Alignment(torch.eye(D)[None, :, [P]], torch.ones(1, 1, 1))
    forward = SuffixEngine(model, layers=[0]).forward(batch.base, batch.source)
    logits = forward.intervene(4, [0], alignment.mix(batch.variable_B))
    assert torch.equal(logits[0].argmax(dim=-1), batch.label_B)


def test_the_variable_is_found_where_it_is_and_only_there(tmp_path: Path) -> None:
    """P after block 0 at the last position: IIA of at least 0.99; elsewhere no better than the best control."""
    counts = counts_by_point(tmp_path, "left_boundary", wired=True)
    assert counts[0, 4].n_correct / counts[0, 4].n_total >= 0.99
    for point, count in counts.items():
        if point != (0, 4):
            best_control = max(count.n_correct_none, count.n_correct_full, count.n_correct_random)
            low, _ = wilson_interval(count.n_correct, count.n_total)
            assert low <= best_control / count.n_total, point


def test_two_variables_are_found_in_two_subspaces(tmp_path: Path) -> None:
    """P and Q after block 0 at the last position, each interchanged without the other: at least 0.99."""
    counts = counts_by_point(tmp_path, "left_and_right_boundary", wired=True)
    assert counts[0, 4].n_correct / counts[0, 4].n_total >= 0.99


@pytest.mark.parametrize("hypothesis", ["left_boundary", "bracket_identity"])
def test_an_untrained_model_shows_nothing(tmp_path: Path, hypothesis: str) -> None:
    """On random weights no cell rises above its controls beyond chance (99.9 % Wilson, 8 cells)."""
    counts = counts_by_point(tmp_path, hypothesis, wired=False)
    for point, count in counts.items():
        best_control = max(count.n_correct_none, count.n_correct_full, count.n_correct_random, count.n_total // 2)
        low, _ = wilson_interval(count.n_correct, count.n_total, confidence=0.999)
        assert low <= best_control / count.n_total, point
