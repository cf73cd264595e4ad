"""The files of traces: what is written is read, the last attempt counts, and a bad file is passed over."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from workers.files.folder import SweepFolder
from workers.files.traces import TRACE_SCHEMA, read_traces, trace_bytes


@pytest.fixture
def folder(tmp_path: Path) -> SweepFolder:
    """A sweep's folder with a trace of two cells."""
    made = SweepFolder(tmp_path)
    made.traces.mkdir()
    rows = [{"cell_key": "a", "loss_step": [2, 4], "loss": [0.5, 0.25]}, {"cell_key": "b", "after": ["Yes"]}]
    (made.traces / "j-0001.parquet").write_bytes(trace_bytes(rows))
    return made


def test_what_is_written_is_read(folder: SweepFolder) -> None:
    """By cell; what a row lacks is None."""
    found = read_traces(folder)
    assert (found["a"]["loss_step"], found["a"]["loss"], found["a"]["after"]) == ([2, 4], [0.5, 0.25], None)
    assert found["b"]["after"] == ["Yes"]


def test_the_last_attempt_counts(folder: SweepFolder) -> None:
    """A cell that was trained twice has the later attempt's trace; the others keep theirs."""
    (folder.traces / "j-0002.parquet").write_bytes(trace_bytes([{"cell_key": "b", "after": ["No"]}]))
    found = read_traces(folder)
    assert found["b"]["after"] == ["No"]
    assert set(found) == {"a", "b"}


def test_a_sweep_of_an_earlier_version_has_none(tmp_path: Path) -> None:
    """Without the folder there is nothing to show, and no error."""
    assert read_traces(SweepFolder(tmp_path)) == {}


@pytest.mark.parametrize("content", [b"", b"PAR1 torn", trace_bytes([{"cell_key": "z"}])[:-9]])
def test_a_torn_file_is_passed_over(folder: SweepFolder, content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """The other files count, and the log names the one that does not."""
    (folder.traces / "j-0002.parquet").write_bytes(content)
    assert set(read_traces(folder)) == {"a", "b"}
    assert "j-0002.parquet: passed over" in caplog.text


def test_a_later_versions_file_is_passed_over(folder: SweepFolder, caplog: pytest.LogCaptureFixture) -> None:
    """Its columns may mean something else."""
    table = pa.Table.from_pylist([{"cell_key": "z"}], schema=TRACE_SCHEMA).replace_schema_metadata(
        {"schema_version": "2"}
    )
    pq.write_table(table, folder.traces / "k-0001.parquet")
    assert set(read_traces(folder)) == {"a", "b"}
    assert "schema version 2" in caplog.text
