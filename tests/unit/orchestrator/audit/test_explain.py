"""explain: a cell's state with its rows, jobs and attempts, what would happen next, and the nearest other key."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from cluster.backend import JobState
from orchestrator.audit.explain import Explanation, explain
from orchestrator.errors import SpecError, SweepNotFound
from orchestrator.status.cell_state import CellState
from orchestrator.sweep import Sweep
from tests.unit.orchestrator.conftest import LoadSweep, Run
from tests.unit.orchestrator.fake_cluster import (
    World,
    fail,
    finish,
    jobs_of,
    set_state,
    write_progress,
    write_shard,
)
from workers.files.failure import FailureClass
from workers.files.progress import AttemptState


@pytest.fixture
def sweep(load: LoadSweep, world: World) -> Sweep:
    """A sweep whose two jobs of four cells are submitted."""
    sweep = load()
    sweep.submit()
    return sweep


def first_cell(sweep: Sweep) -> str:
    """The first cell of the first job."""
    return jobs_of(sweep)[0].cohorts[0].cells[0].key


def the_one(sweep: Sweep, **options: Any) -> Explanation:
    """The explanation of the first job's first cell."""
    (found,) = explain(sweep, [first_cell(sweep)[:12]], **options)
    return found


def test_a_done_cell_names_its_row_and_job(sweep: Sweep, world: World) -> None:
    """The shard, the counts, the attempt that finished, and that nothing runs it again."""
    finish(world, jobs_of(sweep)[0])
    found = the_one(sweep)
    assert (found.state, found.is_settled, found.lacking) == (CellState.DONE, True, ())
    (row,) = found.rows
    assert (row.shard, row.n_correct, row.n_total, row.why_not) == ("shards/r1-0001-0001.parquet", 70, 100, "")
    (job,) = found.jobs
    assert (job.job, job.state, [attempt.state for attempt in job.attempts]) == ("r1-0001", "COMPLETED", ["finished"])
    assert "leave it alone" in found.next


def test_a_waiting_cell_names_its_job(sweep: Sweep) -> None:
    """Who has it, and that resume does not."""
    found = the_one(sweep)
    assert (found.state, found.rows, found.lacking) == (CellState.WAITING, (), ("main",))
    assert found.next == "the job r1-0001 has it: submit and resume leave it alone"


def test_a_row_that_does_not_count_says_why(sweep: Sweep, world: World) -> None:
    """The first of two measurements that finished counts."""
    job = jobs_of(sweep)[0]
    finish(world, job)
    write_shard(job, attempt=2, ended=2e9)
    assert [bool(row.why_not) for row in the_one(sweep).rows] == [False, True]


def test_each_attempt_says_how_it_ended(sweep: Sweep, world: World) -> None:
    """An attempt that another followed, and the last one with its failure."""
    job = jobs_of(sweep)[0]
    write_progress(job, AttemptState.RUNNING, attempt=1, updated=1e9)
    write_progress(job, AttemptState.FAILED, attempt=2, kind=FailureClass.BUG, message="no such tensor")
    set_state(world, job.job, JobState.FAILED)
    found = the_one(sweep)
    assert found.state is CellState.FAILED
    assert [attempt.end for attempt in found.jobs[0].attempts] == [
        "node: attempt 1 was followed by another; the worker itself left no word",
        "bug: no such tensor",
    ]


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (FailureClass.NODE, "resume runs it; so do run and --auto"),
        (FailureClass.PREEMPTED, "resume runs it; so do run and --auto"),
        (FailureClass.BAD_INPUT, "it ended as bad input, and that is not tried again by itself"),
    ],
)
def test_what_would_run_a_cell_again(sweep: Sweep, world: World, kind: FailureClass, said: str) -> None:
    """By the class of its last end: what a person's resume does, and what happens by itself."""
    fail(world, jobs_of(sweep)[0], kind)
    assert the_one(sweep).next.endswith(said)


def test_a_bug_that_was_seen_often_asks_for_force(load: LoadSweep, world: World) -> None:
    """Three equal bugs stop the sweep: the cell says so."""
    sweep = load(jobs={"target_h": 1e-9})
    sweep.submit()
    for job in jobs_of(sweep):
        fail(world, job, FailureClass.BUG)
    assert "only with --force" in the_one(sweep).next


def test_a_cell_of_no_job_is_missing(load: LoadSweep, world: World) -> None:
    """Nobody had it, and resume or submit runs it."""
    sweep = load()
    (found,) = explain(sweep, where=["layer=0", "position=80", "experiment=left_boundary"])
    assert (found.state, found.jobs, found.rows) == (CellState.MISSING, (), ())


