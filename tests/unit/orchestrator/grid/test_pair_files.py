"""A spec whose pairs come from a file: planned, keyed by the file's hash, carried in the folder, refused in words."""

from __future__ import annotations

import io
import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli import main
from orchestrator.errors import SpecError, SweepConflict
from orchestrator.folder import check_same_science, written
from orchestrator.grid.expand import Grid, expand
from orchestrator.grid.file import read_grid
from orchestrator.grid.prompt_preview import example_prompt
from orchestrator.spec.schema import SweepSpec
from orchestrator.spec.text import to_yaml
from tests.unit.orchestrator.specs import raw_spec, spec_of
from workers.data.sources import open_source
from workers.data.tokenizer import Tokenizer
from workers.files.folder import SweepFolder, take_over_files
from workers.tasks.arithmetic import Arithmetic


def rows(n_rows: int = 40) -> list[dict[str, Any]]:
    """Sums of one digit or two, which differ in length; the digit before `)` is a position."""
    found = []
    for index in range(n_rows):
        one, other = (Arithmetic(addends=(1, 99)).prompt({"a": a, "b": index + 3, "c": 2}) for a in (index + 5, 7))
        positions = {"base": {"b": one.index(")") - 1}, "source": {"b": other.index(")") - 1}}
        label, answer = str((10 + index) * 2 % 10), str((2 * index + 8) * 2 % 10)
        answers = {"label": label, "base_answer": answer, "source_answer": label}
        found.append({"base": one, "source": other, "positions": positions, **answers})
    return found


def write(folder: Path, content: list[dict[str, Any]]) -> Path:
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in content), encoding="utf-8")
    return path


@pytest.fixture
def raw(tmp_path: Path, project: Path) -> dict[str, Any]:
    """A small sweep on the arithmetic model; the file lies beside the spec."""
    write(tmp_path, rows())
    grid = {"experiments": ["pairs"], "layers": [0], "positions": ["b", "last"]}
    model = {"path": str(project / "examples" / "arithmetic-model"), "dtype": "float32"}
    return raw_spec(model=model, task={"name": "pairs", "file": "pairs.jsonl"}, grid=grid)


def planned(raw: dict[str, Any], folder: Path) -> tuple[SweepSpec, Grid]:
    spec = spec_of(raw, folder)
    return spec, expand(spec)


def test_a_file_of_pairs_is_planned(raw: dict[str, Any], tmp_path: Path) -> None:
    """Positions by name, as prompts differ in length; the numbers of pairs are those that there are, and it is said."""
    _, grid = planned(raw, tmp_path)
    (strand,) = grid.strands
    assert [cell.token for cell in strand.cells] == ["b", "last"]
    assert strand.variables == ("pairs",)
    assert sum(strand.stream.data.values()) == 40
    assert strand.stream.task.keys() == {"name", "data_sha256"}
    asked = {"n_train": 20_000, "n_eval": 200, "n_test": 1_000}
    for key, n_asked in asked.items():
        there = f"pairs: {key} is {strand.stream.data[key]}, all that the file has"
        assert f"{there}; {n_asked:,} were asked for" in grid.notes


def test_the_key_depends_on_the_files_content_and_not_on_its_place(raw: dict[str, Any], tmp_path: Path) -> None:
    """Elsewhere the same cells; with a row more, others."""
    keys = []
    for name, content in (("a", rows()), ("b", rows()), ("c", [*rows(), *rows(41)[40:]])):
        (tmp_path / name).mkdir()
        write(tmp_path / name, content)
        keys.append([cell.key for _, cell in planned(raw, tmp_path / name)[1].cells()])
    assert keys[0] == keys[1]
    assert not set(keys[0]) & set(keys[2])


def test_the_folder_carries_the_pairs(raw: dict[str, Any], tmp_path: Path) -> None:
    """A node finds them by the strand alone, the file long gone; so does a search that takes the files over."""
    spec, grid = planned(raw, tmp_path)
    folder = SweepFolder(tmp_path / "sweep")
    with written(folder, spec, grid):
        pass
    (tmp_path / "pairs.jsonl").unlink()
    other = SweepFolder(tmp_path / "other")
    take_over_files(other, folder)
    (strand,) = read_grid(folder.cells).strands
    for place in (folder, other):
        source = open_source(strand.stream.task, Tokenizer.load(Path(spec.model.path)), place)
        assert len(source.pairs("pairs", n_pairs=99, split="train", seed=1)) == strand.stream.data["n_train"]


def test_a_file_changed_since_the_plan_is_another_sweep(raw: dict[str, Any], tmp_path: Path) -> None:
    """The conflict shows both hashes; nothing of the first is lost."""
    spec, grid = planned(raw, tmp_path)
    folder = SweepFolder(tmp_path / "sweep")
    with written(folder, spec, grid):
        pass
    check_same_science(folder, spec, expand(spec, folder))
    write(tmp_path, rows()[:-1])
    with pytest.raises(SweepConflict, match=r"task\.data_sha256: '[0-9a-f]{64}' there, '[0-9a-f]{64}' in small\.yaml"):
        check_same_science(folder, spec, expand(spec, folder))


