"""A user's task file through the command line: whatever is wrong with it is one message and exit code 2, and nothing is
written."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from orchestrator.spec.text import to_yaml
from tests.unit.orchestrator.conftest import Run

TASK = """\
import random
from dataclasses import dataclass
from workers.causal_model import CausalModel, Hypothesis
from workers.tasks.base import AbstractTask

@dataclass(frozen=True, kw_only=True)
class Order(AbstractTask):
    name = "order"
    most: int = 9

    def sample(self, rng):
        return {"m": rng.randint(1, self.most), "n": rng.randint(1, self.most)}

    def prompt(self, inputs):
        return f"Is {inputs['m']} at most {inputs['n']}?\\n"

    @property
    def answers(self):
        return {True: "Yes", False: "No"}

    @property
    def hypotheses(self):
        model = CausalModel(
            L=lambda m, n: m <= n,
            answer=lambda L: L,
        )
        return {"order": Hypothesis(name="order", model=model, variables=("L",))}
"""


def positions(value: str) -> tuple[str, str]:
    """What adds named positions to the task."""
    answers = "    @property\n    def answers(self):"
    return answers, f"    def positions(self, inputs):\n        return {value}\n\n{answers}"


# What is written in place of what, and what is said of it: FILE stands for the file's path.
MISTAKES: dict[str, tuple[str, str, str]] = {
    # the file cannot be read as Python, or raises
    "syntax": ("    most: int = 9", "    most: int = = 9", "key `task.file`: FILE:9: SyntaxError: invalid syntax"),
    "raises when read": ("import random", "import random, nowhere", "key `task.file`: FILE:1: ModuleNotFoundError"),
    "leaves": ("import random", "import sys; sys.exit(3)", "key `task.file`: FILE:1: SystemExit: 3"),
    # it holds no whole task
    "no task": ("(AbstractTask)", "", "key `task.file`: FILE defines no task; it needs a subclass of AbstractTask"),
    "lacks a method": ("def sample", "def draw", "with all its methods; FILE:7: class Order lacks sample"),
    "no name": ('    name = "order"', "", "key `task.file`: FILE:7: class Order has no name; write `name"),
    "a setting's name is taken": ("most: int = 9", "settings: int = 9", "FILE:7: class Order has a setting 'settings'"),
    "no plain setting": ("most: int = 9", "most: object = random", "key `task.most`: got <module 'random'"),
    # its parts are of the wrong kind, or raise
    "sample raises": ("rng.randint(1, self.most)}", "1 // 0}", "FILE:12, sample: ZeroDivisionError"),
    "sample raises below": ("rng.randint(1, self.most)}", "rng.randint(9, 1)}", "FILE:12, sample: ValueError"),
    "sample gives a list": (
        '{"m": rng',
        '[1] or {"m": rng',
        "FILE:11: task 'order': sample gave [1]; expected a mapping",
    ),
    "sample draws from elsewhere": ("rng.randint", "random.randint", "FILE:11: task 'order': equal generators drew"),
    "an input is not drawn": ('"m": rng', '"k": rng', "FILE:24: task 'order', hypothesis 'order': L needs 'm', and"),
    "prompt raises": ("inputs['m']", "inputs['q']", "FILE:15, prompt: KeyError: 'q'"),
    "prompt gives no text": ("return f", "return [1]; f", "FILE:14: task 'order': prompt gave [1]; expected a text"),
    "answers are no mapping": (
        "{True: ",
        "[1] or {True: ",
        "FILE:17: task 'order': answers gave [1]; expected a mapping",
    ),
    "hypotheses raise": ('("L",)', '("K",)', "FILE:27, hypotheses: CausalModelError: hypothesis 'order': variable 'K'"),
    "no hypothesis": (
        "return {",
        "return {} and {",
        "FILE:21: task 'order': hypotheses gave {}; expected a mapping of at",
    ),
    "a function raises": ("m <= n", "m / 0", "FILE:24, <lambda>: ZeroDivisionError"),
    # they do not fit together
    "unequal prompts": ("self.most)}", "12)}", "FILE:14: task 'order': prompts of unequal token count (17 and 18)"),
    "too many tokens": (
        '"Yes"',
        '"Yes" * 17',
        "FILE:17: task 'order': answer 'YesYesYesYesYesYesYesYesYesYesYesYesYesYesYesYesYes' is not one to 16 tokens",
    ),
    "an answer begins another": ('"Yes"', '"No No"', "FILE:17: task 'order': answer 'No No' begins with the tokens of"),
    "one token for both": ('"No"', '"Yes"', "FILE:17: task 'order': answers ['Yes', 'Yes'] are the same tokens"),
    "an output without an answer": ("lambda L: L", "lambda L: 2", "FILE:17: task 'order': output 2 (of"),
    "a circle": ("lambda m, n: m", "lambda answer, n: n", "FILE:23, hypotheses: CausalModelError: variables L, answer"),
    "unreachable": (
        "lambda L: L",
        "lambda m, n: m <= n",
        "FILE:27, hypotheses: CausalModelError: hypothesis 'order': va",
    ),
    "no effect": (
        "lambda L: L",
        "lambda L, m, n: m <= n",
        "FILE:24: task 'order', hypothesis 'order': interchanging 'L'",
    ),
    # positions by name
    "positions are no mapping": (
        *positions("[1]"),
        "FILE:17: task 'order': positions gave [1]; expected a mapping from names",
    ),
    "a position's name": (
        *positions('{"the end": 1}'),
        "positions gave the name 'the end'; expected a word of letters",
    ),
    "a taken name": (
        *positions('{"last": 1}'),
        "positions gave the name 'last'; expected a word of letters, digits and _, but",
    ),
    "names that come and go": (
        *positions("{'ab'[inputs['m'] % 2]: 1}"),
        "for another; expected the same names for each",
    ),
    "positions raise": (*positions('{"m": inputs["q"]}'), "FILE:18, positions: KeyError: 'q'"),
    "no such character": (
        *positions('{"m": 99}'),
        "FILE:17: task 'order': position 'm' is given as character 99, where",
    ),
    "one class": ("m <= n", "m <= 9", "FILE:25: task 'order', hypothesis 'order': 10000 draws gave one label only"),
}


Command = Callable[..., tuple[int, str]]


@pytest.fixture
def command(
    tmp_path: Path, demo_model: Path, run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """Runs a command on a sweep of this task file's text; gives the exit code and the error with FILE for the file."""

    def called(name: str, text: str, options: Sequence[str] = (), **changes: Any) -> tuple[int, str]:
        (tmp_path / "order.py").write_text(text)
        spec = {
            "name": "order",
            "model": {"path": str(demo_model), "dtype": "float32"},
            "task": {"file": "order.py"},
            "grid": {"experiments": ["order"], "layers": [0], "positions": [-1]},
        }
        (tmp_path / "order.yaml").write_text(to_yaml(spec | changes), encoding="utf-8")
        monkeypatch.chdir(tmp_path)
        return run(name, "order.yaml", *options), capsys.readouterr().err.replace(str(tmp_path / "order.py"), "FILE")

    return called


