"""Whose fault a failure is: by the code that it was raised in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.unit.workers.tiny import random_pairs, tiny_model
from workers.data.model_info import ModelError
from workers.engine import suffix
from workers.engine.base import TokenBatch
from workers.engine.model import last_logits
from workers.engine.suffix import SuffixEngine
from workers.files.failure import Failure, FailureClass
from workers.files.place import Place
from workers.job.failures import classed
from workers.methods.rotation import __name__ as our_module
from workers.tasks import TaskError
from workers.tasks.user_file import tasks_of_file

TASK = """
from dataclasses import dataclass
from workers.causal_model import CausalModel, Hypothesis
from workers.tasks.base import AbstractTask

@dataclass(frozen=True, kw_only=True)
class Mine(AbstractTask):
    name = "mine"
    def sample(self, rng): return {}
    def prompt(self, inputs):
        import torch
        CODE
    @property
    def answers(self): return {}
    @property
    def hypotheses(self): return {}
"""


def failure_of(function: Callable[[], Any]) -> Failure:
    """How what `function` raises is classed."""
    try:
        function()
    except Exception as error:
        return classed(error)
    raise AssertionError("nothing was raised")


def called_by_us(function: Callable[[], Any]) -> Callable[[], Any]:
    """`function`, called from a module of this program."""
    space = {"__name__": our_module, "function": function}
    exec("def call():\n    return function()", space)
    return space["call"]  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("return [][3]", "IndexError: list index out of range"),
        ("return torch.zeros(2, 3) @ torch.zeros(2, 3)", "RuntimeError: mat1 and mat2 shapes cannot be multiplied"),
    ],
)
def test_a_users_task_is_bad_input_with_its_line(tmp_path: Path, code: str, cause: str) -> None:
    """An import, an index, a shape: raised in the file, or by a library that it calls."""
    path = tmp_path / "mine.py"
    path.write_text(TASK.replace("CODE", code))
    task = tasks_of_file(path, None)["mine"]()
    failure = failure_of(called_by_us(lambda: task.prompt({})))
    assert failure.kind is FailureClass.BAD_INPUT
    assert failure.message.startswith(f"{path}:12, prompt: {cause}")


def test_an_index_error_in_the_models_own_code_is_bad_input_with_its_place() -> None:
    """An id beyond the embedding, the model run as it is."""
    model = tiny_model("llama").model
    failure = failure_of(lambda: last_logits(model, None, input_ids=torch.tensor([[5, 99]])))
    assert failure.kind is FailureClass.BAD_INPUT
    assert "/transformers/" in failure.message
    assert "IndexError: index out of range" in failure.message


def test_a_shape_error_in_the_models_own_code_is_bad_input_with_its_place() -> None:
    """A matrix of a block that does not fit the one before it."""
    model = tiny_model("gpt2").model
    model.transformer.h[1].mlp.c_proj.weight.data = torch.zeros(5, 32)
    failure = failure_of(lambda: last_logits(model, None, input_ids=torch.tensor([[5, 6]])))
    assert failure.kind is FailureClass.BAD_INPUT
    assert "/transformers/" in failure.message


def test_a_mistake_of_the_engine_in_the_models_code_stays_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine enters the model midway with hidden states of a wrong width: the model raises, the engine erred."""
    model = tiny_model("llama")
    pairs = random_pairs(2, 9)
    ids = torch.from_numpy(pairs.base.ids_BT)
    plain = suffix.last_logits
    monkeypatch.setattr(
        suffix, "last_logits", lambda model, filling, **inputs: plain(model, filling, **_narrowed(inputs))
    )
    engine = SuffixEngine(model, places=[Place(layer=0, position=5)])
    failure = failure_of(lambda: engine.forward(TokenBatch.of_ids(ids), TokenBatch.of_ids(ids)).base_logits())
    assert failure.kind is FailureClass.BUG


def _narrowed(inputs: dict[str, Any]) -> dict[str, Any]:
    return {name: value + 10_000 if name == "input_ids" else value for name, value in inputs.items()}


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("[][3]", IndexError),
        ("import_module('no_such_module')", ImportError),
        ("torch.zeros(2, 3) @ torch.zeros(2, 3)", RuntimeError),
    ],
)
def test_a_mistake_of_ours_stays_a_bug(code: str, kind: type[Exception]) -> None:
    """The same three, raised in a module of this program or in a library that it calls."""
    space: dict[str, Any] = {"__name__": our_module}
    exec(f"import torch\nfrom importlib import import_module\ndef call():\n    {code}", space)
    failure = failure_of(space["call"])
    assert failure.kind is FailureClass.BUG
    assert failure.message.startswith(kind.__name__) or kind is ImportError


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ModelError("m"), FailureClass.BAD_INPUT),
        (TaskError("t"), FailureClass.BAD_INPUT),
        (torch.OutOfMemoryError("o"), FailureClass.OUT_OF_MEMORY),
        (MemoryError(), FailureClass.OUT_OF_MEMORY),
        (OSError(5, "Input/output error"), FailureClass.NODE),
        (RuntimeError("CUDA error: an illegal memory access"), FailureClass.NODE),
        (RuntimeError("anything"), FailureClass.BUG),
    ],
)
def test_kinds_that_say_themselves_whose_they_are(error: Exception, kind: FailureClass) -> None:
    """Wherever they are raised."""
    assert classed(error).kind is kind
