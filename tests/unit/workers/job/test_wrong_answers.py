"""What is said of a model that fails the gate."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from workers.data.sources import open_source
from workers.data.tokenizer import Tokenizer
from workers.engine.model import load_model
from workers.files.progress import GATE_NOTE
from workers.job.wrong_answers import wrong_answers


@pytest.fixture(scope="module")
def bench(demo_model: Path) -> Any:
    """The demo's model and tokenizer, as a job has them."""
    model = load_model(demo_model, dtype="float32", device=torch.device("cpu"))
    return SimpleNamespace(language_model=model, tokenizer=Tokenizer.load(demo_model))


def test_three_wrong_answers_are_shown_with_the_prompts_end(bench: Any) -> None:
    """With every label turned round the model is wrong: what it says, what would be right, where the prompt ends."""
    source = open_source({"name": "price_tagging"}, bench.tokenizer, None)
    prompts = source.prompts("left_boundary", n_prompts=40)
    first, second = sorted(set(prompts.label_B.tolist()))
    turned = replace(prompts, label_B=first + second - prompts.label_B)
    notes = list(wrong_answers(bench, turned))
    assert len(notes) == 3
    for note in notes:
        assert note.startswith(f"{GATE_NOTE}...")
        assert "Response" in note
        assert ("it says 'Yes', 'No' is right" in note) != ("it says 'No', 'Yes' is right" in note)


def test_the_accuracy_is_split_by_template(bench: Any) -> None:
    """Where a task draws a template, each has its own count; the demo's model answers nearly all of both correctly."""
    prompts = open_source({"name": "price_tagging"}, bench.tokenizer, None).prompts("left_boundary", n_prompts=40)
    drawn = tuple({**inputs, "template": "ab"[index % 2]} for index, inputs in enumerate(prompts.inputs))
    notes = [note for note in wrong_answers(bench, replace(prompts, inputs=drawn)) if "template" in note]
    assert [note.partition(":")[2].split()[:2] for note in notes] == [["template", "'a':"], ["template", "'b':"]]
    assert all("of 20 right" in note for note in notes)