def test_the_file_as_it_stands_is_planned(command: Command) -> None:
    """The file in which the mistakes are made has none."""
    assert command("plan", TASK) == (0, "")


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_a_task_file_is_said_with_its_line(command: Command, tmp_path: Path, mistake: str) -> None:
    """Exit code 2, one message that names the spec, its key, the file and the line; no traceback, nothing written."""
    old, new, message = MISTAKES[mistake]
    assert TASK.count(old) >= 1
    code, said = command("submit", TASK.replace(old, new))
    assert code == 2
    assert said.startswith("error: order.yaml: key `")
    assert message in said
    assert said.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["order.py", "order.yaml"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"settings": [{"name": "low", "task": {"most": 1}}]},
            "order.yaml: key `settings[0].task`: FILE:25: task 'order', hypothesis 'order': 10000 draws gave one label",
        ),
        (
            {"settings": [{"name": "high", "task": {"most": 12}}]},
            "order.yaml: key `settings[0].task`: FILE:14: task 'order': prompts of unequal token count",
        ),
        (
            {"settings": [{"name": "other", "task": {"file": "other.py"}}]},
            "order.yaml: key `settings[0].task.file`: a variation keeps the sweep's file",
        ),
        (
            {"task": {"file": "order.py", "name": "oder"}},
            "order.yaml: key `task.name`: got 'oder'; did you mean 'order'?",
        ),
        ({"task": {"file": "oder.py"}}, "oder.py: No such file or directory; give the path of a Python file"),
    ],
)
def test_a_wrong_use_of_a_right_file_is_said_too(command: Command, changes: dict[str, Any], message: str) -> None:
    """A setting's variation that cannot be drawn, another file, a name that the file lacks, no file."""
    code, said = command("submit", TASK, **changes)
    assert (code, message in said) == (2, True), said


NAMED = TASK.replace(*positions("{'n': self.prompt(inputs).index('?') - 1}"))


def test_a_draw_that_alone_fails_is_said_where_it_is_looked_at(command: Command) -> None:
    """The trial's 256 draws come from one generator, the prompt from another: its mistake has file and line too."""
    fails = f"1 // (rng.random() != {random.Random(1).random()!r}) and "
    right = TASK.replace('{"m": ', '{"m": ' + fails)
    assert command("plan", right) == (0, "")
    code, said = command("prompt", right, options=["--draw", "1"])
    assert (code, "FILE:12, sample: ZeroDivisionError" in said) == (2, True), said


def test_prompts_of_unequal_length_are_planned_by_name(command: Command) -> None:
    """Numbers of one and two digits, the position named; a setting of other lengths has the name too."""
    task, setting = {"file": "order.py", "most": 99}, {"name": "short", "task": {"most": 9}}
    grid = {"experiments": ["order"], "layers": [0], "positions": ["n", "last"]}
    assert command("plan", NAMED, task=task, grid=grid, settings=[setting]) == (0, "")


@pytest.mark.parametrize(
    ("most", "places", "message"),
    [
        (
            99,
            [-1],
            "key `grid.positions`: got -1; prompts differ in length, and the places that all of them have are n, ",
        ),
        (
            9,
            [-3],
            "key `settings[0].task`: setting 'long': its prompts differ in length, so that position 14 ('digit')",
        ),
    ],
)
def test_an_index_into_prompts_of_unequal_length_is_refused(
    command: Command, most: int, places: list[int], message: str
) -> None:
    """In the task's own prompts and in a setting's."""
    grid = {"experiments": ["order"], "layers": [0], "positions": places}
    settings = [{"name": "long", "task": {"most": 99}}]
    code, said = command("plan", NAMED, task={"file": "order.py", "most": most}, grid=grid, settings=settings)
    assert (code, message in said) == (2, True), said
