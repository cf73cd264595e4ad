"""The price tagging game, its labels, and tasks from a user's file."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping
from pathlib import Path
from statistics import mean
from typing import Any

import pytest

from workers.tasks import AbstractTask, TaskError, load_task

GAME = load_task({"name": "price_tagging"})
PROMPT = """Below is an instruction that describes a task, paired with an input that provides further context. \
Write a response that appropriately completes the request.

### Instruction:
Please say yes only if it costs between 0.05 and 3.00 dollars, otherwise no.

### Input:
0.10 dollars

### Response:
"""
USER_TASK = """
from __future__ import annotations
from dataclasses import dataclass
from typing import ClassVar
from workers.causal_model import CausalModel, Hypothesis
from workers.tasks import AbstractTask

@dataclass(frozen=True, kw_only=True)
class Parity(AbstractTask):
    name: ClassVar[str] = "parity"
    most: int = 9

    def __post_init__(self):
        assert self.most > 1

    def sample(self, rng):
        return {"n": rng.randint(1, self.most)}

    def prompt(self, inputs):
        return f"Is {inputs['n']} even?"

    @property
    def answers(self):
        return {True: "Yes", False: "No"}

    @property
    def hypotheses(self):
        model = CausalModel(R=lambda n: n % 2, answer=lambda R: R == 0)
        return {"remainder": Hypothesis(name="remainder", model=model, variables=("R",))}
