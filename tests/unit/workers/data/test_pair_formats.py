"""The field's data sets, a small file of each in its own columns: what pairs a row of it means."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.unit.workers.data.small_tokenizers import byte_level, save
from tests.unit.workers.data.test_pair_file import as_jsonl, as_parquet
from workers.data.pair_file.formats import formatted
from workers.data.pair_file.rows import PairRow, RowError, pair_row
from workers.data.pair_file.settings import PairFileSettings
from workers.data.sources import open_source
from workers.data.tokenizer import Tokenizer
from workers.tasks import TaskError

RAVEL = {
    "input": "Paris is in the country of France. Paris is on the continent of",
    "label": " Europe",
    "source_input": "People in Lima speak",
    "source_label": " Spanish",
    "inv_label": " America",
    "split": "val",
    "source_split": "train",
    "entity": "Paris",
    "source_entity": "Lima",
}
CAUSALGYM = {
    "base": ["<|endoftext|>", "The", " author", " near", " it"],
    "src": ["<|endoftext|>", "The", " authors", " near", " it"],
    "base_type": "singular",
    "src_type": "plural",
    "base_label": " is",
    "src_label": " are",
    "task": "agr_sv_num_pp",
}
CAUSALAB = {
    "input": "3+4=",
    "counterfactual_inputs": [{"raw_input": "5+9="}],
    "base_answer": "7",
    "cf_answer": "14",
    "label": "8",
    "label_forms": ["8", " 8"],
    "string_mode": "exact",
    "split": "test",
    "example_id": 3,
    "carry": 0,
}
MCQA = {
    "prompt": "What is green?\nA. grass\nB. sky\nAnswer:",
    "choices": {"label": ["A", "B"], "text": ["grass", "sky"]},
    "answerKey": 0,
    "symbol_counterfactual": {
        "prompt": "What is green?\nK. grass\nM. sky\nAnswer:",
        "choices": {"label": ["K", "M"], "text": ["grass", "sky"]},
        "answerKey": 1,
    },
    "noun_counterfactual": None,
}
IOI = {
    "prompt": "As Rita and Jim left the shop, Jim gave a bag to",
    "template": "As {} and {} left the {}, {} gave a {} to",
    "metadata": {"subject": "Jim", "indirect_object": "Rita", "object": "bag", "place": "shop"},
    "abc_counterfactual": {
        "prompt": "As Kim and Bob left the shop, Kim gave a bag to",
        "metadata": {"subject": "Kim", "indirect_object": "Bob", "object": "bag", "place": "shop"},
    },
}


def pairs_of(raw: dict[str, Any], name: str) -> list[PairRow]:
    return [pair_row(one, PairFileSettings(format=name)) for one in formatted(raw, name)]


def test_ravel() -> None:
    """The label is `inv_label`; the entity's last mention is a position in each prompt."""
    (pair,) = pairs_of(RAVEL, "ravel")
    assert (pair.base, pair.source, pair.label) == (RAVEL["input"], RAVEL["source_input"], " America")
    assert (pair.base_answer, pair.source_answer, pair.split) == (" Europe", " Spanish", "validation")
    (start, end) = pair.base_positions["entity"]  # type: ignore[misc]
    assert (start, RAVEL["input"][start:end]) == (35, "Paris")
    (start, end) = pair.source_positions["entity"]  # type: ignore[misc]
    assert RAVEL["source_input"][start:end] == "Lima"


def test_causalgym() -> None:
    """Spans are joined, each is a position; the source's own label is the counterfactual one."""
    (pair,) = pairs_of(CAUSALGYM, "causalgym")
    assert (pair.base, pair.source) == ("<|endoftext|>The author near it", "<|endoftext|>The authors near it")
    assert (pair.label, pair.base_answer, pair.source_answer) == (" are", " is", " are")
    assert pair.hypothesis == "agr_sv_num_pp"
    at = {name: pair.source[slice(*span)] for name, span in pair.source_positions.items()}  # type: ignore[misc]
    assert at == {"span_0": "<|endoftext|>", "span_1": "The", "span_2": " authors", "span_3": " near", "span_4": " it"}


