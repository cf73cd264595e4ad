"""Pairs from files, from the spec to the rows: the shipped example, the page, and a task's own pairs as a file."""

from __future__ import annotations

import json
import random
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from orchestrator import Sweep
from orchestrator.spec.text import to_yaml
from tests.integration.test_extending import blocks
from tests.unit.workers.data.small_tokenizers import byte_level, save
from workers.causal_model import Hypothesis
from workers.data.pairs import _draw_pair, stream_rng
from workers.files.shard import RUN_COLUMNS, SUM_COLUMNS
from workers.tasks import AbstractTask, load_task

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

CITIES = {"Paris": "France", "Rome": "Italy", "Buenos Aires": "Argentina", "Lima": "Peru", "Oslo": "Norway"}
SIZES = {"n_train": 64, "n_eval": 8, "n_test": 32}
# What two sweeps of the same pairs differ in: who they are, what the task is called, and the prompts of the gate, which
# a task draws afresh. The random control's rotation depends on the cell key.
OWN = {"cell_key", "task", "task_settings", "n_correct_random", *RUN_COLUMNS}
OWN |= {name for name in SUM_COLUMNS if name.endswith("_random")}
OWN |= {"iia_random", "task_n_correct", "task_n_total", "task_accuracy", "iia_normalized"}


