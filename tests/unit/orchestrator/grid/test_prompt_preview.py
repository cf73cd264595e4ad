"""`causalsweep prompt`: what the grid can call each token, before a spec's positions are correct."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator import cli
from orchestrator.grid.prompt_preview import example_prompt
from orchestrator.spec.schema import load_spec
from orchestrator.spec.text import to_yaml
from tests.unit.orchestrator.specs import raw_spec, spec_of

Prompt = Callable[..., tuple[int, str, str]]


@pytest.fixture
def prompt(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Prompt:
    """Runs the command; gives its exit code and what it wrote."""

    def called(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["causalsweep", "prompt", *arguments])
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = int(end.code or 0)
        return code, *capsys.readouterr()

    return called


def test_tokens_have_index_label_and_name(project: Path) -> None:
    """The game: `Response` at 79, `last` at 81, no label where tokens read alike, the paper's 13 in the grid."""
    found = example_prompt(load_spec(project / "examples" / "demo.yaml"))
    tokens = found.tokens
    assert "".join(token.text for token in tokens[1:]) == found.text
    assert (tokens[79].label, tokens[79].index, tokens[81].names) == ("Response", 79, ("last",))
    assert tokens[70].label == tokens[74].label == ""
    assert [token.index for token in tokens if token.in_grid] == list(range(69, 82))
    assert (found.answer, found.answers) == ("Yes", ("Yes", "No"))


def test_tokens_of_sets_of_places_are_in_the_grid(project: Path) -> None:
    """A set's point at 70, which is no position of the grid's own."""
    raw = raw_spec()
    sets = [{"name": "early", "at": [{"layer": 1, "position": 70}]}]
    found = example_prompt(spec_of(raw | {"grid": raw["grid"] | {"places": sets}}, project / "examples"))
    assert [token.index for token in found.tokens if token.in_grid] == [70, 80, 81]


def test_unequal_prompts_have_names_alone(project: Path) -> None:
    """Arithmetic of one digit and of two: the names move with the draw, and nothing has an index."""
    spec = load_spec(project / "examples" / "arithmetic.yaml")
    draws = [example_prompt(spec, draw=draw) for draw in range(30)]
    assert {token.index for found in draws for token in found.tokens} == {None}
    assert len({len(found.tokens) for found in draws}) > 1
    for found in draws:
        named = {name: token.text for token in found.tokens for name in token.names}
        assert (named["bracket"], named["last"]) == (")", "=")
        assert [token.in_grid for token in found.tokens] == [bool(token.names) for token in found.tokens]


def test_the_command_shows_them(prompt: Prompt, project: Path) -> None:
    """As a table and as a document, also while the positions are wrong."""
    demo = str(project / "examples" / "demo.yaml")
    code, said, _ = prompt(demo)
    assert code == 0
    assert "│    79 │ ␣Response" in said
    code, said, _ = prompt(demo, "--set", "grid.positions=Nonsense", "--json")
    document: dict[str, Any] = json.loads(said)
    assert code == 0
    assert len(document["tokens"]) == 82
    assert not any(token["in_grid"] for token in document["tokens"])


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({}, ["--experiment", "nobody"], "--experiment: got 'nobody'; sweep.yaml has left_boundary"),
        ({"task": "nothing"}, [], "sweep.yaml: key `task.name`: got 'nothing'; there are arithmetic, price_tagging"),
        ({"model": {"path": "nowhere"}}, [], "sweep.yaml: key `model.path`: "),
    ],
)
def test_what_cannot_be_shown_is_said(
    prompt: Prompt,
    demo_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    options: list[str],
    message: str,
) -> None:
    """Exit code 2, one message."""
    monkeypatch.chdir(tmp_path)
    Path("sweep.yaml").write_text(to_yaml(raw_spec(model=str(demo_model)) | changes), encoding="utf-8")
    code, _, said = prompt("sweep.yaml", *options)
    assert (code, said.count("\n")) == (2, 1)
    assert message in said
