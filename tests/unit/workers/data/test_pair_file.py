"""Pairs from a file: the same from every kind of file, dealt out by split or hash, read once, then from the table."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.unit.workers.data.small_tokenizers import byte_level, save
from workers.data.answers import UNKNOWN
from workers.data.pair_file.table import PairTable
from workers.data.pairs import PairSet, PromptSet
from workers.data.source import AbstractPairSource, Keep
from workers.data.sources import open_source
from workers.data.tokenizer import Tokenizer
from workers.data.values import value_id
from workers.files.folder import SweepFolder
from workers.tasks import TaskError

NAMES = ("Anna", "John", "Mary", "Paul")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """Byte level; each name is one token behind a blank."""
    backend = byte_level()
    backend.add_tokens([f" {name}" for name in NAMES])
    return Tokenizer.load(save(backend, tmp_path_factory.mktemp("model")))


def row(index: int, **changes: Any) -> dict[str, Any]:
    """A pair whose prompts grow with the index, `verb` at `gave`."""
    base = f"When {NAMES[index % 4]}{' and you' * (index % 3)} went, John gave a drink to"
    source = f"When {NAMES[(index + 1) % 4]} went, John gave a drink to"
    return {
        "base": base,
        "source": source,
        "label": f" {NAMES[(index + 1) % 4]}",
        "base_answer": f" {NAMES[index % 4]}",
        "source_answer": f" {NAMES[(index + 1) % 4]}",
        "positions": {"base": {"verb": base.index("gave")}, "source": {"verb": source.index("gave")}},
    } | changes


def numbered(index: int, **changes: Any) -> dict[str, Any]:
    """A pair without positions whose base says its number."""
    return row(index, base=f"When {index} went to", positions={}) | changes


ROWS = [row(index) for index in range(60)]


def as_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in rows), encoding="utf-8")
    return path


def as_csv(path: Path, rows: list[dict[str, Any]]) -> Path:
    columns = list(dict.fromkeys(column for one in rows for column in one))
    with open(path, "w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, columns, delimiter="\t" if path.suffix == ".tsv" else ",")
        writer.writeheader()
        for one in rows:
            writer.writerow(
                {key: json.dumps(value) if isinstance(value, dict) else value for key, value in one.items()}
            )
    return path


def as_json(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def as_parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def as_dataset(path: Path, rows: list[dict[str, Any]]) -> Path:
    datasets.Dataset.from_list(rows).save_to_disk(str(path))
    return path


WRITERS: Mapping[str, Callable[[Path, list[dict[str, Any]]], Path]] = {
    "pairs.jsonl": as_jsonl,
    "pairs.json": as_json,
    "pairs.csv": as_csv,
    "pairs.tsv": as_csv,
    "pairs.parquet": as_parquet,
    "folder": as_dataset,
}


def opened(path: Path, tokenizer: Tokenizer, folder: SweepFolder | None = None, **settings: Any) -> AbstractPairSource:
    return open_source({"name": "pairs", "file": str(path), **settings}, tokenizer, folder)


def arrays(pairs: PairSet) -> Iterator[list[Any]]:
    for prompts in (pairs.base, pairs.source):
        yield prompts.ids_BT.tolist()
        yield prompts.length_B.tolist()
        yield [] if prompts.place_BP is None else prompts.place_BP.tolist()
    assert pairs.base_answer_B is not None
    assert pairs.source_answer_B is not None
    for part in (pairs.label_B, pairs.variable_B, pairs.base_answer_B, pairs.source_answer_B):
        yield part.tolist()


@pytest.mark.parametrize("name", WRITERS)
def test_each_kind_of_file_has_the_same_pairs(tmp_path: Path, tokenizer: Tokenizer, name: str) -> None:
    """The oracle: each text encoded on its own, its label behind it, and `gave` found by the token's own text."""
    source = opened(WRITERS[name](tmp_path / name, ROWS), tokenizer, shares={"train": 0.5, "test": 0.5})
    layout, n = source.layout("pairs"), source.n_available("pairs")
    assert n["train"] + n["validation"] + n["test"] == len(ROWS)
    by_base = {tuple(tokenizer.encode([one["base"]])[0]): one for one in ROWS}
    pairs = source.pairs("pairs", n_pairs=100, split="train", seed=1)
    assert len(pairs) == n["train"]
    verb = layout.named["verb"]
    assert pairs.base.place_BP is not None
    for index in range(len(pairs)):
        ids = pairs.base.ids_BT[index, : pairs.base.length_B[index]].tolist()
        one = by_base[tuple(ids)]
        assert tokenizer.encode([one["base"] + one["label"]])[0] == [*ids, pairs.label_B[index]]
        assert tokenizer.piece(ids[pairs.base.place_BP[index, verb]]).strip() in ("gave", "g")


