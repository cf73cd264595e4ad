"""Rows that are no pair: each refused with the file, the line or row, the column, and what is expected."""

from __future__ import annotations

import builtins
import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.unit.workers.data.test_pair_file import ROWS, as_jsonl, as_parquet, opened, row, tokenizer
from workers.data.tokenizer import Tokenizer
from workers.tasks import TaskError

__all__ = ["tokenizer"]  # the fixture

BASE = ROWS[5]["base"]
AT = {"base": {"verb": 0}, "source": {"verb": 0}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base": ""}, "`base`: got an empty text"),
        ({"base": None}, "`base`: missing; a text is needed"),
        ({"base": 7}, r"`base`: got 7 \(int\); expected a text"),
        ({"source": None}, "`source`: missing"),
        ({"label": ""}, "`label`: got an empty text"),
        ({"label": " B" * 9}, r"`label`: '( B)+' is 18 tokens; expected at most 16: give its beginning"),
        ({"base_answer": " P" * 9}, r"`base_answer`: '( P)+' is 18 tokens; expected at most 16"),
        ({"source_answer": " P" * 9}, r"`source_answer`: '( P)+' is 18 tokens; expected at most 16"),
        (
            {"label": " Mary", "base_answer": " Mary Ann"},
            "`label`: ' Mary' and `base_answer` ' Mary Ann': no token that counts tells them apart; put an end behind",
        ),
        ({"split": "exam"}, "`split`: got 'exam'; expected train, validation, test"),
        ({"variable": 3}, r"`variable`: got 3 \(int\)"),
        ({"sources": {"P": "x"}}, "`sources`: both this and `source` are given"),
        ({"source": None, "sources": {"P": "x", "Q": "y"}}, "`sources`: has P, Q, and `variable` is not given"),
        ({"source": None, "sources": {"P": ""}}, "`sources`: got an empty text"),
        ({"positions": 3}, "`positions`: got 3; expected a mapping"),
        ({"positions": "{"}, "`positions`: not JSON"),
        ({"positions": {"target": {}}}, "`positions`: got the key 'target'; expected `base` and `source`"),
        (
            {"positions": AT | {"base": {"verb": len(BASE)}}},
            rf"`positions`: base.verb is {len(BASE)}, outside its text of",
        ),
        ({"positions": AT | {"base": {"verb": -1}}}, "`positions`: base.verb is -1, outside"),
        ({"positions": AT | {"source": {"verb": [4, 4]}}}, r"`positions`: source.verb is \[4, 4\], outside"),
        (
            {"positions": AT | {"base": {"verb": "gave"}}},
            "`positions`: base.verb is 'gave'; expected a character's index or a span",
        ),
        (
            {"positions": AT | {"base": {"verb": True}}},
            "`positions`: base.verb is True; expected a character's index or a span",
        ),
        (
            {"positions": AT | {"base": {"last": 1}}},
            "`positions`: base has the name 'last'; expected a word of letters",
        ),
        ({"positions": AT | {"base": {}}}, "`positions`: base has none, source verb; expected the same names in both"),
        (
            {"positions": AT | {"base": [["verb", 1]]}},
            r"`positions`: got \['verb', 1\] in a list; expected {name, start, end}",
        ),
        ({"positions": {}}, "`positions`: has none, and others of hypothesis 'pairs' have verb"),
    ],
)
def test_a_wrong_row_is_named(tmp_path: Path, tokenizer: Tokenizer, changes: dict[str, Any], message: str) -> None:
    """The sixth of sixty."""
    path = as_jsonl(tmp_path / "pairs.jsonl", [*ROWS[:5], row(5) | changes, *ROWS[6:]])
    with pytest.raises(TaskError, match=rf"^file: {path}, line 6: column {message}"):
        opened(path, tokenizer)


