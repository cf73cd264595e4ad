"""Who is told of what: jobs as they end, and whoever watches; each event once."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.backend import JobState
from orchestrator.sweep import Sweep
from tests.unit.orchestrator.conftest import LoadSweep
from tests.unit.orchestrator.fake_cluster import World, fail, finish, jobs_of, set_state, write_progress, write_shard
from workers.files.failure import FailureClass
from workers.files.notify import command_of
from workers.files.progress import AttemptState
from workers.job.notifying import after_attempt

COMMAND = 'echo "$CAUSALSWEEP_EVENT: $CAUSALSWEEP_MESSAGE" >> "$CAUSALSWEEP_FOLDER/told"'


@pytest.fixture
def sweep(load: LoadSweep, world: World) -> Sweep:
    """A sweep whose two jobs of four cells are submitted, and whose user is to be told."""
    sweep = load(notify=COMMAND)
    sweep.submit()
    return sweep


def told(sweep: Sweep) -> list[str]:
    """What the command has written down."""
    path: Path = sweep.folder.root / "told"
    return path.read_text().splitlines() if path.exists() else []


def test_the_last_job_tells_the_end(sweep: Sweep, world: World) -> None:
    """The first job that ends says nothing: the other one has not begun."""
    first, second = jobs_of(sweep)
    finish(world, first)
    after_attempt(first)
    assert told(sweep) == []
    finish(world, second)
    after_attempt(second)
    after_attempt(second)
    assert told(sweep) == ["end: small: 8 done"]
    list(sweep.watch(poll_s=0))
    assert told(sweep) == ["end: small: 8 done"]


def test_a_preempted_job_is_not_the_end(sweep: Sweep, world: World) -> None:
    """Its backend starts it again; nor is it a failure."""
    first, second = jobs_of(sweep)
    finish(world, first)
    write_progress(second, AttemptState.INTERRUPTED, kind=FailureClass.PREEMPTED)
    after_attempt(second)
    assert told(sweep) == []


def test_a_failure_is_told_once_for_equal_ones(sweep: Sweep, world: World) -> None:
    """Two jobs with one bug are one message; the end follows."""
    for job in jobs_of(sweep):
        fail(world, job, FailureClass.BUG, message="no such tensor")
        after_attempt(job)
    assert told(sweep) == ["failure: r1-0001: bug: no such tensor", "end: small: no cell is done"]


def test_a_job_that_died_without_a_word_is_told_by_who_watches(sweep: Sweep, world: World) -> None:
    """Its worker could not; the status shows it."""
    for job in jobs_of(sweep):
        set_state(world, job.job, JobState.NODE_FAIL)
    list(sweep.watch(poll_s=0))
    lines = told(sweep)
    assert lines[0].startswith("failure: r1-0001: node: local says NODE_FAIL")
    assert lines[-1] == "end: small: 8 missing" or lines[-1] == "end: small: 8 failed"


def test_a_spent_budget_is_told(sweep: Sweep, world: World) -> None:
    """By the job that it stopped, once."""
    first, second = jobs_of(sweep)
    sweep.limit_gpu_hours(0.01)
    for job in (first, second):
        write_progress(job, AttemptState.INTERRUPTED, kind=FailureClass.BUDGET, message="the budget is spent")
        set_state(world, job.job, JobState.FAILED)
        after_attempt(job)
    list(sweep.watch(poll_s=0))
    assert told(sweep)[0] == "budget: the budget is spent"
    assert sum(line.startswith("budget") for line in told(sweep)) == 1


def test_the_last_spec_says_whom_to_tell(sweep: Sweep, load: LoadSweep) -> None:
    """A later submission may name another command, or none."""
    assert command_of(sweep.folder) == COMMAND
    load().submit()
    assert command_of(sweep.folder) == ""


def test_rows_alone_are_no_end(sweep: Sweep, world: World) -> None:
    """A job that has written all its rows and has not ended yet is waited for."""
    first, second = jobs_of(sweep)
    finish(world, first)
    write_shard(second)
    write_progress(second, AttemptState.RUNNING)
    after_attempt(first)
    assert told(sweep) == []