def test_causalab() -> None:
    """The label is the causal model's, not the source's own answer."""
    (pair,) = pairs_of(CAUSALAB, "causalab")
    assert (pair.base, pair.source) == ("3+4=", "5+9=")
    assert (pair.label, pair.base_answer, pair.source_answer) == ("8", "7", "14")


def test_mib_multiple_choice() -> None:
    """The pointer takes the source's place among the base's letters, the answer takes its letter."""
    letter, pointer = pairs_of(MCQA, "mib")
    assert (letter.hypothesis, letter.label) == ("answer", " M")
    assert (pointer.hypothesis, pointer.label) == ("answer_pointer", " B")
    for pair in (letter, pointer):
        assert (pair.base_answer, pair.source_answer) == (" A", " M")
        assert pair.source == MCQA["symbol_counterfactual"]["prompt"]  # type: ignore[index]


def test_mib_indirect_object() -> None:
    """Bob is the second name, and Jim is the base's second one."""
    token, place = pairs_of(IOI, "mib")
    assert (token.hypothesis, token.label) == ("output_token", " Bob")
    assert (place.hypothesis, place.label) == ("output_position", " Jim")
    assert {(pair.base_answer, pair.source_answer) for pair in (token, place)} == {(" Rita", " Bob")}


@pytest.mark.parametrize(
    ("raw", "name", "column", "problem"),
    [
        (RAVEL | {"source_entity": "Rome"}, "ravel", "source_entity", "got 'Rome', which is not in the prompt"),
        ({"input": "x"}, "ravel", "source_input", "missing; there are input"),
        (RAVEL | {"input": 3}, "ravel", "input", "got 3; expected a text"),
        (CAUSALGYM | {"base": "The"}, "causalgym", "base", "got 'The'; expected a list"),
        (CAUSALGYM | {"src": ["The", ""]}, "causalgym", "src", r"got \['The', ''\]; expected a list of texts"),
        (
            CAUSALAB | {"counterfactual_inputs": ["a", "b"]},
            "causalab",
            "counterfactual_inputs",
            "has 2 texts; expected one",
        ),
        ({"prompt": "x"}, "mib", "<name>_counterfactual", "missing"),
        (MCQA | {"answerKey": 2}, "mib", "answerKey", "got 2; expected the index of one of the 2 choices"),
        (MCQA | {"symbol_counterfactual": {"prompt": "x"}}, "mib", "symbol_counterfactual.choices", "missing"),
        (IOI | {"prompt": "As Rita left"}, "mib", "metadata", "'Jim' is not in the prompt"),
    ],
)
def test_a_row_of_another_shape_is_refused(raw: dict[str, Any], name: str, column: str, problem: str) -> None:
    """The file's own column, and what it has."""
    with pytest.raises(RowError, match=problem) as caught:
        pairs_of(raw, name)
    assert caught.value.column == column


def test_a_file_of_a_format_is_opened_whole(tmp_path: Path) -> None:
    """Parquet and JSON Lines of MIB's shape, one counterfactual chosen by `where`."""
    backend = byte_level()
    backend.add_tokens([" A", " B", " M"])
    tokenizer = Tokenizer.load(save(backend, tmp_path / "model"))
    for path in (as_jsonl(tmp_path / "mib.jsonl", [MCQA] * 8), as_parquet(tmp_path / "mib.parquet", [MCQA] * 8)):
        settings = {"name": "pairs", "file": str(path), "format": "mib", "where": {"counterfactual": "symbol"}}
        source = open_source(settings, tokenizer, None)
        assert source.variables == {"answer": ("answer",), "answer_pointer": ("answer_pointer",)}
        assert sum(source.n_available("answer").values()) == 8


def test_a_refusal_names_the_row_of_the_file(tmp_path: Path) -> None:
    """As for plain rows."""
    tokenizer = Tokenizer.load(save(byte_level(), tmp_path / "model"))
    path = as_jsonl(tmp_path / "ravel.jsonl", [RAVEL, RAVEL | {"entity": "Rome"}])
    with pytest.raises(TaskError, match=r"line \d: column `(entity|label|base_answer)`: "):
        open_source({"name": "pairs", "file": str(path), "format": "ravel"}, tokenizer, None)