def test_a_missing_column_is_said_by_the_files_own_name(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """What `columns` names must be there; the columns that are there are listed."""
    path = as_jsonl(tmp_path / "pairs.jsonl", ROWS)
    with pytest.raises(TaskError, match=r"line 1: column `inv_label`: no column 'inv_label'; there are base, source"):
        opened(path, tokenizer, columns={"label": "inv_label"})


def test_columns_are_found_by_their_own_names_and_inside_structs(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """`columns: {base: input, label: answer.text}`."""
    rows = [{"input": one["base"], "source": one["source"], "answer": {"text": one["label"]}} for one in ROWS]
    path = as_jsonl(tmp_path / "pairs.jsonl", rows)
    found = opened(path, tokenizer, columns={"base": "input", "label": "answer.text"})
    assert sum(found.n_available("pairs").values()) == 60


def test_broken_json_is_named_by_its_line(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """In line 4,711 of 5,000."""
    lines = [json.dumps(row(index)) for index in range(5_000)]
    lines[4_710] = lines[4_710][:-3]
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(TaskError, match=r"pairs\.jsonl, line 4,711: not JSON: .*; expected one JSON object a line"):
        opened(tmp_path / "pairs.jsonl", tokenizer)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.jsonl", b'["base"]\n', "line 1: got list; expected a JSON object"),
        ("p.jsonl", b"\n\n", "has no row"),
        ("p.jsonl", '{"base": "café"}'.encode("latin-1"), r"line 1: not UTF-8 \(.*\); save the file as UTF-8"),
        ("p.json", b'{"base": 1}', "got dict; expected a list of objects"),
        ("p.json", b"[", "not JSON: .*; expected a list of objects"),
        ("p.csv", "base,source,label\ncafé,b,c\n".encode("latin-1"), "not UTF-8: byte 0xe9 .*; save the file as UTF-8"),
        ("p.csv", "base,source,label\na,b,c\n".encode("utf-16"), "not UTF-8: byte 0xff"),
        ("p.csv", b"base,source,label\na,b\n", "line 2: not the 3 fields that the first line names"),
        ("p.csv", b"base,source,label\na,b,c,d\n", "line 2: not the 3 fields that the first line names"),
        ("p.csv", b'base,source,label\n"a"b,c,d\n', "line 2: not CSV"),
        ("p.parquet", b"base", "not readable as Parquet"),
        ("p.xlsx", b"", "got a name that ends in '.xlsx'; expected .jsonl, .ndjson, .json, .csv"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(
    tmp_path: Path, tokenizer: Tokenizer, name: str, content: bytes, message: str
) -> None:
    """The file, where in it, and what is expected."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TaskError, match=rf"^file: {re.escape(str(tmp_path / name))}(, |: )+{message}"):
        opened(tmp_path / name, tokenizer)


def test_a_missing_file_and_a_folder_of_something_else_are_named(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """What is expected is said too."""
    with pytest.raises(TaskError, match="cannot be read: No such file or directory; give the path of a file of pairs"):
        opened(tmp_path / "none.jsonl", tokenizer)
    (tmp_path / "folder").mkdir()
    with pytest.raises(TaskError, match="not a folder that datasets saved"):
        opened(tmp_path / "folder", tokenizer)


def test_a_folder_needs_the_datasets_library(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it is not installed: the extra that brings it, or a way without."""
    own = builtins.__import__

    def without(name: str, *arguments: Any, **options: Any) -> Any:
        if name == "datasets":
            raise ImportError(name)
        return own(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(TaskError, match=r'pip install "causalsweep\[data\]"; or save the dataset as Parquet'):
        opened(tmp_path, tokenizer)


def test_a_parquet_of_other_types_is_named_by_row_and_column(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """Labels as numbers, as many tables have them."""
    table = pa.table({"base": ["a", "b"], "source": ["c", "d"], "label": [1942, 1943]})
    pq.write_table(table, tmp_path / "pairs.parquet")
    with pytest.raises(TaskError, match=r"row 1: column `label`: got 1942 \(int\); expected a text"):
        opened(tmp_path / "pairs.parquet", tokenizer)


def test_a_position_in_no_token_is_named_by_its_row(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """A blank that the tokenizer leaves out of its tokens' characters."""
    from tests.unit.workers.data.small_tokenizers import byte_level, save

    trimming = Tokenizer.load(save(byte_level(trim=True), tmp_path / "model"))
    rows = [{"base": "to a", "source": "to a", "label": " d", "positions": {"base": {"x": 2}, "source": {"x": 0}}}]
    with pytest.raises(TaskError, match=r"row 1: column `positions`: base.x is 2, where 'to a' has no token"):
        opened(as_parquet(tmp_path / "pairs.parquet", rows), trimming)


def test_a_label_outside_the_answers_is_refused(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """The set is the user's word on what there is."""
    path = as_jsonl(tmp_path / "pairs.jsonl", ROWS)
    with pytest.raises(TaskError, match="line 3: column `label`: got ' Paul'; `answers` has only ' John', ' Mary'"):
        opened(path, tokenizer, answers=[" John", " Mary"])


def test_labels_that_are_all_the_same_are_refused(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """By hypothesis."""
    source = opened(as_jsonl(tmp_path / "pairs.jsonl", [row(i, label=" John") for i in range(60)]), tokenizer)
    with pytest.raises(TaskError, match="hypothesis 'pairs', column `label`: ' John' in all 60 rows; two"):
        source.check("pairs", ["train", "test"])


def test_a_split_without_rows_is_refused(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """The splits that there are are counted."""
    source = opened(as_jsonl(tmp_path / "pairs.jsonl", [row(i, split="train") for i in range(60)]), tokenizer)
    with pytest.raises(TaskError, match=r"no row is in the split 'test' \(train \d+, validation \d+, test 0\)"):
        source.check("pairs", ["train", "test"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"colums": {}}, "colums: unknown setting of task 'pairs'; there are file, format, columns"),
        ({"columns": {"target": "x"}}, "columns: got .*; 'target' is no column of ours; there are base"),
        ({"columns": []}, r"columns: got \[\]"),
        ({"format": "csv"}, "format: got 'csv'; "),
        (
            {"shares": {"train": 0.5, "test": 0.2}},
            "shares are train 0.5, test 0.2; expected `train` and `test` above 0",
        ),
        ({"shares": {"train": 1.0, "validation": 0.0}}, "shares are train 1.0"),
        ({"where": {"kind": {"a": 1}}}, "where: got .*; 'kind' has a mapping"),
        ({"where": {"kind": "city"}}, "none of its 60 rows has"),
        ({"file": 3}, "file: got 3; expected the path of a file of pairs"),
        ({"file": None}, "file: missing; task 'pairs' needs the path of a file of pairs"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path: Path, tokenizer: Tokenizer, settings: dict[str, Any], message: str) -> None:
    """Key, value, and what is expected."""
    with pytest.raises(TaskError, match=message):
        opened(as_jsonl(tmp_path / "pairs.jsonl", ROWS), tokenizer, **settings)


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """Another process appends to it: the pairs would not be those of the hash in the key."""
    from workers.data.pair_file import encoding
    from workers.data.pair_file.settings import PairFileSettings

    path = as_jsonl(tmp_path / "pairs.jsonl", ROWS)
    with pytest.raises(TaskError, match="has changed while it was read; plan the sweep again"):
        encoding.read_table(path, "0" * 64, PairFileSettings(), tokenizer)
