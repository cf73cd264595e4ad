"""The command line on a submitted sweep: exit codes, documents, rows, and what is said of jobs."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.backend import Control, JobState
from orchestrator.cli import steering
from tests.unit.orchestrator.conftest import LoadSweep, Run
from tests.unit.orchestrator.fake_cluster import (
    World,
    fail,
    finish,
    jobs_of,
    newest_jobs,
    set_state,
    write_progress,
    write_shard,
)
from workers.files.failure import FailureClass
from workers.files.progress import AttemptState


@pytest.fixture
def run(run: Run, beside_spec: None) -> Run:
    """Runs `causalsweep` beside the small sweep's spec file and gives its exit code."""
    return run


def test_submit_status_check(run: Run, document: Callable[..., Any], load: LoadSweep, world: World) -> None:
    """Submitted cells wait, finished ones are done; check says 1, then 0."""
    assert document("submit", "small.yaml")["n_cells"] == 8
    status = document("status", "small")
    assert (status["cells"]["waiting"], status["is_quiet"]) == (8, False)
    assert {job["state"] for job in status["jobs"]} == {"PENDING"}
    assert run("check", "small") == 1
    for job in jobs_of(load()):
        finish(world, job)
    assert run("check", "small") == 0
    assert document("status", "small", "--watch")["is_done"]


def test_run_ends_with_1_where_cells_fail(run: Run, load: LoadSweep, world: World) -> None:
    """`run` is done only when every cell is."""
    run("submit", "small.yaml")
    for job in jobs_of(load()):
        write_progress(job, AttemptState.FAILED, kind=FailureClass.BAD_INPUT)
        set_state(world, job.job, JobState.FAILED)
    assert run("run", "small.yaml") == 1


