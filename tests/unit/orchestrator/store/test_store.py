"""The store: which rows count, what a torn shard costs, and that others read it without this project."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pandas as pd
import polars as pl
import pyarrow.parquet as pq
import pytest

from orchestrator.store.store import Store
from orchestrator.sweep import Sweep
from tests.unit.orchestrator.conftest import LoadSweep
from tests.unit.orchestrator.fake_cluster import World, jobs_of, write_shard
from workers.files.job import Job
from workers.files.shard import SHARD_SCHEMA


@pytest.fixture
def sweep(load: LoadSweep, world: World) -> Sweep:
    """A sweep whose two jobs are submitted."""
    sweep = load()
    sweep.submit()
    return sweep


@pytest.fixture
def job(sweep: Sweep) -> Job:
    """One of its jobs."""
    return jobs_of(sweep)[0]


def test_first_finished_row_wins(sweep: Sweep, job: Job) -> None:
    """Where two attempts both finished a cell, the earlier one's row counts, whatever their numbers."""
    write_shard(job, attempt=1, ended=2e9, n_correct=1)
    write_shard(job, attempt=2, ended=1e9, n_correct=2)
    assert set(Store(sweep.folder).table()["n_correct"].to_pylist()) == {2}


def test_measured_row_beats_a_failed_one(sweep: Sweep, job: Job) -> None:
    """A cell that failed first and was measured later is measured."""
    write_shard(job, attempt=1, ended=1e9, status="failed", reason="diverged")
    write_shard(job, attempt=2, ended=2e9)
    table = Store(sweep.folder).table()
    assert set(table["status"].to_pylist()) == {"done"}
    assert table.num_rows == job.n_cells


def test_torn_shard_counts_for_nothing(sweep: Sweep, job: Job) -> None:
    """A shard that is cut short is named, and its rows are gone, also those that were compacted before."""
    path = write_shard(job)
    store = Store(sweep.folder)
    assert store.table().num_rows == job.n_cells
    path.write_bytes(path.read_bytes()[:100])
    assert [shard.path for shard in store.torn()] == [path]
    assert store.index() == {}
    assert store.table().num_rows == 0


def test_shard_of_another_schema_is_named(sweep: Sweep, job: Job) -> None:
    """A Parquet file that is no shard of this version is reported, not read."""
    path = sweep.folder.shards / "x-0001.parquet"
    pq.write_table(SHARD_SCHEMA.empty_table().select(["cell_key"]), path)
    assert "schema version none" in Store(sweep.folder).torn()[0].problem


def test_hidden_and_unfinished_files_are_passed_over(sweep: Sweep, job: Job) -> None:
    """Names that begin with a dot or an underscore are no shards."""
    path = write_shard(job)
    path.rename(path.with_name("_" + path.name))
    assert Store(sweep.folder).index() == {}


def test_index_reads_the_compacted_file_and_what_is_new(sweep: Sweep) -> None:
    """Shards written after the compaction count as well, and a rewritten one with all its rows."""
    first, second = jobs_of(sweep)
    keys = [cell.key for cohort in first.cohorts for cell in cohort.cells]
    write_shard(first, keys[:1])
    Store(sweep.folder).table()
    write_shard(first)
    write_shard(second)
    assert len(Store(sweep.folder).index()) == first.n_cells + second.n_cells


def test_compaction_is_the_same_whatever_the_order_of_shards(sweep: Sweep) -> None:
    """Rows come sorted, so two stores of the same results are equal."""
    first, second = jobs_of(sweep)
    write_shard(first)
    before = Store(sweep.folder).table()
    write_shard(second)
    grown = Store(sweep.folder).table()
    Store(sweep.folder).path.unlink()
    assert Store(sweep.folder).table().equals(grown)
    assert grown.num_rows > before.num_rows


def compacted(sweep: Sweep) -> Path:
    """The path of the store with every cell in it."""
    for job in jobs_of(sweep):
        write_shard(job)
    store = Store(sweep.folder)
    store.table()
    return store.path


def test_pandas_reads_the_store(sweep: Sweep) -> None:
    """pandas alone opens it."""
    frame = pd.read_parquet(compacted(sweep))
    assert (len(frame), list(frame.columns)) == (8, SHARD_SCHEMA.names)


def test_polars_reads_the_store(sweep: Sweep) -> None:
    """Polars alone opens it."""
    frame = pl.read_parquet(compacted(sweep))
    assert frame.group_by("experiment").len().sort("experiment")["len"].to_list() == [4, 4]


def test_duckdb_reads_the_store(sweep: Sweep) -> None:
    """DuckDB alone opens it."""
    with duckdb.connect() as connection:
        answer = connection.execute(
            "SELECT count(*), max(iia) FROM read_parquet(?)", [str(compacted(sweep))]
        ).fetchone()
    assert answer == (8, 0.7)
