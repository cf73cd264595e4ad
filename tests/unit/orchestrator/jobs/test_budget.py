"""A budget of GPU-hours: what is submitted, what is refused, what status says, and how the number changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from cluster.backend import JobState
from orchestrator.errors import BudgetReached, StorageError
from orchestrator.jobs.budget import budget_of
from orchestrator.status.cell_state import CellState
from orchestrator.sweep import Sweep
from tests.unit.orchestrator.conftest import LoadSweep, Run
from tests.unit.orchestrator.fake_cluster import World, finish, jobs_of, set_state, write_progress, write_shard
from workers.files.failure import FailureClass
from workers.files.progress import AttemptState


@pytest.fixture
def small_jobs(load: LoadSweep, world: World) -> Callable[..., Sweep]:
    """Loads the sweep in four jobs or more, with a budget."""

    def loaded(max_gpu_hours: float | None = None) -> Sweep:
        jobs: dict[str, Any] = {"target_h": 1e-9}
        return load(jobs=jobs | ({} if max_gpu_hours is None else {"max_gpu_hours": max_gpu_hours}))

    return loaded


def hours_of(sweep: Sweep) -> float:
    """The GPU-hours that the plan takes."""
    return sweep.plan().totals.gpu_hours


def test_without_a_budget_everything_is_submitted(small_jobs: Callable[..., Sweep]) -> None:
    """No file is written, and the status names none."""
    sweep = small_jobs()
    assert sweep.submit().n_cells == 8
    assert not sweep.folder.budget.exists()
    assert sweep.status().max_gpu_hours is None


def test_no_more_is_submitted_than_the_budget_has_room_for(small_jobs: Callable[..., Sweep]) -> None:
    """Jobs are taken until their estimates reach it; the receipt says how many cells that leaves out."""
    whole = small_jobs()
    n_jobs, hours = whole.plan().totals.n_jobs, hours_of(whole)
    sweep = small_jobs(hours / 2)
    receipt = sweep.submit()
    assert receipt.submission is not None
    assert 0 < len(receipt.submission.jobs) < n_jobs
    assert any("cells are left out: the rest of the budget" in note for note in receipt.notes)
    assert receipt.n_cells == sum(job.n_cells for job in jobs_of(sweep))
    with pytest.raises(BudgetReached, match="by jobs that wait or run; to raise the budget"):
        sweep.resume()


def test_spent_hours_of_every_submission_count(small_jobs: Callable[..., Sweep], world: World) -> None:
    """An attempt of a minute has used up a budget of half a minute: nothing more begins, and the status says so."""
    sweep = small_jobs()
    sweep.submit()
    first, *others = jobs_of(sweep)
    for job in others:
        finish(world, job)
    write_progress(first, AttemptState.FAILED, kind=FailureClass.NODE)
    set_state(world, first.job, JobState.FAILED)
    sweep.limit_gpu_hours(0.5 / 60)
    status = sweep.status()
    assert status.gpu_hours_used == pytest.approx(len(jobs_of(sweep)) / 60)
    assert any("is spent" in note and "--gpu-hours" in note for note in status.notes)
    with pytest.raises(BudgetReached):
        sweep.resume()
    sweep.limit_gpu_hours(100.0)
    assert sweep.resume().n_cells == first.n_cells


def test_a_limit_outlives_submissions_until_the_spec_says_another(small_jobs: Callable[..., Sweep]) -> None:
    """The last word counts: a limit after the spec, a spec that was changed after the limit."""
    sweep = small_jobs(50.0)
    sweep.submit()
    sweep.limit_gpu_hours(70.0)
    small_jobs(50.0).submit()
    assert sweep.status().max_gpu_hours == 70.0
    small_jobs(60.0).submit()
    assert sweep.status().max_gpu_hours == 60.0
    small_jobs().submit()
    assert sweep.status().max_gpu_hours is None


def test_cells_that_a_budget_stopped_are_missing(small_jobs: Callable[..., Sweep], world: World) -> None:
    """They did not fail; a person's resume runs them, and nothing does so by itself while the budget is spent."""
    sweep = small_jobs()
    sweep.submit()
    first, *others = jobs_of(sweep)
    for job in others:
        finish(world, job)
    write_progress(first, AttemptState.INTERRUPTED, kind=FailureClass.BUDGET, message="the budget is spent", saved=1.0)
    set_state(world, first.job, JobState.FAILED)
    sweep.limit_gpu_hours(1e-6)
    assert sweep.status().counts[CellState.MISSING] == first.n_cells
    statuses = list(sweep.watch(poll_s=0, heal=True))
    assert len(statuses) == 1


def test_a_torn_budget_stops_submissions_until_it_is_written_anew(small_jobs: Callable[..., Sweep]) -> None:
    """It never counts as no limit."""
    sweep = small_jobs(50.0)
    sweep.submit()
    sweep.folder.budget.write_text("{", encoding="utf-8")
    assert any("nothing new begins" in note for note in sweep.status().notes)
    with pytest.raises(StorageError, match="write it anew"):
        sweep.resume()
    sweep.limit_gpu_hours(9.0)
    budget = budget_of(sweep.folder)
    assert budget is not None
    assert budget.gpu_hours == 9.0


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--gpu-hours", "12.5"], 0),
        (["--gpu-hours", "none"], 0),
        (["4", "--gpu-hours", "12"], 0),
        (["--gpu-hours", "much"], 2),
        (["--gpu-hours", "-1"], 2),
        ([], 2),
    ],
)
def test_the_command(
    small_jobs: Callable[..., Sweep], run: Run, arguments: list[str], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Hours, `none`, both limits at once; what is no number is named."""
    sweep = small_jobs()
    sweep.submit()
    assert run("limit", str(sweep.folder.root), *arguments) == code
    said = capsys.readouterr()
    assert ("limit:" in said.out) if code == 0 else (said.err.startswith("error: "))


def test_a_spent_budget_ends_a_command_with_1(
    small_jobs: Callable[..., Sweep], run: Run, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is a stop, not bad input."""
    sweep = small_jobs()
    sweep.submit()
    write_shard(jobs_of(sweep)[0])
    for job in jobs_of(sweep):
        write_progress(job, AttemptState.FAILED, kind=FailureClass.NODE)
        set_state(world, job.job, JobState.FAILED)
    sweep.limit_gpu_hours(1e-6)
    assert run("resume", str(sweep.folder.root)) == 1
    assert capsys.readouterr().err.startswith("stopped: nothing new begins")
