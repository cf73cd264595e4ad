"""Sweeps that an earlier version left behind: read, reported and not run again, on a machine that has none of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from cluster.backend import JobState
from orchestrator.backends.submissions import Stage, read_submissions
from orchestrator.errors import StorageError
from orchestrator.status.states import CellState
from orchestrator.sweep import Sweep
from tests.earlier import DATA, copied
from workers.files.job import Job
from workers.files.progress import AttemptState, read_progress
from workers.files.shard import SHARD_SCHEMA_VERSION

COUNTS = (
    "n_correct",
    "n_total",
    "iia",
    "n_correct_none",
    "n_correct_full",
    "loss",
    "subspace_dim",
    "layer",
    "position",
)


@pytest.fixture
def previous(tmp_path: Path) -> Sweep:
    """The finished sweep of the version before."""
    return Sweep.load(copied("schema_1/previous", tmp_path))


@pytest.fixture
def halfway(tmp_path: Path) -> Sweep:
    """The cancelled one."""
    return Sweep.load(copied("schema_1/halfway", tmp_path))


def test_a_finished_sweep_stays_done(previous: Sweep) -> None:
    """Every cell is done, its job completed; nothing is torn."""
    status = previous.status()
    assert status.is_done
    assert status.is_quiet
    assert status.torn == ()
    assert {cell.state for cell in status.cells.values()} == {CellState.DONE}
    assert [job.state for job in status.jobs] == [JobState.COMPLETED]


def test_its_check_passes(previous: Sweep) -> None:
    """`check` says done and has nothing to remark."""
    check = previous.check()
    assert (check.is_done, check.n_done, check.problems, check.remarks) == (True, 4, (), ())


def test_check_gathers_the_store(previous: Sweep) -> None:
    """Where nobody has gathered, `check` does so before it says done: direct readers find all rows."""
    shutil.rmtree(previous.folder.store)
    assert previous.check().is_done
    assert pq.read_table(previous.folder.store / "results.parquet").num_rows == 8


def test_check_does_not_say_done_without_a_store(previous: Sweep) -> None:
    """A file lies where the store's folder belongs: the cells are done, the sweep is not, and the line says why."""
    shutil.rmtree(previous.folder.store)
    previous.folder.store.write_text("", encoding="utf-8")
    check = previous.check()
    assert (check.is_done, check.n_done) == (False, 4)
    assert "store/results.parquet: the rows are in shards/, but cannot be gathered here" in check.problems[0]


def test_its_results_are_what_was_measured(previous: Sweep) -> None:
    """All eight rows, each number as the shard has it, whatever the columns that came since."""
    written = pq.read_table(DATA / "schema_1" / "previous" / "shards" / "r1-0001-0001.parquet")
    wanted = {(row["cell_key"], row["setting"]): [row[name] for name in COUNTS] for row in written.to_pylist()}
    rows = pa.Table.from_pandas(previous.results(), preserve_index=False).to_pylist()
    assert {(row["cell_key"], row["setting"]): [row[name] for name in COUNTS] for row in rows} == wanted
    assert {row["site"] for row in rows} == {"block_output"}


def test_it_has_a_report_and_a_table(previous: Sweep) -> None:
    """The page is written, and the table has a line for each method and setting."""
    assert previous.report().is_file()
    assert len(previous.summary()) == 4


def test_resuming_it_runs_nothing(previous: Sweep) -> None:
    """There is nothing left to hand over, although its model and its machine are gone."""
    receipt = previous.resume()
    assert (receipt.submission, receipt.n_cells) == (None, 0)


def test_its_store_is_brought_up_to_date(previous: Sweep) -> None:
    """Readers without this project's code find the columns of this version after the first look at the results."""
    previous.results()
    table = pq.read_table(previous.folder.store / "results.parquet")
    assert (table.schema.metadata[b"schema_version"], table.num_rows) == (str(SHARD_SCHEMA_VERSION).encode(), 8)
    assert pc.all(pc.is_null(table["sum_kl"])).as_py()


def test_every_kind_of_file_is_read(previous: Sweep, halfway: Sweep) -> None:
    """Job files, submissions and progress files of both sweeps, each with what it said."""
    for sweep, n_cells, state in ((previous, 4, AttemptState.FINISHED), (halfway, 2, AttemptState.INTERRUPTED)):
        (submission,) = read_submissions(sweep.folder)
        assert (submission.stage, submission.jobs) == (Stage.SUBMITTED, ("r1-0001",))
        assert Job.load(sweep.folder.job_file("r1-0001")).n_cells == n_cells
        progress = read_progress(sweep.folder.progress / "r1-0001-0001.json")
        assert progress is not None
        assert progress.state is state


def test_what_was_stopped_is_missing(halfway: Sweep) -> None:
    """The cancelled job's cells have no rows: they are missing, and neither failed nor done."""
    status = halfway.status()
    assert {cell.state for cell in status.cells.values()} == {CellState.MISSING}
    assert not halfway.check().is_done


def test_a_shard_of_a_newer_version_refuses_every_command(previous: Sweep) -> None:
    """Nothing is shown as missing, and nothing is run again, because of a shard that only a newer version can read."""
    path = previous.folder.shards / "r1-0001-0001.parquet"
    pq.write_table(pq.read_table(path).replace_schema_metadata({"schema_version": "99"}), path)
    for command in (previous.status, previous.check, previous.results, previous.resume):
        with pytest.raises(StorageError, match=r"r1-0001-0001\.parquet: format version 99.*use that one"):
            command()