def test_a_cell_that_lacks_one_setting_says_which(load: LoadSweep, sweep: Sweep, world: World) -> None:
    """A setting that was added later has no row yet."""
    for job in jobs_of(sweep):
        finish(world, job)
    grown = load(settings=[{"name": "right", "keep": "correct"}])
    (found,) = explain(grown, [first_cell(sweep)])
    assert (found.state, found.lacking) == (CellState.MISSING, ("right",))


def test_a_changed_key_is_compared_field_by_field(load: LoadSweep, sweep: Sweep, world: World) -> None:
    """The nearest cell of another sweep has the same place and seed: the fields that moved its key are named."""
    for job in jobs_of(sweep):
        finish(world, job)
    other = load(name="small-2", data={"n_train": 999, "n_eval": 8, "n_test": 8})
    (found,) = explain(other, where=["layer=1", "position=81", "experiment=left_boundary"], against=[sweep])
    assert found.compared is not None
    same = explain(sweep, where=["layer=1", "position=81", "experiment=left_boundary"])[0].key
    assert found.compared.key == same
    assert "rows in" in found.compared.where
    before = sweep.grid.strands[0].stream.data
    assert {(one.field, one.here, one.there) for one in found.compared.differences} == {
        (f"data.{name}", value, before[name])
        for name, value in other.grid.strands[0].stream.data.items()
        if value != before[name]
    }


def test_a_cell_that_is_not_planned_any_more_is_known(load: LoadSweep, sweep: Sweep, world: World) -> None:
    """Its rows and jobs are shown, and the planned cell that is nearest."""
    for job in jobs_of(sweep):
        finish(world, job)
    key = explain(sweep, where=["layer=1", "position=81", "experiment=left_boundary"])[0].key
    smaller = load(grid={"experiments": ["left_boundary"], "layers": [0, 1], "positions": [80]})
    (found,) = explain(smaller, [key])
    assert (found.state, len(found.rows), len(found.jobs)) == (None, 1, 1)
    assert found.compared is not None
    assert [(one.field, one.here, one.there) for one in found.compared.differences] == [("position", 81, 80)]


@pytest.mark.parametrize(
    ("keys", "where", "error"),
    [
        (["zz"], [], SpecError),
        (["ffffffffffff"], [], SweepNotFound),
        ([], [], SpecError),
        (["abcd"], ["layer=0"], SpecError),
        ([], ["layer=9"], SpecError),
    ],
)
def test_what_is_no_cell_is_refused(sweep: Sweep, keys: list[str], where: list[str], error: type[Exception]) -> None:
    """A text that is no key, a key that nobody has, no question, two at once, a value that no cell has."""
    with pytest.raises(error, match=r"explain|--where"):
        explain(sweep, keys, where=where)


def test_exit_codes_and_width(sweep: Sweep, world: World, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """0 settled, 1 not, 2 bad input; no line is wider than a terminal."""
    name = str(sweep.folder.root)
    assert run("explain", name, first_cell(sweep)) == 1
    fail(world, jobs_of(sweep)[1], FailureClass.BUG, message="the same words " * 20)
    finish(world, jobs_of(sweep)[0])
    assert run("explain", name, first_cell(sweep)) == 0
    assert run("explain", name, "--where", "layer=0..1") == 1
    assert [line for line in capsys.readouterr().out.splitlines() if len(line) > 80 and " " in line.strip()] == []
    assert run("explain", name, "nothing") == 2


def test_a_token_is_shown_in_quotes(sweep: Sweep, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """Many are a newline or a blank."""
    token = the_one(sweep).fields["token"]
    run("explain", str(sweep.folder.root), first_cell(sweep))
    assert f"token {token!r}" in " ".join(capsys.readouterr().out.split())


def test_a_limit_says_what_it_leaves_out(sweep: Sweep, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """The number of the other cells is told."""
    run("explain", str(sweep.folder.root), "--where", "layer=0..1", "--limit", "3")
    assert "5 more cells" in capsys.readouterr().out


def test_json(sweep: Sweep, world: World, document: Callable[..., Any]) -> None:
    """Every cell with its state, rows and jobs."""
    finish(world, jobs_of(sweep)[0])
    found = document("explain", str(sweep.folder.root), first_cell(sweep))
    assert found["n_cells"] == 1
    (cell,) = found["cells"]
    assert (cell["state"], cell["is_settled"], cell["rows"][0]["n_correct"]) == ("done", True, 70)


def test_a_cancelled_cell_waits_for_a_person(sweep: Sweep, world: World) -> None:
    """Its worker wrote a checkpoint as if it were preempted, but somebody wanted it to end."""
    job = jobs_of(sweep)[0]
    fail(world, job, FailureClass.PREEMPTED)
    set_state(world, job.job, JobState.CANCELLED)
    assert the_one(sweep).next.endswith("it ended as cancelled, and that is not tried again by itself")
