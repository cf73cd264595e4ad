"""Cell keys and job files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from workers.files.job import Cell, Cohort, Job, JobCell, RunOptions, Setting, Stream, content_key
from workers.files.place import Place

STREAM = Stream(
    model={"fingerprint": "f", "dtype": "float32"},
    task={"name": "price_tagging", "bracket": []},
    hypothesis="left_boundary",
    seed=42,
    data={"n_train": 8, "n_eval": 2, "n_test": 4},
    method={"name": "boundless_das", "epochs": 3},
    engine="suffix",
)
CELL = Cell(stream=STREAM, place=Place(layer=3, position=80))
COHORT = Cohort(
    experiment="left",
    stream=STREAM,
    cells=(
        JobCell(key="a", place=Place(layer=3, position=80), token=" é"),
        JobCell(key="b", place=Place(layer=3, position=81), token="\n"),
    ),
)
JOB = Job(
    job="j-1",
    sweep="s",
    folder="/somewhere",
    label="left L3",
    model_path="/model",
    model_revision="",
    gate_task_accuracy=0.8,
    cohorts=(COHORT,),
    settings=(Setting(name="frogs", task={"context": "Frogs!"}, keep="correct", experiments=("left",)),),
    options=RunOptions(micro_batch=16),
    provenance={"git_sha": "abc", "versions": {"python": "3"}},
)


def test_a_key_is_the_hash_of_the_science_alone() -> None:
    """Maps in another order, built anew: the same key, 64 hexadecimal digits."""
    turned = replace(STREAM, model={"dtype": "float32", "fingerprint": "f"})
    assert Cell(stream=turned, place=Place(layer=3, position=80)).key() == CELL.key()
    assert len(CELL.key()) == 64
    assert CELL.key() == content_key(json.loads(json.dumps(CELL.science())))


@pytest.mark.parametrize(
    "change",
    [
        {"model": {"fingerprint": "g", "dtype": "float32"}},
        {"model": {"fingerprint": "f", "dtype": "bfloat16"}},
        {"task": {"name": "price_tagging", "bracket": [5.49, 8.49]}},
        {"hypothesis": "bracket_identity"},
        {"seed": 43},
        {"data": {"n_train": 9, "n_eval": 2, "n_test": 4}},
        {"method": {"name": "boundless_das", "epochs": 4}},
        {"engine": "reference"},
    ],
)
def test_each_part_of_the_stream_changes_the_key(change: dict[str, Any]) -> None:
    """Whatever decides the result is in it."""
    assert Cell(stream=replace(STREAM, **change), place=Place(layer=3, position=80)).key() != CELL.key()


def test_layer_and_position_change_the_key() -> None:
    """Four places, four keys, not mixed up."""
    places = [(3, 80), (80, 3), (3, 81), (4, 80)]
    assert (
        len({Cell(stream=STREAM, place=Place(layer=layer, position=position)).key() for layer, position in places}) == 4
    )


def test_a_number_that_json_lacks_has_no_key() -> None:
    """NaN never enters a key unseen."""
    with pytest.raises(ValueError, match="not JSON compliant"):
        content_key({"x": float("nan")})


def test_a_cohorts_key_is_that_of_its_cells() -> None:
    """Other cells, or another order of training, another checkpoint."""
    assert COHORT.key() == replace(COHORT, experiment="renamed").key()
    assert COHORT.key() != replace(COHORT, cells=COHORT.cells[:1]).key()


def test_a_job_comes_back_from_its_file_as_it_was(tmp_path: Path) -> None:
    """Every field, tuples as tuples, letters beyond ASCII."""
    path = tmp_path / "j.json"
    path.write_text(JOB.to_json(), encoding="utf-8")
    assert Job.load(path) == JOB
    assert JOB.n_cells == 2


def test_a_job_file_of_the_version_before_is_read(tmp_path: Path) -> None:
    """There a cell has its layer and position beside its key, and no site: each is at the block's output."""
    raw = json.loads(JOB.to_json()) | {"schema": 1}
    for cell in raw["cohorts"][0]["cells"]:
        place = cell.pop("place")
        cell |= {"layer": place["layer"], "position": place["position"]}
    path = tmp_path / "j.json"
    path.write_text(json.dumps(raw), encoding="utf-8")
    assert Job.load(path) == JOB


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda raw: raw.update(schema=5), r"j\.json: format version 5, .* up to 4; a newer one wrote it"),
        (lambda raw: raw.pop("schema"), r"j\.json: not a job file: key `schema`: expected a version from 1 to 4"),
        (lambda raw: raw.pop("cohorts"), r"j\.json: not a job file: key `cohorts`: Field required"),
        (lambda raw: raw.pop("model_path"), "key `model_path`: Field required"),
        (lambda raw: raw.update(speed=1), "key `speed`: got 1; "),
        (lambda raw: raw["options"].update(threds=1), r"key `options\.threds`: got 1; "),
        (lambda raw: raw["cohorts"][0]["cells"][0].pop("key"), r"key `cohorts\.0\.cells\.0\.key`: Field required"),
        (lambda raw: raw["cohorts"][0]["stream"].update(seed="42"), r"key `cohorts\.0\.stream\.seed`: got '42'; "),
        (lambda raw: raw["cohorts"][0]["cells"][0]["place"].update(head=1), r"cells\.0\.place\.head`: got 1; "),
        (lambda raw: raw.update(cohorts=None), "key `cohorts`: got None; "),
    ],
)
def test_a_file_that_is_no_job_is_a_value_error(tmp_path: Path, edit: Any, message: str) -> None:
    """Another schema, a missing or an unknown key, a value of another type, at any depth: file and key are named."""
    raw = json.loads(JOB.to_json())
    edit(raw)
    path = tmp_path / "j.json"
    path.write_text(json.dumps(raw), encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        Job.load(path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"\0" * 512])
def test_a_text_that_is_no_job_is_a_value_error_too(tmp_path: Path, content: bytes) -> None:
    """Empty, torn, another JSON value, no text at all, zeros: the file is named."""
    path = tmp_path / "j.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"j\.json: not a job file: "):
        Job.load(path)


def test_keys_of_other_cells_are_refused() -> None:
    """A seed that changed after the planning: the result would be written down as that of another cell."""
    cell = JobCell(key=CELL.key(), place=CELL.place, token="")
    job = replace(JOB, cohorts=(replace(COHORT, cells=(cell,)),))
    job.check_keys()
    changed = replace(job, cohorts=(replace(COHORT, stream=replace(STREAM, seed=43), cells=(cell,)),))
    with pytest.raises(ValueError, match=r"j-1: left .*it is not the key of the cell's parameters"):
        changed.check_keys()
