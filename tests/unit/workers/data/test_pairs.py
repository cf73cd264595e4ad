"""Interchange pairs: balanced, labelled by the causal model, the same wherever they are drawn."""

from __future__ import annotations

import hashlib
import random
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from workers.causal_model import CausalModel, Hypothesis
from workers.data.answers import UNKNOWN
from workers.data.layout import read_layout
from workers.data.pairs import PairSet, make_pairs, make_prompts
from workers.data.token_ids import Prompts, n_common_prefix
from workers.data.tokenizer import Tokenizer
from workers.tasks import AbstractTask, TaskError, load_task
from workers.tasks.price_tagging import PriceTagging

GAME = load_task({"name": "price_tagging"})
DIGEST_IN_ANOTHER_PROCESS = """
from pathlib import Path
from tests.unit.workers.data.test_pairs import digest, make
from workers.data.tokenizer import Tokenizer
print(digest(make(Tokenizer.load(Path({model!r})))))
"""


@pytest.fixture(scope="module")
def tokenizer(demo_model: Path) -> Tokenizer:
    """The demo's."""
    return Tokenizer.load(demo_model)


def make(tokenizer: Tokenizer, task: AbstractTask = GAME, hypothesis: str = "left_boundary", **options: Any) -> PairSet:
    options = {"n_pairs": 40, "split": "train", "seed": 7} | options
    return make_pairs(task, task.hypotheses[hypothesis], tokenizer, read_layout(task, tokenizer), **options)


def digest(pairs: PairSet) -> str:
    parts = (pairs.base.ids_BT, pairs.source.ids_BT, pairs.label_B, pairs.variable_B)
    return hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()


@pytest.mark.parametrize("name", GAME.hypotheses)
def test_half_of_the_labels_are_yes(tokenizer: Tokenizer, name: str) -> None:
    """Exactly half of 40, by every hypothesis."""
    labels = make(tokenizer, hypothesis=name).label_B
    assert sorted(np.unique_counts(labels).counts) == [20, 20]


def test_labels_are_right_by_plain_arithmetic(tokenizer: Tokenizer) -> None:
    """Read off the prompts' text: Yes iff the source's lower <= its amount, and the base's amount <= its upper."""
    pairs, answers = make(tokenizer), read_layout(GAME, tokenizer).answer_tokens

    def numbers(row: Any) -> list[float]:
        text = "".join(tokenizer.piece(int(token)) for token in row)
        return [float(number) for number in re.findall(r"\d\.\d\d", text)]

    for base_T, source_T, label in zip(pairs.base.ids_BT, pairs.source.ids_BT, pairs.label_B, strict=True):
        (_, upper, amount), (source_lower, _, source_amount) = numbers(base_T), numbers(source_T)
        assert label == answers[source_lower <= source_amount and amount <= upper]


def test_two_variables_are_interchanged_about_equally_often(tokenizer: Tokenizer) -> None:
    """200 each of 400 pairs, give or take four standard deviations (40); of one variable all."""
    two = make(tokenizer, hypothesis="left_and_right_boundary", n_pairs=400).variable_B
    assert abs(int(two.sum()) - 200) <= 40
    assert not make(tokenizer).variable_B.any()


def test_pairs_do_not_depend_on_what_was_drawn_before(tokenizer: Tokenizer) -> None:
    """Drawn first, or after other sets and other random numbers: the same."""
    first = digest(make(tokenizer))
    make(tokenizer, seed=8)
    random.random()
    np.random.default_rng(0).random()
    assert digest(make(tokenizer)) == first