"""


def cents(lower: int, upper: int, amount: int) -> dict[str, int]:
    return {"X": lower, "Y": upper, "Z": amount}


def draws(task: AbstractTask, n: int = 4000) -> list[dict[str, Any]]:
    rng = random.Random(3)
    return [task.sample(rng) for _ in range(n)]


# The game ----------------------------------------------------------------------------------------------------------


def test_the_prompt_is_the_papers_letter_for_letter() -> None:
    """Two decimals always, and the answer follows a newline."""
    assert GAME.prompt(cents(5, 300, 10)) == PROMPT


def test_draws_stay_in_the_papers_ranges() -> None:
    """Width 2.50 to 7.50, lower bound from 0.05, upper to 9.95, amount 0.01 to 9.99, all in whole cents."""
    for draw in draws(GAME):
        assert all(type(value) is int for value in draw.values())
        assert 5 <= draw["X"] < draw["Y"] <= 995
        assert 249 <= draw["Y"] - draw["X"] <= 751  # both ends are rounded
        assert 1 <= draw["Z"] <= 999


def test_draws_are_spread_as_the_papers() -> None:
    """Width ~ U(2.50, 7.50): mean 5.00. Lower ~ U(0.05, 9.95 - width): mean 2.50. Amount: mean 5.00 (4 standard errors
    of 4,000 draws are 0.09, 0.11 and 0.18)."""
    found = draws(GAME)
    assert mean(draw["Y"] - draw["X"] for draw in found) == pytest.approx(500, abs=9)
    assert mean(draw["X"] for draw in found) == pytest.approx(250, abs=11)
    assert mean(draw["Z"] for draw in found) == pytest.approx(500, abs=18)


@pytest.mark.parametrize("name", GAME.hypotheses)
@pytest.mark.parametrize("bracket", [(200, 501), (200, 500), (5, 995)])
def test_both_ends_of_the_bracket_count_as_inside(name: str, bracket: tuple[int, int]) -> None:
    """A cent beyond either end is outside, by every hypothesis, with an odd and an even width."""
    model, (lower, upper) = GAME.hypotheses[name].model, bracket
    said = [model.run(cents(lower, upper, z))["answer"] for z in (lower - 1, lower, upper, upper + 1)]
    assert said == [False, True, True, False]


@pytest.mark.parametrize("name", GAME.hypotheses)
def test_every_hypothesis_plays_the_game(name: str) -> None:
    """Without an intervention each says what plain arithmetic says."""
    model = GAME.hypotheses[name].model
    for draw in draws(GAME, 500):
        assert model.run(draw)["answer"] == (draw["X"] <= draw["Z"] <= draw["Y"])


BELOW, INSIDE, ABOVE = cents(300, 700, 100), cents(300, 700, 500), cents(300, 700, 900)


# P = [X <= Z] is true for a source inside or above; the base then still has to be at most its own upper bound.
@pytest.mark.parametrize(
    ("base", "source", "label"),
    [
        (INSIDE, ABOVE, True),  # the first public code's table said No
        (INSIDE, INSIDE, True),
        (INSIDE, BELOW, False),
        (BELOW, INSIDE, True),
        (BELOW, ABOVE, True),
        (BELOW, BELOW, False),
        (ABOVE, INSIDE, False),
        (ABOVE, ABOVE, False),
    ],
)
def test_left_boundary_labels_follow_from_the_causal_model(
    base: Mapping[str, int], source: Mapping[str, int], label: bool
) -> None:
    """Each region of base and source, worked out by hand."""
    assert GAME.hypotheses["left_boundary"].model.interchange(base, {"P": source})["answer"] is label


@pytest.mark.parametrize(
    ("name", "variable", "base", "source", "label"),
    [
        ("left_and_right_boundary", "P", BELOW, ABOVE, True),  # P true from the source, Q true of the base
        ("left_and_right_boundary", "Q", INSIDE, ABOVE, False),  # Q false from the source
        ("left_and_right_boundary", "Q", ABOVE, BELOW, True),  # Q true from the source, P true of the base
        ("midpoint_distance", "M", INSIDE, cents(100, 300, 1), False),  # |500 - 200| > 200
        ("midpoint_distance", "M", INSIDE, cents(250, 900, 1), True),  # |500 - 575| <= 200
        ("midpoint_distance", "M", INSIDE, cents(100, 301, 1), False),  # middle 200.5
        ("midpoint_distance", "M", cents(300, 700, 300), cents(301, 700, 1), False),  # |300 - 500.5| > 200
        ("bracket_identity", "B", INSIDE, cents(100, 500, 1), True),
        ("bracket_identity", "B", INSIDE, cents(100, 499, 1), False),
    ],
)
def test_other_labels_follow_too(
    name: str, variable: str, base: Mapping[str, int], source: Mapping[str, int], label: bool
) -> None:
    """Worked out by hand; half cents are kept."""
    assert GAME.hypotheses[name].model.interchange(base, {variable: source})["answer"] is label


def test_a_fixed_bracket_is_in_every_prompt() -> None:
    """5.49 to 8.49 in all draws, while the amount varies."""
    task = load_task({"name": "price_tagging", "bracket": [5.49, 8.49]})
    found = draws(task, 50)
    assert {(draw["X"], draw["Y"]) for draw in found} == {(549, 849)}
    assert len({draw["Z"] for draw in found}) > 40
    assert "between 5.49 and 8.49 dollars" in task.prompt(found[0])


def test_context_and_words_stand_in_the_prompt() -> None:
    """A sentence before the instruction; other words for yes and no, other answers."""
    words = {"say": ["True", "False"], "answers_as": ["True", "False"], "context": "Pricing tag game!"}
    task = load_task({"name": "price_tagging", **words})
    wanted = "Pricing tag game! Please say True only if it costs between 1.00 and 4.00 dollars, otherwise False."
    assert wanted in task.prompt(cents(100, 400, 1))
    assert task.answers == {True: "True", False: "False"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bracket": [8.49, 5.49]}, r"bracket: got \[8.49, 5.49\]; give two prices"),
        ({"bracket": [5.49]}, r"bracket: got \[5.49\]"),
        ({"bracket": [5.0, 12.0]}, "bracket: got"),
        ({"bracket": [None, 2.0]}, r"bracket: got \[None, 2.0\]; give two prices"),
        ({"bracket": ["a", 2.0]}, r"bracket: got \['a', 2.0\]; give two prices"),
        ({"name": "arithmetic", "addends": [0.5, 2]}, r"addends: got \[0.5, 2\]; give two whole numbers"),
        ({"name": "arithmetic", "factors": [1, None]}, r"factors: got \[1, None\]; give two whole numbers"),
        ({"say": ["yes", "yes"]}, "say: got .* two different words"),
        ({"answers_as": ["Yes"]}, "answers_as: got"),
        ({"brackets": [1, 2]}, "brackets: unknown setting of task 'price_tagging'; did you mean 'bracket'?"),
        ({"bracket": 5}, "task 'price_tagging' refuses its settings"),
    ],
)
def test_a_wrong_setting_names_key_value_and_what_is_right(settings: dict[str, Any], message: str) -> None:
    """The message is enough to mend the spec."""
    with pytest.raises(TaskError, match=message):
        load_task({"name": "price_tagging", **settings})


def test_an_unknown_task_suggests_a_known_one() -> None:
    """A typing error is told apart from a strange name."""
    with pytest.raises(TaskError, match="did you mean 'price_tagging'"):
        load_task({"name": "price_taging"})
    with pytest.raises(TaskError, match="there are arithmetic, price_tagging"):
        load_task({"name": "chess"})


def test_settings_are_plain_json_and_give_the_task_back() -> None:
    """What enters the cell key is enough to build the task anew."""
    task = load_task({"name": "price_tagging", "bracket": [5.49, 8.49], "context": "Hm."})
    assert load_task(json.loads(json.dumps(task.settings()))) == task


# A user's file -----------------------------------------------------------------------------------------------------


@pytest.fixture
def user_file(tmp_path: Path) -> Path:
    """A file with one task."""
    path = tmp_path / "parity.py"
    path.write_text(USER_TASK)
    return path


def test_a_users_file_brings_a_task(user_file: Path) -> None:
    """The file's only task needs no name; its settings reach it."""
    task = load_task({"file": str(user_file), "most": 4})
    assert task.settings() == {"name": "parity", "most": 4}
    assert {task.sample(random.Random(seed))["n"] for seed in range(50)} == {1, 2, 3, 4}
    assert task.outcome({"n": 4}) is True


