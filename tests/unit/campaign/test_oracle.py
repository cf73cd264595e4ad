"""The campaign's oracle sees each planted mistake, and sees nothing where there is none."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd
import pytest

from tests.campaign.arena import Arena, Overlaps, Said
from tests.campaign.episode import Episode
from tests.campaign.oracle import Verdict, compare, read


@pytest.fixture
def rows() -> pd.DataFrame:
    """Two cells, measured."""
    return pd.DataFrame(
        {
            "cell_key": ["a", "b"],
            "setting": ["main", "main"],
            "status": ["done", "done"],
            "n_correct": [90, 80],
            "loss": [0.1, 0.2],
            "host": ["node1", "node2"],
        }
    )


def test_the_same_rows_are_clean(rows: pd.DataFrame) -> None:
    """Another order and another host are no difference."""
    again = rows.iloc[::-1].assign(host="elsewhere")
    assert compare(again, rows) == (0, 0, 0)


def test_a_lost_row_is_seen(rows: pd.DataFrame) -> None:
    """A cell without a row, and one whose only row is a failure."""
    assert compare(rows.iloc[:1], rows) == (1, 0, 0)
    assert compare(rows.assign(status=["done", "failed"]), rows) == (1, 0, 0)


def test_a_doubled_row_is_seen(rows: pd.DataFrame) -> None:
    """One cell with two rows."""
    assert compare(pd.concat([rows, rows.iloc[:1]], ignore_index=True), rows)[1] == 1


@pytest.mark.parametrize("change", [{"n_correct": [90, 81]}, {"loss": [0.1, 0.2 + 1e-12]}])
def test_a_changed_number_is_seen(rows: pd.DataFrame, change: dict[str, list[float]]) -> None:
    """A count that is one higher, and a loss that differs far behind the point."""
    assert compare(rows.assign(**change), rows) == (0, 0, 1)


def test_a_traceback_and_an_undocumented_exit_are_seen() -> None:
    """A command that printed one, and one that ended with 3; a command that the campaign killed has no code."""
    fine = Said(arguments=("status", "tiny"), code=0, output="tiny: 8 done")
    broken = replace(fine, code=1, output="Traceback (most recent call last):\n ...")
    assert read([fine, replace(fine, code=None), broken, replace(fine, code=3)]) == (1, 1)


@contextmanager
def pretended_worker(job: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process whose command line is a worker's, which /proc shows a moment after its start."""
    code = "import time; time.sleep(600)"
    process = subprocess.Popen([sys.executable, "-c", code, "-m", "workers", str(job)])
    try:
        while str(job).encode() not in Path(f"/proc/{process.pid}/cmdline").read_bytes():
            assert process.poll() is None
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_job_that_runs_twice_at_once_is_seen(tmp_path: Path) -> None:
    """Two processes with one job file that live side by side for longer than a handover takes."""
    arena = Arena(root=tmp_path, backend="local", options={})
    job = tmp_path / "jobs" / "r1-0001.json"
    watch = Overlaps(arena)
    with ExitStack() as stack:
        first = stack.enter_context(pretended_worker(job))
        stack.enter_context(pretended_worker(tmp_path / "jobs" / "r1-0002.json"))
        watch.look(0.0)
        watch.look(10.0)
        assert watch.found == set()
        stack.enter_context(pretended_worker(job))
        watch.look(20.0)
        assert watch.found == set()
        watch.look(30.0)
        assert watch.found == {"r1-0001"}
        assert len(list(arena.processes())) == 3
        assert first.pid in arena.workers()


def test_a_handover_from_a_dying_process_is_no_overlap(tmp_path: Path) -> None:
    """The second run of a job begins while the first one is just being reaped."""
    watch = Overlaps(Arena(root=tmp_path, backend="local", options={}))
    job = tmp_path / "jobs" / "r1-0001.json"
    with pretended_worker(job):
        with pretended_worker(job):
            watch.look(0.0)
        watch.look(1.0)
        with pretended_worker(job):
            watch.look(2.0)
        watch.look(5.0)
    assert watch.found == set()


def test_verdicts_add_up_and_repeated_work_is_no_fault() -> None:
    """The sum of two episodes; seconds of repeated work alone leave it clean."""
    total = Verdict(lost=1, repeated_s=2.0) + Verdict(double=2, repeated_s=0.5)
    assert total == Verdict(lost=1, double=2, repeated_s=2.5)
    assert not total.is_clean
    assert Verdict(repeated_s=9.0).is_clean


def test_an_episode_is_plain_data() -> None:
    """It can be written down as JSON, to be looked at later."""
    one = Episode(seed="s", faults=("worker killed",), verdict=Verdict(), seconds=1.0, said=("status tiny -> 0",))
    assert json.loads(json.dumps(asdict(one)))["verdict"]["lost"] == 0