def test_pairs_are_the_same_in_another_process(tokenizer: Tokenizer, demo_model: Path, project: Path) -> None:
    """A process with another hash seed draws the same."""
    code = DIGEST_IN_ANOTHER_PROCESS.format(model=str(demo_model))
    ended = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=project,
        check=True,
        env={"PYTHONHASHSEED": "123"},
    )
    assert ended.stdout.strip() == digest(make(tokenizer))


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 8},
        {"split": "test"},
        {"n_pairs": 41},
        {"hypothesis": "bracket_identity"},
        {"task": load_task({"name": "price_tagging", "answers_as": ["True", "False"], "say": ["True", "False"]})},
    ],
    ids=lambda change: next(iter(change)),
)
def test_another_seed_split_size_hypothesis_or_task_draws_other_pairs(
    tokenizer: Tokenizer, change: dict[str, Any]
) -> None:
    """The amounts of the first 40 bases are others."""

    def amounts(pairs: PairSet) -> Any:
        return pairs.base.ids_BT[:40, 69:74].tolist()

    assert amounts(make(tokenizer, **change)) != amounts(make(tokenizer))


def test_with_many_answers_half_of_the_pairs_change_the_answer(tokenizer: Tokenizer) -> None:
    """The last digit's task: the label differs from the base's own answer in 20 of 40 pairs."""
    task = load_task({"name": "arithmetic"})
    pairs, layout = make(tokenizer, task, "add_first"), read_layout(task, tokenizer)
    changed = 0
    for base_T, label in zip(pairs.base.ids_BT, pairs.label_B, strict=True):
        text = "".join(tokenizer.piece(int(token)) for token in base_T)
        a, b, c = (int(number) for number in re.findall(r"\d+", text))
        changed += label != layout.answer_tokens[(a + b) * c % 10]
    assert changed == 20


def test_a_sampling_that_reaches_one_label_only_is_refused(tokenizer: Tokenizer) -> None:
    """Amounts always inside: no pair is ever labelled No; the message names task and hypothesis."""
    inside = {"X": 100, "Y": 700, "Z": 300}
    message = "task 'price_tagging', hypothesis 'left_boundary': .* draws gave one label only"
    with pytest.raises(TaskError, match=message):
        make(tokenizer, draw=lambda rng: inside)


def test_an_outcome_without_an_answer_is_refused(tokenizer: Tokenizer) -> None:
    """A causal model that says `maybe` where answers are given for True and False."""
    model = CausalModel(P=lambda Z: Z > 0, answer=lambda P, X: "maybe")
    hypothesis = Hypothesis(name="vague", model=model, variables=("P",))
    with pytest.raises(TaskError, match="hypothesis 'vague': output 'maybe' has no answer"):
        make_pairs(GAME, hypothesis, tokenizer, read_layout(GAME, tokenizer), n_pairs=2, split="train", seed=1)


@dataclass(frozen=True, kw_only=True)
class Seldom(PriceTagging):
    """One prompt in a hundred is longer than the rest."""

    def prompt(self, inputs: Mapping[str, Any]) -> str:
        return super().prompt(inputs) + ("\n" if inputs["Z"] % 100 == 0 else "")


def test_a_prompt_of_another_length_among_many_is_refused(tokenizer: Tokenizer) -> None:
    """Every prompt is checked, not only those that were looked at when the layout was read."""
    task, layout = Seldom(), read_layout(GAME, tokenizer)
    with pytest.raises(TaskError, match="unequal token count"):
        make_pairs(task, task.hypotheses["left_boundary"], tokenizer, layout, n_pairs=400, split="train", seed=1)


@dataclass(frozen=True, kw_only=True)
class Failing(PriceTagging):
    """One draw in a hundred fails; with `vague` it has no answer."""

    vague: bool = False

    def sample(self, rng: random.Random) -> dict[str, Any]:
        inputs = super().sample(rng)
        return inputs if inputs["Z"] % 100 or self.vague else {"Z": inputs["Q"]}

    @property
    def hypotheses(self) -> Mapping[str, Hypothesis]:
        if not self.vague:
            return super().hypotheses
        model = CausalModel(P=lambda X, Z: X <= Z, answer=lambda P, Y, Z: P and Z <= Y if Z % 100 else "maybe")
        return {"left_boundary": Hypothesis(name="left_boundary", model=model, variables=("P",))}


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (Failing(), r"task 'price_tagging': \S*test_pairs.py:\d+, sample: KeyError: 'Q'"),
        (Failing(vague=True), r"output 'maybe' .*has no answer"),
    ],
)
def test_a_draw_that_fails_among_many_is_the_tasks_fault(
    tokenizer: Tokenizer, task: AbstractTask, message: str
) -> None:
    """What comes to light on a node only is a mistake of the task there too, with its line, and no bug of ours."""
    layout = read_layout(GAME, tokenizer)
    with pytest.raises(TaskError, match=message):
        make_pairs(task, task.hypotheses["left_boundary"], tokenizer, layout, n_pairs=400, split="train", seed=1)
    with pytest.raises(TaskError, match=message):
        make_prompts(task, tokenizer, layout, n_prompts=400, split="gate")


