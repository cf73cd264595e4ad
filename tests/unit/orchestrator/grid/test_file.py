"""cells.parquet: damage in its pages and in its metadata is seen; no changed cell is planned without a word."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from orchestrator.errors import SweepNotFound
from orchestrator.grid.file import read_grid, write_grid
from tests.earlier import DATA


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The cells of a sweep, as this version writes them."""
    path = tmp_path / "cells.parquet"
    write_grid(read_grid(DATA / "schema_1" / "previous" / "cells.parquet"), path)
    return path


def test_cells_of_an_earlier_version_come_back(path: Path) -> None:
    """Written by this version and read again: the same grid."""
    assert read_grid(path) == read_grid(DATA / "schema_1" / "previous" / "cells.parquet")


def test_a_changed_seed_in_the_metadata_is_seen(path: Path) -> None:
    """The seed is no part of a page: the metadata have a checksum."""
    table = pq.read_table(path)
    notes = dict(table.schema.metadata)
    notes[b"strands"] = notes[b"strands"].replace(b'"seed":42', b'"seed":43')
    pq.write_table(table.replace_schema_metadata(notes), path)
    with pytest.raises(SweepNotFound, match=r"cells\.parquet: not readable \(the checksum of its metadata is wrong\)"):
        read_grid(path)


@pytest.mark.parametrize("column", ["cell_key", "layer"])
def test_a_flipped_bit_in_a_page_is_seen(path: Path, column: str) -> None:
    """A key or a layer of one cell."""
    with pq.ParquetFile(path) as file:
        group = file.metadata.row_group(0)
        chunks = [group.column(index) for index in range(group.num_columns)]
    chunk = next(chunk for chunk in chunks if chunk.path_in_schema == column)
    content = bytearray(path.read_bytes())
    content[(chunk.dictionary_page_offset or chunk.data_page_offset) + chunk.total_compressed_size - 1] ^= 1
    path.write_bytes(content)
    with pytest.raises(SweepNotFound, match=r"cells\.parquet: not readable"):
        read_grid(path)


def test_metadata_that_are_no_grid_are_one_line(path: Path) -> None:
    """Without a checksum, as an earlier version wrote them, and torn."""
    table = pq.read_table(path)
    notes = {key: value for key, value in table.schema.metadata.items() if key != b"crc32"}
    for strands in (b"{", b"[]", b"[{}]"):
        pq.write_table(table.replace_schema_metadata({**notes, b"strands": strands}), path)
        with pytest.raises(SweepNotFound, match="not readable"):
            read_grid(path)
