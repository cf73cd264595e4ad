"""One job's status out of what SLURM shows of it and what its task wrote down itself.

SLURM knows what waits and runs. Of an end the task knows more: SLURM's lists forget, accounting is seconds late or off,
and a SLURM job that runs several jobs ends as one. Source: squeue(1) and sacct(1), JOB STATE CODES; what they do in the
seconds around a start and an end was observed on a real one (cluster/testbed).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Final

from cluster.backend import HandleStatus, JobState
from cluster.process import exit_text
from cluster.slurm.parse import Row
from cluster.slurm.reasons import explained
from cluster.slurm.record import TaskRun


class _Slurm(Enum):
    """What SLURM's row says of how the job is."""

    NOTHING = "no row"
    UNSURE = "a state that it shows while it does not know the end, or that is another job's as well"
    SURE = "a state"


class _Task(Enum):
    """What the task's record says of how the job ended."""

    NOTHING = "it did not end, or is to run again"
    WELL = "with 0"
    BADLY = "with another code, or it could not be started"


# The state; None: the one that SLURM's row shows.
_STATE: Final[Mapping[tuple[_Slurm, _Task], JobState | None]] = {
    (_Slurm.NOTHING, _Task.NOTHING): JobState.UNKNOWN,
    (_Slurm.NOTHING, _Task.WELL): JobState.COMPLETED,
    (_Slurm.NOTHING, _Task.BADLY): JobState.FAILED,
    (_Slurm.UNSURE, _Task.NOTHING): None,
    (_Slurm.UNSURE, _Task.WELL): JobState.COMPLETED,
    (_Slurm.UNSURE, _Task.BADLY): JobState.FAILED,
    (_Slurm.SURE, _Task.NOTHING): None,
    (_Slurm.SURE, _Task.WELL): None,
    (_Slurm.SURE, _Task.BADLY): None,
}
_UNSURE: Final = (JobState.UNKNOWN, JobState.COMPLETED)
_NO_ROW: Final = Row(job="", state=JobState.UNKNOWN, word="")
_NO_RUN: Final = TaskRun(node="", gpu="", restart=0, started=0.0)


def status_of(
    row: Row | None, run: TaskRun | None, *, is_packed: bool, without: str, is_whole: bool = True
) -> HandleStatus:
    """The status of a job that shares its SLURM job with others where it `is_packed`; `without`: who did not answer.

    `is_whole`: whether a job without a row is surely not in the queue.

    A row for tasks that have not begun says nothing of one that has: accounting learns of a task's start seconds late.
    """
    row = None if row is not None and row.is_shared and run is not None else row
    task = _task_says(run)
    state = _STATE[_slurm_says(row, task, is_packed=is_packed), task] or (row or _NO_ROW).state
    shown, wrote = row or _NO_ROW, run or _NO_RUN
    has_exit_code = state.is_finished() and task is not _Task.NOTHING and not (wrote.error and not wrote.exit_code)
    return HandleStatus(
        state=state,
        detail=_detail(state, row, wrote, without),
        node=shown.node or wrote.node,
        gpu="" if state is JobState.PENDING else wrote.gpu,
        elapsed_s=shown.elapsed_s if row else wrote.elapsed_s,
        restarts=max(shown.restarts, wrote.restart),
        exit_code=wrote.exit_code if has_exit_code else None,
        start=shown.start if state is JobState.PENDING else 0.0,
        is_unanswered=state is JobState.UNKNOWN and not is_whole,
    )


def _slurm_says(row: Row | None, task: _Task, *, is_packed: bool) -> _Slurm:
    if row is None:
        return _Slurm.NOTHING
    if is_packed and (row.state is not JobState.CANCELLED or task is _Task.WELL):
        return _Slurm.UNSURE
    return _Slurm.UNSURE if row.state in _UNSURE else _Slurm.SURE


def _task_says(run: TaskRun | None) -> _Task:
    if run is None or not run.ended or run.again:
        return _Task.NOTHING
    return _Task.WELL if run.exit_code == 0 and not run.error else _Task.BADLY


def _detail(state: JobState, row: Row | None, run: TaskRun, without: str) -> str:
    """The scheduler's own word and reason; how the job ended, where it did not end well."""
    how = run.error or exit_text(run.exit_code) if run.ended else ""
    if row is None:
        seen = "" if state.is_finished() else f"not in SLURM's lists{f' ({without})' if without else ''}"
        parts = [seen, "" if state is JobState.COMPLETED else how]
        return "; ".join(filter(None, parts))
    parts = [
        "" if row.word == state.value else row.word,
        _waits_for(row) if state in (JobState.PENDING, JobState.HELD) else "" if state.is_finished() else row.reason,
        (how or f"exit code {row.exit_code}") if state is JobState.FAILED else "",
    ]
    return ", ".join(filter(None, parts))


def _waits_for(row: Row) -> str:
    """Why a job waits: SLURM's reason with its meaning. What is known of it otherwise is given as it is."""
    return explained(row.reason, is_held=row.state is JobState.HELD)
