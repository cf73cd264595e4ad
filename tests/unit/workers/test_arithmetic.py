"""The arithmetic task: its hypotheses, settings, and the shipped model that answers it."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from workers.layout import read_layout
from workers.tasks import TaskError, load_task
from workers.tokens import Tokenizer

TASK = load_task({"name": "arithmetic"})


@pytest.mark.parametrize("name", TASK.hypotheses)
def test_every_hypothesis_computes_the_last_digit(name: str) -> None:
    """Without an intervention each hypothesis agrees with plain arithmetic."""
    model = TASK.hypotheses[name].model
    rng = random.Random(0)
    for inputs in (TASK.sample(rng) for _ in range(200)):
        assert model.run(inputs)[model.output] == (inputs["a"] + inputs["b"]) * inputs["c"] % 10


# base (12 + 34) * 3 = 138; source (25 + 51) * 7 = 532
@pytest.mark.parametrize(
    ("name", "variable", "wanted"),
    [
        ("add_first", "S", 8),  # 6 * 3 = 18
        ("distribute", "F", 7),  # 25 * 7 = 175, 5 + 34 * 3 = 107
        ("first_addend", "A", 7),  # (5 + 34) * 3 = 117
    ],
)
def test_interchange_gives_the_label_worked_out_by_hand(name: str, variable: str, wanted: int) -> None:
    """The aligned variable comes from the source, all else from the base."""
    model = TASK.hypotheses[name].model
    values = model.interchange({"a": 12, "b": 34, "c": 3}, {variable: {"a": 25, "b": 51, "c": 7}})
    assert values[model.output] == wanted


@pytest.mark.parametrize(
    "settings", [{"addends": [5, 12]}, {"factors": [9, 2]}, {"factors": [-3, 2]}, {"addends": [3]}]
)
def test_ranges_that_vary_in_digits_are_refused(settings: dict[str, list[int]]) -> None:
    """The message names the key, and unequal prompts never come about."""
    (key,) = settings
    with pytest.raises(TaskError, match=f"{key}: got"):
        load_task({"name": "arithmetic", **settings})


def test_shipped_model_answers(project: Path) -> None:
    """At least 97 % of fresh prompts are answered right, and the checkpoint is at most 1 MB."""
    folder = project / "examples" / "arithmetic-model"
    tokenizer = Tokenizer.load(folder)
    layout = read_layout(TASK, tokenizer)
    rng = random.Random("held out")
    draws = [TASK.sample(rng) for _ in range(1000)]
    tokens = torch.tensor(tokenizer.encode([TASK.prompt(draw) for draw in draws]))
    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True).eval()
    with torch.no_grad():
        said = model(tokens, logits_to_keep=1).logits[:, -1].argmax(-1)
    wanted = torch.tensor([layout.answer_tokens[TASK.outcome(draw)] for draw in draws])
    assert (said == wanted).float().mean().item() >= 0.97
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 1e6
