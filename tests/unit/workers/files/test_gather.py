"""The gathered store: which rows count, and that a copy is always whole, current and of this version."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.earlier import copied
from workers.files import gather
from workers.files.folder import SweepFolder, replace_file
from workers.files.gather import INDEX, Shards, chosen_rows, gather_after_job
from workers.files.shard import SHARD_SCHEMA, shard_bytes
from workers.files.versions import NewerFile


@pytest.fixture
def folder(tmp_path: Path) -> SweepFolder:
    """A finished sweep of eight rows in one shard of schema 1, its store gathered by that version."""
    return SweepFolder(copied("schema_1/previous", tmp_path))


def add_attempt(folder: SweepFolder, attempt: int, settings: Sequence[str]) -> Path:
    """A second shard: the rows of the first one as further settings, so that each of them counts."""
    table = Shards(folder).table().filter(pa.compute.equal(Shards(folder).table()["setting"], "main"))
    tables = [
        table.set_column(
            table.column_names.index("setting"), SHARD_SCHEMA.field("setting"), pa.array([name] * table.num_rows)
        )
        for name in settings
    ]
    path = folder.shards / f"r2-0001-{attempt:04d}.parquet"
    replace_file(path, shard_bytes(pa.concat_tables(tables), {}))
    return path


ROW = st.fixed_dictionaries(
    {
        "cell_key": st.sampled_from("ab"),
        "setting": st.sampled_from(["main", "other"]),
        "status": st.sampled_from(["done", "failed", "skipped", "strange"]),
        "ended": st.none() | st.integers(-2, 2),
        "job": st.sampled_from(["r1-0001", "r1-0002", "r10-0001"]),
        "attempt": st.integers(1, 2),
    }
)


def oracle(rows: Sequence[dict[str, Any]]) -> list[int]:
    """The rows that count, one comparison after another."""
    rank = {"done": 0, "failed": 1, "skipped": 1}
    best: dict[tuple[str, str], tuple[Any, ...]] = {}
    for at, row in enumerate(rows):
        of_status, ended = rank.get(row["status"], 2), row["ended"] or 0
        mine = (of_status, -ended if of_status == 1 else ended, row["job"], row["attempt"], at)
        place = (row["cell_key"], row["setting"])
        best[place] = min(best.get(place, mine), mine)
    return sorted(found[-1] for found in best.values())


@settings(deadline=None)
@given(st.lists(ROW, max_size=30))
def test_the_row_that_counts_is_the_oracles(rows: list[dict[str, Any]]) -> None:
    """Measured before failed; the first measurement, and the last failure; then job and attempt, then as they come."""
    schema = pa.schema([SHARD_SCHEMA.field(name) for name in INDEX[:6]])
    table = pa.Table.from_pylist(rows, schema=schema)
    assert sorted(chosen_rows(table).to_pylist()) == oracle(rows)


def test_a_copy_of_an_earlier_version_is_written_anew(folder: SweepFolder) -> None:
    """The rows are those of the shard, in the schema of this version."""
    assert pq.read_schema(Shards(folder).path).metadata[b"schema_version"] == b"1"
    table = Shards(folder).gather()
    assert pq.read_table(Shards(folder).path).replace_schema_metadata(None).equals(table)
    assert table.schema.equals(SHARD_SCHEMA)
    assert table.num_rows == 8


@pytest.mark.parametrize("damage", ["zeroed", "empty", "cut", "folder"])
def test_a_torn_copy_is_written_anew(folder: SweepFolder, damage: str) -> None:
    """The copy's pages are zeros, its end is missing, it is empty: its rows come from the shards."""
    before = Shards(folder).gather()
    path = Shards(folder).path
    content = path.read_bytes()
    if damage == "folder":
        path.unlink()
        path.mkdir()
    else:
        zeroed = content[:4] + b"\0" * (len(content) // 2) + content[4 + len(content) // 2 :]
        path.write_bytes({"zeroed": zeroed, "empty": b"", "cut": content[:-20]}[damage])
    shards = Shards(folder)
    assert shards.index().num_rows == 8
    assert shards.table().equals(before)
    if damage != "folder":
        assert pq.read_table(path).num_rows == 8


def test_an_unchanged_store_is_not_written_again(folder: SweepFolder) -> None:
    """Readers of a gathered store leave the file alone."""
    Shards(folder).gather()
    before = os.stat(Shards(folder).path).st_ino
    Shards(folder).gather()
    assert os.stat(Shards(folder).path).st_ino == before


def test_racing_gatherers_lose_no_row(folder: SweepFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job ends and gathers after another gatherer has looked and before that one writes its older view."""
    Shards(folder).gather()
    add_attempt(folder, 1, ["second"])

    def overtaken(path: Path, content: bytes) -> None:
        monkeypatch.setattr(gather, "replace_file", replace_file)
        add_attempt(folder, 2, ["third"])
        Shards(folder).gather()
        replace_file(path, content)

    monkeypatch.setattr(gather, "replace_file", overtaken)
    table = Shards(folder).gather()
    assert table.num_rows == 8 + 4 + 4
    assert pq.read_table(Shards(folder).path).num_rows == 16


def test_other_tools_find_the_rows_of_a_job_that_has_ended(folder: SweepFolder) -> None:
    """What a worker gathers at its end, DuckDB reads without this project's code."""
    shutil.rmtree(folder.store)
    gather_after_job(folder)
    with duckdb.connect() as connection:
        answer = connection.execute("SELECT count(*) FROM read_parquet(?)", [str(Shards(folder).path)]).fetchone()
    assert answer == (8,)


def test_a_store_that_cannot_be_written_is_not_the_jobs_fault(
    folder: SweepFolder, caplog: pytest.LogCaptureFixture
) -> None:
    """A file lies where the store's folder belongs: the worker says so and ends as it would have."""
    shutil.rmtree(folder.store)
    folder.store.write_text("", encoding="utf-8")
    gather_after_job(folder)
    assert "could not be gathered" in caplog.text
    assert Shards(folder).table().num_rows == 8


@pytest.mark.parametrize("name", ["notes.parquet", "r1-0001-0001 (conflicted copy).parquet", ".nfs0001.parquet"])
def test_strays_among_the_shards_are_passed_over(folder: SweepFolder, name: str) -> None:
    """What no attempt writes is neither read nor called torn."""
    (folder.shards / name).write_bytes(b"")
    (folder.shards / "r9-0001-0001.parquet").mkdir()
    assert Shards(folder).torn() == []
    assert Shards(folder).table().num_rows == 8


def test_a_shard_of_a_newer_version_refuses_the_sweep(folder: SweepFolder) -> None:
    """Its cells are neither done nor to be run again: nobody here can know."""
    path = add_attempt(folder, 1, ["second"])
    pq.write_table(pq.read_table(path).replace_schema_metadata({"schema_version": "99"}), path)
    for ask in (Shards(folder).index, Shards(folder).torn, Shards(folder).table):
        with pytest.raises(NewerFile, match=r"r2-0001-0001\.parquet: format version 99"):
            ask()
