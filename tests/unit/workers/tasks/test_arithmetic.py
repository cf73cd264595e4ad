"""The arithmetic task: its hypotheses, settings, and the shipped model that answers it."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from orchestrator.grid.expand import expand
from orchestrator.spec.schema import load_spec
from workers.data.layout import read_layout
from workers.data.pairs import make_pairs
from workers.data.tokenizer import Tokenizer
from workers.tasks import TaskError, load_task

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
    "settings", [{"addends": [12, 5]}, {"factors": [9, 2]}, {"factors": [-3, 2]}, {"addends": [3]}]
)
def test_what_is_no_range_is_refused(settings: dict[str, list[int]]) -> None:
    """The message names the key."""
    (key,) = settings
    with pytest.raises(TaskError, match=f"{key}: got"):
        load_task({"name": "arithmetic", **settings})


def test_without_factors_the_sum_is_asked_for() -> None:
    """The prompt ends with the bracket, and each hypothesis says the sum's last digit."""
    task = load_task({"name": "arithmetic", "factors": []})
    inputs = task.sample(random.Random(3))
    assert task.prompt(inputs) == f"What is the last digit?\n({inputs['a']}+{inputs['b']})"
    assert {one.model.run(inputs)["answer"] for one in task.hypotheses.values()} == {(inputs["a"] + inputs["b"]) % 10}


@pytest.mark.parametrize(
    "settings",
    [{}, {"factors": []}, {"addends": [1, 9]}, {"addends": [1, 99]}],
    ids=["product", "sum", "one digit", "one or two digits"],
)
def test_shipped_model_answers(project: Path, settings: dict[str, Any]) -> None:
    """At least 97 % of fresh prompts are answered right, of all its vocabulary."""
    folder, task = project / "examples" / "arithmetic-model", load_task({"name": "arithmetic", **settings})
    tokenizer = Tokenizer.load(folder)
    layout = read_layout(task, tokenizer)
    rng = random.Random("held out")
    draws = [task.sample(rng) for _ in range(1000)]
    rows = tokenizer.encode([task.prompt(draw) for draw in draws])
    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True).eval()
    n_right = 0
    for length in {len(row) for row in rows}:
        alike = [index for index, row in enumerate(rows) if len(row) == length]
        with torch.no_grad():
            said = model(torch.tensor([rows[index] for index in alike])).logits[:, -1].argmax(-1).tolist()
        wanted = [layout.answer_tokens[task.outcome(draws[index])] for index in alike]
        n_right += sum(one == other for one, other in zip(said, wanted, strict=True))
    assert n_right >= 970


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


def test_the_example_sweeps_positions_are_where_their_names_say(project: Path) -> None:
    """In prompts of one digit and of two: the addends' last digits, the bracket, the factor and the equals sign."""
    spec = load_spec(project / "examples" / "arithmetic.yaml")
    assert {cell.token for _, cell in expand(spec).cells()} == {"a", "b", "bracket", "c", "last"}
    task, tokenizer = load_task(spec.task), Tokenizer.load(Path(spec.model.path))
    hypothesis, layout = task.hypotheses["add_first"], read_layout(task, tokenizer)
    pairs = make_pairs(task, hypothesis, tokenizer, layout, n_pairs=400, split="train", seed=1)
    assert len(set(pairs.base.length_B)) == 3
    for ids_T, length, places_P in zip(pairs.base.ids_BT, pairs.base.length_B, pairs.base.place_BP, strict=True):
        text = "".join(tokenizer.piece(token) for token in ids_T[:length])
        a, b, c = re.fullmatch(r".*\((\d+)\+(\d+)\)\*(\d)=", text, flags=re.DOTALL).groups()
        assert [tokenizer.piece(ids_T[place]) for place in places_P] == [a[-1], b[-1], ")", c, "="]
