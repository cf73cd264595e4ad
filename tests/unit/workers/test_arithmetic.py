"""The arithmetic task: its hypotheses, settings, and the shipped model that answers it."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from orchestrator.grid import expand
from orchestrator.spec import load_spec
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


def test_without_factors_the_sum_is_asked_for() -> None:
    """The prompt ends with the bracket, and each hypothesis says the sum's last digit."""
    task = load_task({"name": "arithmetic", "factors": []})
    inputs = task.sample(random.Random(3))
    assert task.prompt(inputs) == f"What is the last digit?\n({inputs['a']}+{inputs['b']})"
    assert {one.model.run(inputs)["answer"] for one in task.hypotheses.values()} == {(inputs["a"] + inputs["b"]) % 10}


@pytest.mark.parametrize("settings", [{}, {"factors": []}], ids=["product", "sum"])
def test_shipped_model_answers(project: Path, settings: dict[str, Any]) -> None:
    """At least 97 % of fresh prompts are answered right, of all its vocabulary."""
    folder, task = project / "examples" / "arithmetic-model", load_task({"name": "arithmetic", **settings})
    tokenizer = Tokenizer.load(folder)
    layout = read_layout(task, tokenizer)
    rng = random.Random("held out")
    draws = [task.sample(rng) for _ in range(1000)]
    tokens = torch.tensor(tokenizer.encode([task.prompt(draw) for draw in draws]))
    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True).eval()
    with torch.no_grad():
        said = model(tokens, logits_to_keep=1).logits[:, -1].argmax(-1)
    wanted = torch.tensor([layout.answer_tokens[task.outcome(draw)] for draw in draws])
    assert (said == wanted).float().mean().item() >= 0.97


def test_shipped_model_is_small_and_says_how_it_was_made(project: Path) -> None:
    """At most 1 MB of files, the training's plan and accuracy among them; the plan is the script's."""
    folder = project / "examples" / "arithmetic-model"
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 1e6
    record = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    assert record["threads"] == 1
    assert record["accuracy"]["product"] >= 0.97
    script = (project / "examples" / "train_arithmetic_model.py").read_text(encoding="utf-8")
    for key in ("steps", "batch", "beta2"):
        assert f"{key}={record['plan'][key]}" in script


def test_the_example_sweeps_prompt_has_the_tokens_that_it_names(project: Path) -> None:
    """Its positions are the addends' last digits, the bracket, the sign, the factor and the equals sign."""
    grid = expand(load_spec(project / "examples" / "arithmetic.yaml"))
    tokens = {cell.position: cell.token for _, cell in grid.cells()}
    assert tokens == {10: "digit", 13: "digit", 14: ")", 15: "*", 16: "digit", 17: "="}
