"""Planted truth: Boundless DAS finds the variable where it provably is, and nothing where it is not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from orchestrator.store.statistics import wilson_interval
from tests.unit.workers.planted import D, P, Planted, planted_model, save_planted
from tests.unit.workers.tiny import at, make_cohort, make_context
from workers.data.layout import moved_positions, read_layout
from workers.data.pairs import PairSet, make_pairs, make_prompts
from workers.data.tokenizer import Tokenizer
from workers.engine.model import wrap_model
from workers.engine.suffix import SuffixEngine
from workers.job.evaluate import Counts, count_right
from workers.methods import boundless_das
from workers.methods.alignment import Alignment, CellFacts, Column
from workers.methods.base import to_device
from workers.tasks import TaskError

CPU = torch.device("cpu")
PLAIN = Planted()
POINTS = [(layer, position) for position in (2, 4) for layer in (0, 1)]
SETTINGS = {"batch_size": 32, "rotation_lr": 1e-2, "boundary_lr": 2e-2, "boundary_penalty": 0.2}


def pairs_of(task: Planted, hypothesis: str, tokenizer: Tokenizer, split: str, n_pairs: int) -> PairSet:
    layout = read_layout(task, tokenizer)
    return make_pairs(task, task.hypotheses[hypothesis], tokenizer, layout, n_pairs=n_pairs, split=split, seed=1)


def counts_by_point(
    folder: Path, hypothesis: str, *, wired: bool, task: Planted = PLAIN, points: Sequence[tuple[int, int]] = POINTS
) -> dict[tuple[int, int], Counts]:
    model, tokenizer = wrap_model(planted_model(wired=wired)), Tokenizer.load(save_planted(folder, wired=wired))
    cohort = make_cohort(points, **SETTINGS, epochs=16 if wired else 2)
    train, test = (pairs_of(task, hypothesis, tokenizer, *what) for what in (("train", 1200), ("test", 500)))
    n_variables = len(task.hypotheses[hypothesis].variables)
    columns = boundless_das.fit(make_context(folder, cohort, model, train, n_variables=n_variables))
    counts = count_right(SuffixEngine(model, places=at(0, 0, 1)), columns, to_device(test, CPU), micro_batch=100)
    return {
        (cell.place.layer, column.position): count
        for column, column_counts in zip(columns, counts, strict=True)
        for cell, count in zip(column.cells, column_counts, strict=True)
    }


def test_the_planted_model_plays_its_game(tmp_path: Path) -> None:
    """All 1,000 prompts are answered right."""
    task = Planted()
    tokenizer = Tokenizer.load(save_planted(tmp_path))
    nothing = {"before_x": 0, "before_z": 0}
    draws = [{"X": x, "Y": y, "Z": z, **nothing} for x in range(10) for y in range(10) for z in range(10)]
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
    forward = SuffixEngine(model, places=at(0, 0)).forward(batch.base, batch.source)
    logits = forward.intervene(at(4, 0), alignment.mix(batch.variable_B))
    assert torch.equal(logits[0].argmax(dim=-1), batch.label_B)


def test_the_variable_is_found_where_it_is_and_only_there(tmp_path: Path) -> None:
    """P after block 0 at the last position: IIA of at least 0.99; elsewhere no better than the best control."""
    assert_found_only_at((0, 4), counts_by_point(tmp_path, "left_boundary", wired=True))


def test_the_variable_is_found_by_name_where_prompts_differ_in_length(tmp_path: Path) -> None:
    """Words that say nothing push x, z and the end about: the same truth at the points `last` (3) and `z` (1)."""
    moving = Planted(fillers=3)
    layout = read_layout(moving, Tokenizer.load(save_planted(tmp_path)))
    assert (layout.is_indexed, layout.tokens) == (False, ("x", "z", "y", "last"))
    points = [(layer, point) for point in (1, 3) for layer in (0, 1)]
    assert_found_only_at((0, 3), counts_by_point(tmp_path, "left_boundary", wired=True, task=moving, points=points))


def assert_found_only_at(place: tuple[int, int], counts: dict[tuple[int, int], Counts]) -> None:
    assert counts[place].n_correct / counts[place].n_total >= 0.99
    for point, count in counts.items():
        if point != place:
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


@pytest.mark.parametrize(
    ("own", "other", "position", "place"),
    [
        (Planted(), Planted(lead=2), 4, 6),  # an index keeps its distance from the end
        (Planted(fillers=3), Planted(fillers=2, lead=1), 3, 3),  # a name its name
        (Planted(fillers=3), Planted(), 3, 4),  # where nothing moves, the name is an index
    ],
)
def test_a_setting_is_evaluated_where_the_position_moved_to(
    tmp_path: Path, own: Planted, other: Planted, position: int, place: int
) -> None:
    """The planted direction gives every label there, and at any other token no more than no intervention does."""
    model, tokenizer = wrap_model(planted_model()), Tokenizer.load(save_planted(tmp_path))
    moved = moved_positions(read_layout(own, tokenizer), read_layout(other, tokenizer), [position], "s")
    assert moved == {position: place}
    (cell,) = make_cohort([(0, position)]).cells
    alignment = Alignment(torch.eye(D)[None, :, [P]], torch.ones(1, 1, 1))
    column = Column(position=position, cells=(cell,), learned=alignment, facts=(CellFacts(),))
    pairs = to_device(pairs_of(other, "left_boundary", tokenizer, "test", 300), CPU)
    engine = SuffixEngine(model, places=at(0, 0))
    ((found,),) = count_right(engine, [column], pairs, micro_batch=100, moved=moved)
    ((astray,),) = count_right(engine, [column], pairs, micro_batch=100, moved={position: place - 1})
    assert found.n_correct == found.n_total
    assert astray.n_correct == astray.n_correct_none < astray.n_total


class Forgetful(Planted):
    """Once in a long while a prompt has no z, or its z has no place."""

    def positions(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = super().positions(inputs)
        if (inputs["X"], inputs["Y"], inputs["before_x"]) == (7, 7, 3):
            found.pop("z") if self.lead else found.update(z=None)
        return found


@pytest.mark.parametrize(
    ("lead", "message"),
    [(1, "has the positions x, y, last, and 256 others had x, z, y, last; name the same for each"), (0, "TypeError")],
)
def test_a_name_that_one_prompt_in_many_lacks_is_the_tasks_fault(tmp_path: Path, lead: int, message: str) -> None:
    """What no draw of the trial met is no bug of ours on a node."""
    tokenizer, forgetful = Tokenizer.load(save_planted(tmp_path)), Forgetful(fillers=3, lead=lead)
    layout = read_layout(Planted(fillers=3, lead=lead), tokenizer)
    with pytest.raises(TaskError, match=message):
        make_prompts(forgetful, tokenizer, layout, n_prompts=3000, split="gate")


def test_a_position_that_a_setting_lacks_is_refused(tmp_path: Path) -> None:
    """An index into prompts that differ in length, and one where another token is."""
    tokenizer = Tokenizer.load(save_planted(tmp_path))
    plain, moving, longer = (read_layout(task, tokenizer) for task in (PLAIN, Planted(fillers=3), Planted(lead=2)))
    with pytest.raises(TaskError, match="setting 's': its prompts differ in length, so that position 4"):
        moved_positions(plain, moving, [4], "s")
    with pytest.raises(TaskError, match=r"position 1 \('um'\) would move to -1, where 'nothing' is"):
        moved_positions(longer, plain, [1], "s")


def test_a_position_that_is_read_may_be_at_the_prompts_beginning(tmp_path: Path) -> None:
    """The first token stays where it is in longer prompts; what is not there at all is refused."""
    tokenizer = Tokenizer.load(save_planted(tmp_path))
    plain, longer = (read_layout(task, tokenizer) for task in (PLAIN, Planted(lead=2)))
    assert moved_positions(plain, longer, [0, 3], "s", from_beginning=True) == {0: 0, 3: 5}
    with pytest.raises(TaskError, match="position 5: the task's prompts have the positions 0 to 4"):
        moved_positions(plain, longer, [5], "s", from_beginning=True)