def test_why_the_gate_kept_cells_out_stands_at_the_end(
    run: Run, load: LoadSweep, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    """`run` and `errors` end with the gate's reason; there is nothing to resume, so nothing of it is said."""
    run("submit", "small.yaml")
    for job in jobs_of(load()):
        write_shard(job, status="skipped", reason="task accuracy 0.7000 is below the gate's 0.8000", task_accuracy=0.7)
        write_progress(job, AttemptState.FINISHED)
        set_state(world, job.job, JobState.COMPLETED)
    capsys.readouterr()
    line = "8 cells skipped: task accuracy 0.7000 is below the gate's 0.8000; they run under a lower gate.task_accuracy"
    assert run("run", "small.yaml") == 1
    printed = capsys.readouterr().out
    assert line in printed
    assert "resume" not in printed
    run("errors", "small.yaml")
    assert line in capsys.readouterr().out


def test_jobs_whose_cells_are_done_since_are_no_longer_shown_as_failed(
    run: Run, load: LoadSweep, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two jobs fail and are named; one's cells are done by a later job, then both are: they are only counted."""

    def failed_lines() -> list[str]:
        capsys.readouterr()
        run("status", "small")
        return [line for line in capsys.readouterr().out.splitlines() if "failed:" in line or "failed, but" in line]

    run("submit", "small.yaml")
    for job in jobs_of(load()):
        fail(world, job, FailureClass.BUG)
    assert failed_lines() == ["r1-0001 failed: bug: it broke", "r1-0002 failed: bug: it broke"]
    run("resume", "small")
    first, second = newest_jobs(load())
    finish(world, first)
    fail(world, second, FailureClass.BUG)
    counted = "2 jobs failed, but all their cells are now done or in later jobs: causalsweep errors small"
    assert failed_lines() == [f"{second.job} failed: bug: it broke", counted]
    run("resume", "small", "--force")
    for job in newest_jobs(load()):
        finish(world, job)
    assert failed_lines() == [counted.replace("2 jobs", "3 jobs")]


def test_limit_says_what_it_did_or_why_not(
    run: Run, document: Callable[..., Any], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Before anything is submitted there is nothing to limit: exit code 2, nothing written. Then a line says so."""
    assert run("limit", "small.yaml", "4") == 2
    assert "small: never submitted, nothing to limit; causalsweep submit first, then limit" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["small.yaml"]
    run("submit", "small.yaml")
    capsys.readouterr()
    assert run("limit", "small", "4") == 0
    assert capsys.readouterr().out == "limit: at most 4 jobs of small at once, on local; running jobs continue\n"
    assert document("limit", "small", "none") == {"limit": None, "backends": ["local"]}


def test_errors_are_grouped(run: Run, document: Callable[..., Any], load: LoadSweep, world: World) -> None:
    """Two jobs with one fault are one entry."""
    run("submit", "small.yaml")
    for job in jobs_of(load()):
        write_progress(job, AttemptState.FAILED, kind=FailureClass.BUG, message=f"IndexError: {job.job}")
        set_state(world, job.job, JobState.FAILED)
    (fault,) = document("errors", "small")
    assert (fault["count"], fault["kind"], fault["hosts"]) == (2, "bug", ["node1"])


def test_results_in_every_format(run: Run, load: LoadSweep, world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """CSV, Parquet and JSON hold the same rows; without any, a table says so."""
    import pandas as pd

    run("submit", "small.yaml")
    capsys.readouterr()
    assert run("results", "small", "--where", "layer=1") == 0
    assert capsys.readouterr().out == "no rows\n"
    for job in jobs_of(load()):
        finish(world, job)
    for form in ("csv", "parquet", "json"):
        assert run("results", "small", "--where", "layer=1", "--format", form, "-o", f"out.{form}") == 0
    frames = [pd.read_csv("out.csv"), pd.read_parquet("out.parquet"), pd.read_json("out.json")]
    assert [len(frame) for frame in frames] == [4, 4, 4]
    assert [set(frame["layer"]) for frame in frames] == [{1}, {1}, {1}]


@pytest.mark.parametrize(
    ("command", "where", "said"),
    [
        ("results", "layer=7", "`layer` 7; no layer of this sweep is that; expected one of `0`, `1`"),
        ("results", "layer=5..9", "`layer` '5..9'; no layer of this sweep is that; expected one of `0`, `1`"),
        ("results", "layer=0,7", "`layer` 7; no layer of this sweep is that; expected one of `0`, `1`"),
        ("results", "setting=mian", "`setting` 'mian'; no setting of this sweep is that; did you mean `main`?"),
        ("results", "experiment!=left", "`experiment` 'left'; no experiment of this sweep is that; "),
        ("cancel", "experiment=left_bondary", "no experiment of this sweep is that; did you mean `left_boundary`?"),
    ],
)
def test_a_value_that_matches_nothing_is_named(
    run: Run,
    load: LoadSweep,
    world: World,
    capsys: pytest.CaptureFixture[str],
    command: str,
    where: str,
    said: str,
) -> None:
    """A typing error in --where ends with 2 and what it may have meant; it is no empty table."""
    run("submit", "small.yaml")
    finish(world, jobs_of(load())[0])
    assert run(command, "small", "--where", where) == 2
    assert said in capsys.readouterr().err
    assert world.orders == []


def test_query_sees_rows_and_cells(document: Callable[..., Any], run: Run, load: LoadSweep, world: World) -> None:
    """SQL over `results` and `cells`."""
    run("submit", "small.yaml")
    finish(world, jobs_of(load())[0])
    sql = "SELECT state, count(*) AS n, count(iia) AS measured FROM cells LEFT JOIN results USING (cell_key) "
    sql += "GROUP BY ALL ORDER BY 1"
    assert document("query", "small", sql) == [
        {"state": "done", "n": 4, "measured": 4},
        {"state": "waiting", "n": 4, "measured": 0},
    ]


def test_cancel_asks_above_ten(run: Run, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A great number of jobs is cancelled only after a yes."""
    monkeypatch.setattr(steering, "ASK_ABOVE", 1)
    monkeypatch.setattr(sys, "stdin", io.StringIO("n\n"))
    run("submit", "small.yaml")
    assert run("cancel", "small") == 1
    assert world.orders == []
    assert run("cancel", "small", "--yes") == 0
    assert [action for action, _ in world.orders] == [Control.CANCEL]


def test_without_a_terminal_the_answer_is_an_option(
    run: Run, world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where nobody can answer, the error names --yes and nothing is done."""
    monkeypatch.setattr(steering, "ASK_ABOVE", 1)
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    run("submit", "small.yaml")
    assert run("cancel", "small") == 2
    assert "--yes" in capsys.readouterr().err
    assert world.orders == []


def test_logs_of_a_job(run: Run, load: LoadSweep, capsys: pytest.CaptureFixture[str]) -> None:
    """The last lines of a job's log."""
    run("submit", "small.yaml")
    (load().folder.logs / "r1-0001.log").write_text("one\ntwo\nthree\n")
    capsys.readouterr()
    assert run("logs", "small", "r1-0001", "-n", "2") == 0
    assert capsys.readouterr().out == "two\nthree\n"


def test_check_reports_a_torn_shard(
    run: Run, load: LoadSweep, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    """A shard cut short is named, its cells are missing, and resume runs them."""
    run("submit", "small.yaml")
    first, second = jobs_of(load())
    finish(world, first)
    finish(world, second)
    path = load().folder.shards / f"{first.job}-0001.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    assert run("check", "small") == 1
    assert f"{path}: torn shard" in capsys.readouterr().out
    assert run("resume", "small") == 0
    assert {cell.key for cohort in jobs_of(load())[2].cohorts for cell in cohort.cells} <= {
        cell.key for cohort in first.cohorts for cell in cohort.cells
    }