def test_prompts_longer_than_planned_are_refused(tokenizer: Tokenizer) -> None:
    """All of the same length, but not the one that the layout says."""
    longer = load_task({"name": "price_tagging", "context": "Pricing tag game!"})
    with pytest.raises(TaskError, match="prompts of 88 tokens, 82 were planned"):
        make_prompts(longer, tokenizer, read_layout(GAME, tokenizer), n_prompts=4, split="gate")


def test_prompts_carry_the_right_answer(tokenizer: Tokenizer) -> None:
    """The gate's labels are the game's own."""
    layout = read_layout(GAME, tokenizer)
    prompts = make_prompts(GAME, tokenizer, layout, n_prompts=50, split="gate")
    wanted = [layout.answer_tokens[draw["X"] <= draw["Z"] <= draw["Y"]] for draw in prompts.inputs]
    assert prompts.label_B.tolist() == wanted


def pair_set(base: list[list[int]], source: list[list[int]], labels: list[int]) -> PairSet:
    zeros = np.zeros(len(labels), dtype=np.int64)
    return PairSet(
        base=Prompts.of_rows(base),
        source=Prompts.of_rows(source),
        label_B=np.array(labels),
        variable_B=zeros,
        value_B=zeros.astype(np.float64),
    )


@pytest.mark.parametrize(
    ("base", "source", "n_common"),
    [
        ([[1, 2, 3], [1, 2, 4]], [[1, 2, 3], [1, 2, 3]], 2),
        ([[1, 2, 3], [1, 2, 3]], [[1, 9, 3], [1, 2, 3]], 1),  # a source differs
        ([[1, 2, 3], [9, 2, 3]], [[1, 2, 3], [1, 2, 3]], 0),
        ([[1, 2, 3], [1, 2, 3]], [[1, 2, 3], [1, 2, 3]], 2),  # one token at least is left
    ],
)
def test_the_common_prefix_is_that_of_all_prompts(base: list[Any], source: list[Any], n_common: int) -> None:
    """Counted over bases and sources, never the whole prompt."""
    assert n_common_prefix(Prompts.of_rows(base), Prompts.of_rows(source)) == n_common


def test_pairs_by_length_begin_with_the_longest() -> None:
    """By base and label, then by source; alike ones, and so all of equal prompts, in their order."""
    pairs = pair_set([[1, 1], [2], [3, 3], [4]], [[5], [6], [7], [8, 8]], [10, 11, 12, 13])
    assert pairs.by_length().label_B.tolist() == [10, 12, 13, 11]
    answered = replace(pairs, rest={"label": np.array([[UNKNOWN], [9], [UNKNOWN], [UNKNOWN]])})
    assert answered.by_length().label_B.tolist() == [10, 11, 12, 13]
    equal = pair_set([[1], [2], [3]], [[4], [5], [6]], [7, 8, 9])
    assert equal.by_length().label_B.tolist() == [7, 8, 9]


def test_taken_pairs_stay_together() -> None:
    """Rows 2 and 0, in that order, of every part."""
    taken = pair_set([[1], [2], [3]], [[4], [5], [6]], [7, 8, 9]).take(np.array([2, 0]))
    assert (taken.base.ids_BT.ravel().tolist(), taken.source.ids_BT.ravel().tolist()) == ([3, 1], [6, 4])
    assert taken.label_B.tolist() == [9, 7]