def test_a_prompt_of_the_file_is_shown(raw: dict[str, Any], tmp_path: Path) -> None:
    """Its text, its answer and the tokens that the grid can name."""
    shown = example_prompt(spec_of(raw, tmp_path), draw=3)
    assert shown.text == rows()[3]["base"]
    assert shown.answer == rows()[3]["base_answer"]
    assert [token.text for token in shown.tokens if token.names] == ["6", "="]
    assert [token.in_grid for token in shown.tokens if token.names] == [True, True]


def test_rows_without_answers_are_said_to_have_no_gate(raw: dict[str, Any], tmp_path: Path) -> None:
    """The plan says what that means."""
    write(tmp_path, [{key: row[key] for key in ("base", "source", "label", "positions")} for row in rows()])
    _, grid = planned(raw, tmp_path)
    assert any("rows lack base_answer or source_answer; the model's task accuracy" in note for note in grid.notes)


def test_answers_of_several_tokens_are_said(raw: dict[str, Any], tmp_path: Path) -> None:
    """In pieces, because a label that the tokenizer splits unexpectedly is an answer that the model never gives."""
    assert not [note for note in planned(raw, tmp_path)[1].notes if "tokens" in note]
    answers = ("label", "base_answer", "source_answer")
    write(tmp_path, [row | {name: row[name] + "." for name in answers} for row in rows()])
    (note,) = [note for note in planned(raw, tmp_path)[1].notes if "tokens" in note]
    assert re.fullmatch(r"pairs: answers of up to 2 tokens \('\d' \+ '\.'\); a hit needs all of them, .*", note)


def test_a_setting_has_rows_of_its_own(raw: dict[str, Any], tmp_path: Path) -> None:
    """`where` chooses them by any column."""
    write(tmp_path, [row | {"kind": "even" if index % 2 else "odd"} for index, row in enumerate(rows())])
    setting = {"name": "odd", "task": {"where": {"kind": "odd"}}}
    _, grid = planned(raw | {"settings": [setting]}, tmp_path)
    assert len(grid.sources) == 2
    wrong = raw | {"settings": [setting | {"task": {"where": {"kind": "none"}}}]}
    with pytest.raises(SpecError, match=r"key `settings\[0\]\.task\.file`: .*none of its 40 rows has"):
        planned(wrong, tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"file": "none.jsonl"}, r"key `task\.file`: .*none\.jsonl: cannot be read"),
        ({"columns": {"label": "inv"}}, r"key `task\.file`: .*pairs\.jsonl, line 1: column `inv`: no column 'inv'"),
        ({"format": "json"}, r"key `task\.format`: got 'json'"),
        ({"system": "Hi"}, r"key `task\.system`: got 'Hi' without `chat: true`"),
        ({"chat": True}, r"key `task\.chat`: .*tokenizer_config\.json: no chat template"),
    ],
)
def test_what_is_wrong_ends_with_2_and_writes_nothing(
    raw: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], message: str
) -> None:
    """`plan` and `submit`, with the spec's key, the file and the line."""
    spec = tmp_path / "small.yaml"
    spec.write_text(to_yaml(raw | {"task": raw["task"] | change}), encoding="utf-8")
    for command in ("plan", "submit"):
        monkeypatch.setattr(sys, "argv", ["causalsweep", command, str(spec), "--sweeps", str(tmp_path / "sweeps")])
        monkeypatch.setattr(sys, "stderr", io.StringIO())
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 2
        assert re.search(message, sys.stderr.getvalue())  # type: ignore[attr-defined]
    assert not (tmp_path / "sweeps").exists()


def test_unknown_hypotheses_are_named(raw: dict[str, Any], tmp_path: Path) -> None:
    """Those of the file are listed."""
    with pytest.raises(SpecError, match=r"experiments\[0\]`: got 'sum'; task 'pairs' has the hypotheses pairs"):
        planned(raw | {"grid": raw["grid"] | {"experiments": ["sum"]}}, tmp_path)


def test_a_grid_of_chosen_strands_still_carries_its_files(raw: dict[str, Any], tmp_path: Path) -> None:
    """Strands may be left out; what the nodes need stays."""
    _, grid = planned(raw, tmp_path)
    assert replace(grid, strands=grid.strands[:1]).sources == grid.sources


def test_keeping_to_solved_pairs_is_part_of_the_key_only_when_asked_for(raw: dict[str, Any], tmp_path: Path) -> None:
    """Sweeps of earlier versions knew no `keep`: their keys stay."""
    (plain,), (kept,) = (planned(raw | {"data": data}, tmp_path)[1].strands for data in ({}, {"keep": "correct"}))
    assert plain.stream.data.keys() == {"n_train", "n_eval", "n_test"}
    assert kept.stream.data == {**plain.stream.data, "keep": "correct"}


def test_keeping_to_solved_pairs_needs_answers(raw: dict[str, Any], tmp_path: Path) -> None:
    """Without one, nobody knows the correct answer to a prompt."""
    write(tmp_path, [{key: row[key] for key in row if key != "source_answer"} for row in rows()])
    with pytest.raises(SpecError, match=r"key `data\.keep`: got 'correct'; each row of hypothesis 'pairs'"):
        planned(raw | {"data": {"keep": "correct"}}, tmp_path)
