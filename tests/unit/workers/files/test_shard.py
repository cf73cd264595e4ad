"""The shard's schema: what an older version's file gives, and that no damaged or newer file is read."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.earlier import DATA
from workers.files.shard import (
    CLASS_COLUMNS,
    READ_COLUMNS,
    SHARD_SCHEMA,
    SHARD_SCHEMA_VERSION,
    SUM_COLUMNS,
    TornShard,
    read_shard,
    shard_bytes,
)
from workers.files.versions import NewerFile

OLD = DATA / "schema_1" / "previous" / "shards" / "r1-0001-0001.parquet"


def rows() -> pa.Table:
    """The rows of the shard of schema 1, read."""
    table = read_shard(OLD)
    assert isinstance(table, pa.Table)
    return table


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A shard of this version."""
    path = tmp_path / "r1-0001-0001.parquet"
    path.write_bytes(shard_bytes(rows(), {"job": "r1-0001"}))
    return path


def test_schema_1_is_read_to_the_last_bit() -> None:
    """Every column of a shard of version 1 has its values; those that version 1 lacks are null."""
    written = pq.read_table(OLD)
    assert (written.schema.metadata[b"schema_version"], written.num_rows) == (b"1", 8)
    read = rows()
    assert read.schema.equals(SHARD_SCHEMA)
    assert read.select(written.column_names).to_pydict() == written.to_pydict()
    for name in set(SHARD_SCHEMA.names) - set(written.column_names) - {"site"}:
        assert read[name].null_count == 8, name


def test_schema_1_intervened_on_the_output_of_a_block() -> None:
    """There was no other site: its rows say so when they are read."""
    assert set(rows()["site"].to_pylist()) == {"block_output"}


def test_schema_2_is_read_to_the_last_bit() -> None:
    """It lacks what readings measure, and the counts by class."""
    written, read = (
        pq.read_table(DATA / "schema_2" / "r1-0001-0001.parquet"),
        read_shard(DATA / "schema_2" / "r1-0001-0001.parquet"),
    )
    assert written.schema.metadata[b"schema_version"] == b"2"
    assert isinstance(read, pa.Table)
    assert read.select(written.column_names).to_pydict() == written.to_pydict()
    assert set(SHARD_SCHEMA.names) - set(written.column_names) == {*READ_COLUMNS, *CLASS_COLUMNS}
    assert all(read[name].null_count == 8 for name in (*READ_COLUMNS, *CLASS_COLUMNS))


def test_schema_3_is_read_to_the_last_bit() -> None:
    """It lacks the change of the answer's probability."""
    path = DATA / "schema_3" / "r1-0001-0001.parquet"
    written, read = pq.read_table(path), read_shard(path)
    assert written.schema.metadata[b"schema_version"] == b"3"
    assert isinstance(read, pa.Table)
    assert read.select(written.column_names).to_pydict() == written.to_pydict()
    new = set(SHARD_SCHEMA.names) - set(written.column_names)
    assert new == {name for name in READ_COLUMNS if "relative_change" in name}
    assert all(read[name].null_count == len(read) for name in new)


def test_every_measure_has_its_square_and_its_controls() -> None:
    """Four measures, their squares, and both for each of three controls."""
    assert len(SUM_COLUMNS) == len(set(SUM_COLUMNS)) == 32
    assert {"sum_kl", "sum_kl_sq", "sum_kl_random", "sum_logit_diff_sq_full"} <= set(SUM_COLUMNS)


def test_what_is_written_is_read(path: Path) -> None:
    """A shard gives the table that it was made from."""
    read = read_shard(path)
    assert isinstance(read, pa.Table)
    assert read.equals(rows())
    assert pq.read_schema(path).metadata[b"job"] == b"r1-0001"


def test_a_set_of_places_has_no_layer_and_no_position(path: Path) -> None:
    """Both are null in a row that names a set."""
    table = rows()
    for name in ("layer", "position"):
        table = table.set_column(table.column_names.index(name), SHARD_SCHEMA.field(name), pa.nulls(8, pa.int64()))
    path.write_bytes(shard_bytes(table, {}))
    assert read_shard(path) == table


def test_a_newer_version_is_refused_by_name(path: Path) -> None:
    """Its rows could mean anything: the error names file, both versions and the remedy."""
    newer = str(SHARD_SCHEMA_VERSION + 1)
    pq.write_table(rows().replace_schema_metadata({"schema_version": newer}), path)
    with pytest.raises(NewerFile) as caught:
        read_shard(path)
    assert str(caught.value) == (
        f"{path}: format version {newer}, and this causalsweep reads versions up to {SHARD_SCHEMA_VERSION}; "
        "a newer one wrote it: use that one for this sweep"
    )


def test_columns_of_another_version_are_no_shard(path: Path) -> None:
    """A file that says version 2 and has the columns of version 1 is torn."""
    table = pq.read_table(OLD).replace_schema_metadata({"schema_version": "2"})
    pq.write_table(table, path)
    assert read_shard(path) == TornShard(path, "its columns are not those of schema version 2")


@pytest.mark.parametrize("column", ["cell_key", "boundary", "versions", "n_correct"])
def test_one_damaged_page_makes_the_shard_torn(path: Path, column: str) -> None:
    """Whichever column's page has one flipped bit, nothing of the shard is read."""
    with pq.ParquetFile(path) as file:
        group = file.metadata.row_group(0)
        chunks = [group.column(index) for index in range(group.num_columns)]
        chunk = next(chunk for chunk in chunks if chunk.path_in_schema.partition(".")[0] == column)
        last = (chunk.dictionary_page_offset or chunk.data_page_offset) + chunk.total_compressed_size - 1
    content = bytearray(path.read_bytes())
    content[last] ^= 1
    path.write_bytes(content)
    assert isinstance(read_shard(path), TornShard)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1PAR1", b"\0" * 4096, b"{}"])
def test_what_is_no_parquet_file_is_torn(path: Path, content: bytes) -> None:
    """An empty file, zeros, another format: each is named with what is wrong."""
    path.write_bytes(content)
    torn = read_shard(path)
    assert isinstance(torn, TornShard)
    assert torn.problem


def test_a_folder_is_torn(tmp_path: Path) -> None:
    """A folder named like a shard."""
    assert isinstance(read_shard(tmp_path), TornShard)