@pytest.mark.parametrize("name", WRITERS)
def test_the_saved_table_has_what_the_file_had(tmp_path: Path, tokenizer: Tokenizer, name: str) -> None:
    """A node reads the sweep's table and no file: same science, layout and pairs."""
    folder = SweepFolder(tmp_path / "sweep")
    path = WRITERS[name](tmp_path / name, ROWS)
    planned = opened(path, tokenizer)
    planned.carry(folder)
    node = open_source(planned.science(), tokenizer, folder)
    assert node.science() == planned.science()
    assert node.variables == planned.variables
    assert node.layout("pairs") == planned.layout("pairs")
    for split in ("train", "validation", "test"):
        one, other = (source.pairs("pairs", n_pairs=20, split=split, seed=3) for source in (planned, node))
        assert list(arrays(one)) == list(arrays(other))


def test_an_earlier_plans_table_is_read_instead_of_the_file(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """It is named by the file's hash: what is in it wins, and another file has another."""
    folder, path = SweepFolder(tmp_path / "sweep"), as_jsonl(tmp_path / "pairs.jsonl", ROWS)
    other = opened(as_jsonl(tmp_path / "other.jsonl", ROWS[:30]), tokenizer)
    opened(path, tokenizer).carry(folder)
    (saved,) = (tmp_path / "sweep" / "data").iterdir()
    other.carry(folder)
    (written,) = set((tmp_path / "sweep" / "data").iterdir()) - {saved}
    written.replace(saved)  # a table of 30 rows by the name of that of 60
    assert sum(opened(path, tokenizer, folder).n_available("pairs").values()) == 30


@pytest.mark.parametrize("harm", ["gone", "torn", "other"])
def test_a_table_that_a_node_cannot_read_is_named(tmp_path: Path, tokenizer: Tokenizer, harm: str) -> None:
    """The file, and what to do."""
    folder, path = SweepFolder(tmp_path / "sweep"), as_jsonl(tmp_path / "pairs.jsonl", ROWS)
    planned = opened(path, tokenizer)
    planned.carry(folder)
    (saved,) = (tmp_path / "sweep" / "data").iterdir()
    if harm == "gone":
        saved.unlink()
    elif harm == "torn":
        saved.write_bytes(saved.read_bytes()[:-200])
    else:
        as_parquet(saved, ROWS)
    with pytest.raises(TaskError, match=rf"{saved.name}.*(missing|not readable|version None)"):
        open_source(planned.science(), tokenizer, folder)


def test_a_table_with_a_flipped_byte_is_refused(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """A wrong label without a word would be the worst of all."""
    folder = SweepFolder(tmp_path / "sweep")
    planned = opened(as_jsonl(tmp_path / "pairs.jsonl", ROWS), tokenizer)
    planned.carry(folder)
    (saved,) = (tmp_path / "sweep" / "data").iterdir()
    content = bytearray(saved.read_bytes())
    content[60] ^= 0xFF
    saved.write_bytes(content)
    with pytest.raises(TaskError, match="not readable"):
        open_source(planned.science(), tokenizer, folder)


def test_rows_are_dealt_out_by_their_own_hash(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """In another order, or among others, each row is in the same split; about as many as the shares say."""
    rows, splits = [numbered(index) for index in range(400)], []
    for name, some in (("all", rows), ("reversed", rows[::-1]), ("half", rows[::2])):
        source = opened(as_jsonl(tmp_path / f"{name}.jsonl", some), tokenizer)
        by_split = {}
        for split in ("train", "validation", "test"):
            pairs = source.pairs("pairs", n_pairs=400, split=split, seed=1)
            by_split[split] = {
                tuple(ids[:n]) for ids, n in zip(pairs.base.ids_BT.tolist(), pairs.base.length_B, strict=True)
            }
        splits.append(by_split)
    everything, backwards, half = splits
    assert everything == backwards
    assert all(half[split] <= everything[split] for split in everything)
    for split, share in (("train", 0.8), ("validation", 0.05), ("test", 0.15)):
        deviation = 4 * (share * (1 - share) * 400) ** 0.5
        assert abs(len(everything[split]) - share * 400) < deviation


def test_a_split_column_is_obeyed_and_validation_taken_from_training(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """Test rows stay test rows; some of the others are watched."""
    rows = [
        row(index, base=f"When {index} went to", positions={}, split="test" if index % 4 == 0 else "train")
        for index in range(400)
    ]
    n = opened(as_jsonl(tmp_path / "pairs.jsonl", rows), tokenizer).n_available("pairs")
    assert n["test"] == 100
    assert 0 < n["validation"] < 50
    assert n["train"] + n["validation"] == 300


def test_fewer_pairs_than_there_are_are_chosen_by_the_seed(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """No pair twice, the same for a seed, others for another; all of them in the file's order."""
    rows = [numbered(index, split="train") for index in range(50)]
    source = opened(as_jsonl(tmp_path / "pairs.jsonl", [*rows, numbered(50, split="test")]), tokenizer)

    def bases(n_pairs: int, seed: int) -> list[list[int]]:
        return source.pairs("pairs", n_pairs=n_pairs, split="train", seed=seed).base.ids_BT.tolist()

    assert bases(20, 1) == bases(20, 1)
    assert bases(20, 1) != bases(20, 2)
    assert len({tuple(ids) for ids in bases(20, 1)}) == 20
    assert bases(1000, 1) == bases(1000, 2)


def test_hypotheses_and_variables_are_the_columns_values(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """Each hypothesis has the variables of its own rows, in the order of their appearance."""
    rows = [row(index, hypothesis="one" if index % 2 else "two", variable="PQR"[index % 3]) for index in range(30)]
    source = opened(as_jsonl(tmp_path / "pairs.jsonl", rows), tokenizer)
    assert source.variables == {"two": ("P", "R", "Q"), "one": ("Q", "P", "R")}
    pairs = source.pairs("one", n_pairs=30, split="train", seed=1)
    assert set(pairs.variable_B.tolist()) <= {0, 1, 2}


def test_a_source_for_each_variable_is_chosen_by_the_variable(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """`sources` has a text for P and one for Q; the row interchanges Q."""
    sources = {"P": "When Paul went to", "Q": "When Mary went to"}
    rows = [
        {"base": "When", "sources": sources, "variable": "Q", "label": f" {NAMES[i % 2]}", "split": "test"}
        for i in range(2)
    ]
    pairs = opened(as_jsonl(tmp_path / "pairs.jsonl", rows), tokenizer).pairs("pairs", n_pairs=9, split="test", seed=1)
    assert pairs.source.ids_BT.tolist() == tokenizer.encode(["When Mary went to"] * 2)


def test_where_chooses_rows(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """By the values of any column; the key knows."""
    rows = [row(index, kind="city" if index % 3 == 0 else "name") for index in range(30)]
    path = as_jsonl(tmp_path / "pairs.jsonl", rows)
    some, all_of_them = opened(path, tokenizer, where={"kind": ["city"]}), opened(path, tokenizer)
    assert sum(some.n_available("pairs").values()) == 10
    assert some.science() != all_of_them.science()


def test_the_gate_asks_only_prompts_whose_answer_is_known(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """Bases and sources of test rows; a row without an answer is left out; none at all is no prompt."""
    rows = [row(index, split="test", base_answer=None if index % 2 else " John") for index in range(10)]
    prompts = opened(as_jsonl(tmp_path / "some.jsonl", rows), tokenizer).prompts("pairs", n_prompts=100)
    assert len(prompts.label_B) == len(prompts.prompts) == 15
    john = tokenizer.encode_answered(["to"], [" John"])[0][-1]
    assert prompts.label_B.tolist()[:5] == [john] * 5
    none = [row(index, split="test", base_answer=None, source_answer=None) for index in range(10)]
    source = opened(as_jsonl(tmp_path / "none.jsonl", none), tokenizer)
    assert len(source.prompts("pairs", n_prompts=100).label_B) == 0
    assert not source.knows_answers("pairs")


def test_kept_pairs_are_those_that_the_model_answers_so(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """A model that says John to everything is correct on a base and a source where both answers are his."""
    rows = [
        row(
            i,
            base=f"When {i} went to",
            positions={},
            split="test",
            base_answer=f" {NAMES[i % 2]}",
            source_answer=f" {NAMES[i // 2 % 2]}",
        )
        for i in range(40)
    ]
    source = opened(as_jsonl(tmp_path / "pairs.jsonl", rows), tokenizer)
    john = tokenizer.encode_answered(["to"], [" John"])[0][-1]

    def says_john(prompts: PromptSet) -> Any:
        return prompts.label_B == john

    kept = source.pairs("pairs", n_pairs=5, split="test", seed=1, keep=Keep(which="correct", is_right=says_john))
    assert len(kept) == 5
    for which, wanted in (("correct", True), ("incorrect", False)):
        kept = source.pairs("pairs", n_pairs=40, split="test", seed=1, keep=Keep(which=which, is_right=says_john))
        assert len(kept) == 10
        assert kept.base_answer_B is not None
        assert kept.source_answer_B is not None
        assert ((kept.base_answer_B == john) == wanted).all()
        assert ((kept.source_answer_B == john) == wanted).all()


@pytest.mark.parametrize("has_names", [False, True])
def test_names_are_told_apart_and_kept_in_the_sweeps_table(
    tmp_path: Path, tokenizer: Tokenizer, has_names: bool
) -> None:
    """A text that is a number is one; equal names are equal. A table without names is as earlier versions have it."""
    values = ["Anna", "2.5", 2.5, "Anna", None, "Bob"] if has_names else [1, "2.5", 2.5, 1, None, True]
    rows = [row(index, split="train", value=value) for index, value in enumerate(values)]
    source, folder = opened(as_jsonl(tmp_path / "pairs.jsonl", rows), tokenizer), SweepFolder(tmp_path / "sweep")
    source.carry(folder)
    wanted = [
        value_id(value)
        for value in (["Anna", 2.5, 2.5, "Anna", None, "Bob"] if has_names else [1, 2.5, 2.5, 1, None, 1])
    ]
    assert source.pairs("pairs", n_pairs=9, split="train", seed=1).values.tolist() == wanted
    (table,) = (tmp_path / "sweep").rglob("*.parquet")
    assert PairTable.load(table).blocks["pairs"].value_id_B.tolist() == wanted
    notes = pq.read_schema(table).metadata
    assert notes[b"table_version"] == (b"3" if has_names else b"1")


def test_values_are_numbers_or_have_no_order(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """Truth values and numbers are what probes need; anything else is NaN, as a causal model's own values are."""
    rows = [row(index, split="train", value=value) for index, value in enumerate([1, 2.5, True, None])]
    pairs = opened(as_jsonl(tmp_path / "pairs.jsonl", rows), tokenizer).pairs("pairs", n_pairs=9, split="train", seed=1)
    assert np.array_equal(pairs.value_B, [1, 2.5, 1, np.nan], equal_nan=True)


CITIES = (" Rome", " Buenos Aires", " New York", " New Orleans")


def city_row(index: int) -> dict[str, Any]:
    """A pair whose label has one to many tokens, by the index."""
    base, source = CITIES[index % 4], CITIES[(index + 1 + index // 4 % 3) % 4]
    return {"base": f"I am {index}, from", "source": "She is from", "label": source, "base_answer": base} | {
        "source_answer": source
    }


def test_answers_of_several_tokens_are_those_behind_the_prompt(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """Each token of each answer, in the pairs, the gate's prompts and the example, also from the sweep's own table."""
    rows = [city_row(index) for index in range(40)]
    path, folder = as_jsonl(tmp_path / "cities.jsonl", rows), SweepFolder(tmp_path / "sweep")
    written = opened(path, tokenizer)
    written.carry(folder)
    read = open_source(written.science(), tokenizer, folder)
    for source in (written, read):
        for split in ("train", "test"):
            pairs = source.pairs("pairs", n_pairs=100, split=split, seed=1)
            for name, side in (("label", "base"), ("base_answer", "base"), ("source_answer", "source")):
                answer_BN, prompts = pairs.answers(name), getattr(pairs, side)
                assert answer_BN is not None
                for index in range(len(pairs)):
                    prompt = prompts.ids_BT[index, : prompts.length_B[index]].tolist()
                    answer = [token for token in answer_BN[index].tolist() if token != UNKNOWN]
                    text = tokenizer.text([*prompt, *answer])
                    assert tokenizer.encode([text])[0] == [*prompt, *answer]
                    assert text.endswith(CITIES)
        prompts = source.prompts("pairs", n_prompts=100)
        lengths = {len(ids) - 1 for ids in tokenizer.encode(CITIES)}  # each begins with the special token
        assert prompts.rest_BN is not None
        assert {len(tokens[tokens != UNKNOWN]) for tokens in prompts.label_BN} <= lengths
        assert source.example("pairs", 1).answer == " Buenos Aires"
        assert source.layout("pairs").n_answer_tokens == max(lengths)


def test_only_the_first_token_counts_where_the_spec_says_so(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """` Rome` and ` New York` are then one token each; ` New York` and ` New Orleans` can not be told apart."""
    rows = [city_row(index) | {"label": CITIES[index % 2], "source_answer": CITIES[index % 2]} for index in range(40)]
    rows = [one | {"base_answer": CITIES[index % 2]} for index, one in enumerate(rows)]
    backend = byte_level()
    backend.add_tokens([" Rome", " Buenos", " New"])
    words = Tokenizer.load(save(backend, tmp_path / "words"))
    path = as_jsonl(tmp_path / "cities.jsonl", rows)
    assert opened(path, words).pairs("pairs", n_pairs=9, split="train", seed=1).rest
    source = opened(path, words, answers={"match": "first"})
    pairs = source.pairs("pairs", n_pairs=100, split="train", seed=1)
    assert not pairs.rest
    assert {words.piece(token) for token in pairs.label_B.tolist()} == {" Rome", " Buenos"}
    assert source.science()["match"] == "first"
    alike = as_jsonl(tmp_path / "alike.jsonl", [city_row(0) | {"label": CITIES[2], "base_answer": CITIES[3]}])
    with pytest.raises(
        TaskError, match=r"line 1: column `label`: ' New York' and `base_answer` ' New Orleans': no token"
    ):
        opened(alike, words, answers={"match": "first"})


@pytest.mark.parametrize(
    ("answers", "message"),
    [({"match": "some"}, "match: got 'some'"), ({"form": 1}, "answers.form: unknown key; there are match, only")],
)
def test_a_wrong_rule_for_answers_is_named(
    tmp_path: Path, tokenizer: Tokenizer, answers: dict[str, Any], message: str
) -> None:
    """The key, what it has, and what there is."""
    with pytest.raises(TaskError, match=message):
        opened(as_jsonl(tmp_path / "cities.jsonl", [city_row(0)]), tokenizer, answers=answers)