def test_the_shipped_file_is_what_the_script_writes(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """2,000 rows, under 200 kB."""
    monkeypatch.syspath_prepend(str(project / "examples"))
    import write_pairs

    target = project / "examples" / "pairs.csv"
    assert target.stat().st_size < 200_000
    before = target.read_bytes()
    copy = project / "examples" / "pairs.csv"
    monkeypatch.setattr(write_pairs, "TARGET", copy.with_name(".pairs-test.csv"))
    try:
        write_pairs.main()
        assert write_pairs.TARGET.read_bytes() == before
    finally:
        write_pairs.TARGET.unlink(missing_ok=True)
    assert len(list(write_pairs.pairs())) == 2_000


def test_the_example_finds_the_sum_at_the_bracket(tmp_path: Path, project: Path) -> None:
    """After layer 0 the source's sum, taken over at `)`, changes the answer; at `+` it is not known yet."""
    sweep = Sweep.load(project / "examples" / "pairs.yaml", sweeps=tmp_path)
    assert sweep.run(poll_s=0.5).is_done
    rows = sweep.results().set_index(["layer", "token"])
    assert rows.loc[(0, ")"), "iia"] > 0.9
    assert rows.loc[(0, "+"), "iia"] < 0.6
    assert (rows["task_accuracy"] > 0.9).all()
    assert rows["n_total"].unique().tolist() == [250]


WORDS = ("is in", "lies in", "must be in", "was always in", "is, they say, in")
TRIPLES = [(f"{{}} {words}", one, other) for words in WORDS for one in CITIES for other in CITIES]
PAGE_ROWS = {
    "capitals.jsonl": [
        {"base": text.format(one), "source": text.format(other), "label": f" {CITIES[other]}"}
        | {"positions": {side: {"city": [0, len(city)]} for side, city in (("base", one), ("source", other))}}
        for text, one, other in TRIPLES
    ],
    "years.jsonl": [
        {"base": f"{one} was born in 1900 and died in", "source": f"{other} was born in 1900 and died in"}
        | {side: f" {1950 + len(name)}" for side, name in (("base_answer", one), ("source_answer", other))}
        | {"label": f" {1950 + len(other)}"}
        for one in CITIES
        for other in CITIES
    ],
    "ravel.jsonl": [
        {"input": text.format(one), "source_input": text.format(other), "inv_label": f" {CITIES[other]}"}
        | {"label": f" {CITIES[one]}", "entity": one, "source_entity": other, "attribute": attribute}
        for attribute in ("Country", "Language")
        for text, one, other in TRIPLES
    ],
}


def test_the_pages_specs_are_planned(tmp_path: Path, project: Path) -> None:
    """Every YAML block of docs/data.md on a file of its shape; its JSON row is one of a file that is read."""
    text = (project / "docs" / "data.md").read_text(encoding="utf-8")
    shown = re.findall(r"^```json\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)
    specs = re.findall(r"^```yaml\n# (\S+)\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)
    assert [name for name, _ in specs] == ["capitals.yaml", "years.yaml", "ravel.yaml"]
    extra = {"capitals.jsonl": shown[0], "years.jsonl": shown[1]}
    for name, rows in PAGE_ROWS.items():
        lines = [*map(json.dumps, rows), *([extra[name].strip()] if name in extra else [])]
        (tmp_path / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    words = [f" {word}" for word in CITIES.values()]
    shutil.copytree(project / "examples" / "alpaca-7b", tmp_path / "model", ignore=shutil.ignore_patterns("tokenizer*"))
    backend = byte_level()
    backend.add_tokens(words)
    save(backend, tmp_path / "model")
    for name, spec in specs:
        (tmp_path / name).write_text(spec, encoding="utf-8")
        grid = Sweep.load(tmp_path / name, overrides=["model.path=model", "grid.layers=0"], sweeps=tmp_path / "s").grid
        tokens = {cell.token for _, cell in grid.cells()}
        named = {"capitals.yaml": {"city"}, "ravel.yaml": {"entity"}}.get(name, set())
        assert tokens == {*named, "last"}


def drawn(task: AbstractTask, hypothesis: Hypothesis, seed: int) -> Iterator[dict[str, Any]]:
    """The pairs that the task draws for a sweep of this seed, as rows of a file."""
    for split, size in (("train", "n_train"), ("validation", "n_eval"), ("test", "n_test")):
        n_pairs = SIZES[size]
        rng = stream_rng(task=task.settings(), hypothesis=hypothesis.name, split=split, n=n_pairs, seed=seed)
        for index in range(n_pairs):
            base, source, outcome, variable, value = _draw_pair(
                task, hypothesis, rng, task.sample, want_first=index % 2 == 0
            )
            prompts = {"base": base, "source": source}
            yield {
                **{side: task.prompt(inputs) for side, inputs in prompts.items()},
                **{f"{side}_answer": task.answers[task.outcome(inputs)] for side, inputs in prompts.items()},
                "label": task.answers[outcome],
                "variable": hypothesis.variables[variable],
                "value": None if value != value else value,
                "positions": {side: dict(task.positions(inputs)) for side, inputs in prompts.items()},
                "split": split,
                "hypothesis": hypothesis.name,
            }


@pytest.fixture(scope="module")
def ioi(tmp_path_factory: pytest.TempPathFactory, project: Path) -> Path:
    """The task of docs/extending.md beside its spec, a small random Llama, and a file of the pairs that it draws."""
    folder = tmp_path_factory.mktemp("ioi")
    for (path, _), text in blocks(project).items():
        if "/" not in path:
            (folder / path).write_text(text, encoding="utf-8")
    sys.path.insert(0, str(project / "examples"))
    try:
        from tiny_tokenizer import build_tokenizer
    finally:
        sys.path.remove(str(project / "examples"))
    task = load_task({"file": str(folder / "ioi.py")})
    prompts = [task.prompt(task.sample(random.Random(seed))) for seed in range(40)]
    tokenizer = build_tokenizer([*prompts, *task.answers.values()])
    tokenizer.save_pretrained(folder / "model")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(folder / "model")
    rows = [row for hypothesis in task.hypotheses.values() for row in drawn(task, hypothesis, 42)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def rows_of(folder: Path, name: str, task: Mapping[str, Any], *, data: Mapping[str, Any] = SIZES) -> pd.DataFrame:
    """The rows of a small sweep on the pairs of `task`."""
    grid = {"experiments": ["repeated_first", "receiver"], "layers": "all", "positions": ["giver", "verb", "last"]}
    grid["methods"] = ["interchange", "difference_of_means", {"name": "pca", "k": 2}]
    spec = {"name": name, "model": {"path": "model", "dtype": "float32"}, "task": dict(task), "grid": grid}
    spec |= {"data": dict(data), "gate": {"task_accuracy": 0}}
    (folder / f"{name}.yaml").write_text(to_yaml(spec), encoding="utf-8")
    sweep = Sweep.load(folder / f"{name}.yaml", sweeps=folder / "sweeps")
    assert sweep.run(poll_s=0.2).is_done
    frame = sweep.results().sort_values(["experiment", "method", "layer", "token"]).reset_index(drop=True)
    return frame.drop(columns=[*OWN & set(frame.columns)])


def test_a_tasks_own_pairs_as_a_file_give_the_same_rows(ioi: Path) -> None:
    """Every count, boundary and control of 36 cells: positions by name in prompts of unequal length, two hypotheses."""
    by_class = rows_of(ioi, "by-class", {"file": "ioi.py"})
    by_file = rows_of(ioi, "by-file", {"name": "pairs", "file": "pairs.jsonl"})
    assert len(by_class) == 36
    assert by_class["n_correct"].notna().any()
    pd.testing.assert_frame_equal(by_class, by_file)


def test_answers_of_several_tokens_give_the_same_rows_of_a_class_and_of_a_file(ioi: Path) -> None:
    """One to four tokens, ` Anna` to ` Mary gave a drink`: every count and sum of whole jobs."""
    short, long = 'f" {name}"', '" ".join(["", name, *("gave", "a", "drink")[: NAMES.index(name) % 4]])'
    text = (ioi / "ioi.py").read_text(encoding="utf-8")
    assert short in text
    (ioi / "long.py").write_text(text.replace(short, long), encoding="utf-8")
    task = load_task({"file": str(ioi / "long.py")})
    assert set(task.answers.values()) > {" Anna", " Jack gave", " Mary gave a drink"}
    rows = [row for hypothesis in task.hypotheses.values() for row in drawn(task, hypothesis, 42)]
    (ioi / "long.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    by_class = rows_of(ioi, "long-by-class", {"file": "long.py"})
    by_file = rows_of(ioi, "long-by-file", {"name": "pairs", "file": "long.jsonl"})
    pd.testing.assert_frame_equal(by_class, by_file)
    measured = by_class[by_class["status"] == "done"]
    assert measured["sum_kl"].max() > 1e-3
    assert measured[["sum_label_logprob", "sum_log_odds", "sum_logit_diff", "n_flips"]].notna().all(axis=None)


def test_pairs_that_the_model_gets_wrong_are_left_out(ioi: Path) -> None:
    """A random model is seldom right: as many pairs are kept as it solves by hooks-free forwards of each text."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = (kind.from_pretrained(ioi / "model") for kind in (AutoModelForCausalLM, AutoTokenizer))

    def says(text: str) -> int:
        return int(model(**tokenizer(text, return_tensors="pt", return_token_type_ids=False)).logits[0, -1].argmax())

    rows = [json.loads(line) for line in (ioi / "pairs.jsonl").read_text(encoding="utf-8").splitlines()]
    for row in rows[::2]:  # for every other pair, the answers are what the model says, where that is a token of its own
        for side in ("base", "source"):
            ids, said = tokenizer(row[side])["input_ids"], says(row[side])
            if tokenizer(row[side] + tokenizer.decode([said]))["input_ids"] == [*ids, said]:
                row[f"{side}_answer"] = tokenizer.decode([said])
    (ioi / "solved.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    def solved(row: Mapping[str, str]) -> bool:
        texts = {row[side]: row[side] + row[f"{side}_answer"] for side in ("base", "source")}
        return all(tokenizer(answered)["input_ids"][-1] == says(text) for text, answered in texts.items())

    frame = rows_of(ioi, "solved", {"name": "pairs", "file": "solved.jsonl"}, data=SIZES | {"keep": "correct"})
    measured = frame[frame["status"] == "done"]  # difference_of_means has no meaning for names
    assert measured["experiment"].nunique() == 2
    for name, some in measured.groupby("experiment"):
        test = [row for row in rows if row["hypothesis"] == name and row["split"] == "test"]
        n_kept = sum(map(solved, test))
        assert 0 < n_kept < len(test)
        assert some["n_total"].unique().tolist() == [n_kept]
        assert some["n_dropped"].unique().tolist() == [len(test) - n_kept]
