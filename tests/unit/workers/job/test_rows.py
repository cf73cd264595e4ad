"""The rows of a shard: schema, counts, and what counts as done."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.unit.workers.files.test_job import COHORT, JOB
from workers.files.job import Job
from workers.files.progress import AttemptState, Progress
from workers.files.shard import RUN_COLUMNS, SHARD_SCHEMA, SHARD_SCHEMA_VERSION
from workers.job.evaluate import Counts
from workers.job.remaining import rows_done
from workers.job.rows import GateResult, RowWriter, cell_row, measured
from workers.methods.alignment import CellFacts

GATE = GateResult(n_correct=90, n_total=100, n_all=100)
COUNTS = Counts(
    n_total=100,
    n_correct=80,
    n_correct_none=50,
    n_correct_full=70,
    n_correct_random=60,
    n_only_cell=40,
    n_only_none=10,
    n_dummy=50,
)
FACTS = CellFacts(boundary=(0.25,), subspace_dim=16, loss=0.5, steps=375)
PROGRESS = Progress(
    job="j-1",
    attempt=2,
    state=AttemptState.RUNNING,
    host="node7",
    pid=1,
    backend="slurm",
    scheduler_job_id="99",
    gpu_name="A100",
    gpu_uuid="GPU-1",
    started=0.0,
    updated=0.0,
)


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """A job of two cells and one further setting, in an empty sweep's folder."""
    made = replace(JOB, folder=str(tmp_path))
    made.sweep_folder.make()
    return made


def row(index: int = 0, *, setting: str = "main", **values: Any) -> dict[str, Any]:
    """What a cell's row begins with, and some values."""
    return cell_row(COHORT, COHORT.cells[index], setting, ["P"], GATE) | values


def shards(job: Job) -> list[Path]:
    return sorted(job.sweep_folder.shards.iterdir())


def test_a_shard_has_the_schema_and_says_where_it_comes_from(job: Job) -> None:
    """Every column and type as declared; version, job and provenance in the file's metadata."""
    RowWriter(job, 2, PROGRESS).add([row()])
    (path,) = shards(job)
    assert path.name == "j-1-0002.parquet"
    schema = pq.read_schema(path)
    assert schema.remove_metadata().equals(SHARD_SCHEMA)
    assert {key: schema.metadata[key] for key in (b"schema_version", b"job", b"sweep")} == {
        b"schema_version": str(SHARD_SCHEMA_VERSION).encode(),
        b"job": b"j-1",
        b"sweep": b"s",
    }
    assert b'"git_sha": "abc"' in schema.metadata[b"provenance"]


def test_a_row_says_which_run_made_it(job: Job) -> None:
    """Host, GPU, scheduler's id, attempt: the columns in which two runs may differ."""
    RowWriter(job, 2, PROGRESS).add([row()])
    (found,) = pq.read_table(shards(job)[0]).to_pylist()
    wanted = {"host": "node7", "gpu_uuid": "GPU-1", "scheduler_job_id": "99", "attempt": 2, "backend": "slurm"}
    assert found.items() >= wanted.items()
    assert wanted.keys() <= RUN_COLUMNS


def test_later_rows_join_the_earlier_ones(job: Job) -> None:
    """The shard is replaced by all rows so far."""
    writer = RowWriter(job, 1, PROGRESS)
    writer.add([row(0)])
    writer.add([row(1)])
    (path,) = shards(job)
    assert pq.read_table(path)["cell_key"].to_pylist() == ["a", "b"]


def test_a_measured_row_keeps_counts(job: Job) -> None:
    """80 of 100, the controls beside them; with a dummy's 0.5 and a task accuracy of 0.9: (0.8 - 0.5) / 0.4."""
    RowWriter(job, 1, PROGRESS).add([row() | measured(COUNTS, FACTS, GATE, "iia")])
    (found,) = pq.read_table(shards(job)[0]).to_pylist()
    assert (found["n_correct"], found["n_total"], found["iia"]) == (80, 100, 0.8)
    assert (found["n_correct_none"], found["n_correct_full"], found["n_correct_random"]) == (50, 70, 60)
    assert (found["n_only_cell"], found["n_only_none"]) == (40, 10)
    assert found["iia_normalized"] == pytest.approx(0.75)
    assert (found["task_n_correct"], found["task_accuracy"], found["dummy_accuracy"]) == (90, 0.9, 0.5)
    assert (found["boundary"], found["subspace_dim"], found["loss"], found["steps"]) == ([0.25], 16, 0.5, 375)