def test_a_users_file_is_held_to_its_hash(user_file: Path) -> None:
    """The file as it was planned loads; one changed since is refused."""
    digest = hashlib.sha256(user_file.read_bytes()).hexdigest()
    options = {"file": str(user_file), "name": "parity", "file_sha256": digest}
    assert load_task(options).name == "parity"
    user_file.write_text(USER_TASK + "\n# changed\n")
    with pytest.raises(TaskError, match=r"parity.py has changed since the sweep was planned"):
        load_task(options)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\ny = x / 0\n", r"broken.py:2: ZeroDivisionError: division by zero"),
        ("x = 1\n\ndef f(:\n", r"broken.py:3: SyntaxError"),
        ("import nowhere_at_all\n", r"broken.py:1: ModuleNotFoundError"),
        ("def f():\n    raise KeyError('k')\n\n\nf()\n", r"broken.py:2: KeyError"),
        ("x = 1\n", r"broken.py defines no task; it needs a subclass of AbstractTask"),
        ("from workers.tasks.price_tagging import PriceTagging\n", r"broken.py defines no task"),
    ],
)
def test_an_error_in_a_users_file_says_where(tmp_path: Path, text: str, message: str) -> None:
    """File, line and the error itself; of a call, the innermost line of the file."""
    path = tmp_path / "broken.py"
    path.write_text(text)
    with pytest.raises(TaskError, match=message):
        load_task({"file": str(path)})


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """The path, and that a Python file is wanted."""
    with pytest.raises(TaskError, match=r"cannot read .*gone.py: No such file or directory; give the path"):
        load_task({"file": str(tmp_path / "gone.py")})


def test_a_users_task_that_refuses_its_settings_is_no_crash(user_file: Path) -> None:
    """Whatever its __post_init__ raises becomes a TaskError with the settings, file and line."""
    wanted = r"task 'parity' refuses its settings \{'most': 1\}: \S+parity.py:14: AssertionError"
    with pytest.raises(TaskError, match=wanted):
        load_task({"file": str(user_file), "most": 1})
