"""Which is believed of a job, SLURM's row or its task's own record: case by case."""

from __future__ import annotations

import pytest

from cluster.backend import JobState
from cluster.slurm.parse import STATES, Row
from cluster.slurm.record import TaskRun
from cluster.slurm.status import status_of

RUNNING = TaskRun(node="n1", gpu="3", restart=1, started=100.0)
WELL = TaskRun(node="n1", gpu="3", restart=1, started=100.0, ended=160.0)
BADLY = TaskRun(node="n1", gpu="3", restart=1, started=100.0, ended=160.0, exit_code=74)
NEVER = TaskRun(node="n1", gpu="", restart=0, started=100.0, ended=100.0, error="cannot start x: no such file")
AGAIN = TaskRun(node="n1", gpu="3", restart=0, started=100.0, ended=160.0, exit_code=75, again=True)


def row(word: str, **fields: object) -> Row:
    """What SLURM shows, by its own word."""
    return Row(job="12_3", state=STATES.get(word, JobState.UNKNOWN), word=word, node="n2", **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("shown", "wrote", "alone", "packed"),
    [
        (None, None, "UNKNOWN", "UNKNOWN"),
        (None, RUNNING, "UNKNOWN", "UNKNOWN"),  # not seeing a job says nothing about it
        (None, WELL, "COMPLETED", "COMPLETED"),
        (None, BADLY, "FAILED", "FAILED"),
        (None, NEVER, "FAILED", "FAILED"),
        (None, AGAIN, "UNKNOWN", "UNKNOWN"),
        ("PENDING", None, "PENDING", "PENDING"),
        ("PENDING", AGAIN, "PENDING", "PENDING"),
        ("RUNNING", RUNNING, "RUNNING", "RUNNING"),
        ("RUNNING", WELL, "RUNNING", "COMPLETED"),  # packed: its neighbours run
        ("RUNNING", BADLY, "RUNNING", "FAILED"),
        ("COMPLETED", BADLY, "FAILED", "FAILED"),  # the task's own word for its end
        ("COMPLETED", WELL, "COMPLETED", "COMPLETED"),
        ("NEW_WORD", WELL, "COMPLETED", "COMPLETED"),
        ("FAILED", WELL, "FAILED", "COMPLETED"),  # packed: a neighbour failed
        ("CANCELLED", WELL, "CANCELLED", "COMPLETED"),  # packed: it had ended before the cancel
        ("CANCELLED", BADLY, "CANCELLED", "CANCELLED"),
        ("CANCELLED", RUNNING, "CANCELLED", "CANCELLED"),
        ("TIMEOUT", AGAIN, "TIMEOUT", "TIMEOUT"),
        ("NODE_FAIL", RUNNING, "NODE_FAIL", "NODE_FAIL"),
    ],
)
def test_who_is_believed(shown: str | None, wrote: TaskRun | None, alone: str, packed: str) -> None:
    """A job alone in its SLURM job is what SLURM shows unless that is unsure; a packed one's end is the task's word."""
    seen = None if shown is None else row(shown)
    assert status_of(seen, wrote, is_packed=False, without="").state == alone
    assert status_of(seen, wrote, is_packed=True, without="").state == packed


def test_a_row_of_tasks_that_have_not_begun_says_nothing_of_one_that_has() -> None:
    """Accounting still shows the whole array as pending while a task's record says that it runs."""
    assert status_of(row("PENDING", is_shared=True), WELL, is_packed=False, without="").state is JobState.COMPLETED
    assert status_of(row("PENDING", is_shared=True), None, is_packed=False, without="").state is JobState.PENDING


@pytest.mark.parametrize(
    ("seen", "wrote", "detail"),
    [
        (None, None, "not in SLURM's lists (no controller)"),
        (None, RUNNING, "not in SLURM's lists (no controller)"),
        (None, AGAIN, "not in SLURM's lists (no controller); exit code 75"),
        (None, WELL, ""),
        (None, BADLY, "exit code 74"),
        (None, NEVER, "cannot start x: no such file"),
        (row("PENDING", reason="Priority"), None, "Priority (jobs of a higher priority are first)"),
        (row("PENDING", reason="NewReason"), None, "NewReason"),
        (row("COMPLETING", reason="None"), RUNNING, "COMPLETING, None"),
        (row("FAILED", exit_code="1:0"), None, "exit code 1:0"),
        (row("FAILED", exit_code="1:0"), BADLY, "exit code 74"),
        (row("BOOT_FAIL", reason="x"), None, "BOOT_FAIL"),
    ],
)
def test_the_detail_says_why(seen: Row | None, wrote: TaskRun | None, detail: str) -> None:
    """The scheduler's word where it is not the state's, its reason while the job waits, and how it ended badly."""
    assert status_of(seen, wrote, is_packed=False, without="no controller").detail == detail


def test_the_exit_code_is_that_of_the_last_run() -> None:
    """It is known of an end that the task wrote down; not of a run that another follows, or that never began."""
    found = [status_of(row("FAILED"), run, is_packed=False, without="") for run in (BADLY, AGAIN, NEVER, None)]
    assert [status.exit_code for status in found] == [74, None, None, None]