@pytest.mark.parametrize("n_dummy", [90, 95])
def test_nothing_is_normalised_by_a_model_that_is_no_better_than_the_dummy(n_dummy: int) -> None:
    """Null, not infinity and not a negative number."""
    found = measured(replace(COUNTS, n_dummy=n_dummy), FACTS, GATE, "iia")
    assert (found["iia"], found["iia_normalized"]) == (0.8, None)


def test_a_probes_accuracy_is_no_iia() -> None:
    """Counts are there, under another metric; what can be decoded need not be used."""
    found = measured(COUNTS, FACTS, GATE, "decoding")
    assert (found["metric"], found["n_correct"], found["iia"], found["iia_normalized"]) == ("decoding", 80, None, None)


def test_a_row_of_no_prompt_has_no_accuracy() -> None:
    """Where no prompt was counted, 0 of 0 is no share."""
    counts = Counts(n_total=0, n_correct=0, n_dummy=0)
    found = measured(counts, FACTS, GATE, "decoding")
    assert (found["n_total"], found["n_correct"], found["dummy_accuracy"]) == (0, 0, None)


def test_a_skipped_row_has_a_reason_and_no_number(job: Job) -> None:
    """Counts are null, never 0; the gate's own figures are there."""
    RowWriter(job, 1, PROGRESS).add([row(status="skipped", reason="too weak")])
    (found,) = pq.read_table(shards(job)[0]).to_pylist()
    assert (found["status"], found["reason"], found["task_accuracy"]) == ("skipped", "too weak", 0.9)
    for column in ("metric", "n_correct", "n_total", "iia", "iia_normalized", "loss", "n_correct_none"):
        assert found[column] is None, column


def test_a_row_that_the_schema_does_not_know_is_refused(job: Job) -> None:
    """A missing required column or a value of another type is an error at once, and no shard is written."""
    bad_rows = [{"cell_key": None}, row() | {"layer": "three"}]
    for bad in bad_rows:
        with pytest.raises((pa.ArrowException, TypeError)):
            RowWriter(job, 1, PROGRESS).add([bad])
    assert shards(job) == []


# What is done ------------------------------------------------------------------------------------------------------


def test_rows_of_every_attempt_are_done(job: Job) -> None:
    """By cell and setting, from whichever attempt."""
    RowWriter(job, 1, PROGRESS).add([row(0), row(0, setting="frogs")])
    RowWriter(job, 2, PROGRESS).add([row(1)])
    assert rows_done(job) == {("a", "main"), ("a", "frogs"), ("b", "main")}


@pytest.mark.parametrize("name", ["j-2", "j", "j-1-0001"])
def test_what_another_job_measured_is_done_and_what_it_could_not_is_not(job: Job, name: str) -> None:
    """A cell done elsewhere is not run again; one that was skipped or failed there is this job's to try."""
    other = RowWriter(replace(job, job=name), 1, PROGRESS)
    other.add([row(0), row(1, status="failed"), row(1, setting="frogs", status="skipped")])
    assert rows_done(job) == {("a", "main")}


def test_a_cell_that_this_job_could_not_run_is_over(job: Job) -> None:
    """Skipped or failed by an earlier attempt of the same job: not tried again."""
    RowWriter(job, 1, PROGRESS).add([row(0, status="skipped"), row(1, status="failed")])
    assert rows_done(job) == {("a", "main"), ("b", "main")}


def test_rows_of_cells_that_are_not_this_jobs_do_not_matter(job: Job) -> None:
    """The sweep's other cells are left out."""
    RowWriter(job, 1, PROGRESS).add([row(0) | {"cell_key": "elsewhere"}])
    assert rows_done(job) == set()


@pytest.mark.parametrize("n_bytes", [0, 3, 100, -1])
def test_a_torn_shard_is_not_done(job: Job, n_bytes: int) -> None:
    """Cut anywhere: its cells are still to be computed, those of a whole shard are not."""
    RowWriter(job, 1, PROGRESS).add([row(0)])
    RowWriter(job, 2, PROGRESS).add([row(1)])
    torn = shards(job)[0]
    torn.write_bytes(torn.read_bytes()[:n_bytes])
    assert rows_done(job) == {("b", "main")}


def test_a_parquet_file_of_something_else_is_not_done(job: Job) -> None:
    """A table without our columns, under a shard's name."""
    pq.write_table(pa.table({"x": [1]}), job.sweep_folder.shards / "j-1-0001.parquet")
    assert rows_done(job) == set()
