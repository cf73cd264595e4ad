"""One job's state from what its cluster says, its heartbeats and its rows; and how each of its attempts ended."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from cluster.backend import HandleStatus, JobState
from cluster.process import FROM_OUTSIDE
from orchestrator.status.cell_state import CellState
from orchestrator.status.states import Attempt, CellStatus, JobStatus
from workers.files.failure import Failure, FailureClass, fingerprint
from workers.files.progress import AttemptState

_UNTIL: Final = "given up in "
# What a scheduler's word for the end of a job means where the job itself could not say.
_CLASS_OF: Final[Mapping[JobState, FailureClass]] = {
    JobState.FAILED: FailureClass.NODE,
    JobState.NODE_FAIL: FailureClass.NODE,
    JobState.UNKNOWN: FailureClass.NODE,
    JobState.OUT_OF_MEMORY: FailureClass.OUT_OF_MEMORY,
    JobState.TIMEOUT: FailureClass.TIMEOUT,
    JobState.PREEMPTED: FailureClass.PREEMPTED,
    JobState.CANCELLED: FailureClass.CANCELLED,
}
_STATE_OF: Final[Mapping[AttemptState, JobState]] = {
    AttemptState.FINISHED: JobState.COMPLETED,
    AttemptState.FAILED: JobState.FAILED,
    AttemptState.INTERRUPTED: JobState.PREEMPTED,
}


def judged(
    job: JobStatus, seen: HandleStatus | None, *, submitted: float, fresh_s: float, lost_after_s: float
) -> JobStatus:
    """`job` with its state, ETA and failures.

    `seen` is its cluster's word, None where the cluster did not answer. A heartbeat younger than `fresh_s` shows a job
    that its cluster does not; one that nobody has seen for `lost_after_s` is lost, if its cluster answered.
    """
    now = time.time()
    if seen is not None and seen.state is not JobState.UNKNOWN:
        job = replace(
            job,
            state=seen.state,
            detail=seen.detail,
            node=seen.node or job.node,
            gpu=seen.gpu or job.gpu,
            elapsed_s=seen.elapsed_s or job.elapsed_s,
            exit_code=seen.exit_code,
            wait_s=max(seen.start - now, 0.0) if seen.state is JobState.PENDING else 0.0,
        )
    elif job.state is not JobState.COMPLETED:
        last_sign = max(job.progress.updated if job.progress else 0.0, submitted)
        is_missed = seen is not None and not seen.is_unanswered
        left_s = lost_after_s - (now - last_sign) if is_missed else math.inf
        job = _unseen(job, left_s=left_s, fresh=now - last_sign < fresh_s, why=seen.detail if seen else "")
    failure = _failure(job)
    return replace(job, failure=failure, attempts=_attempts(job, failure), eta_s=_eta_s(job, now))


def _unseen(job: JobStatus, *, left_s: float, fresh: bool, why: str) -> JobStatus:
    """A job of which its cluster says nothing, or why it cannot. It is given up in `left_s`, infinite where nobody who
    could know it has answered."""
    if not job.handle:
        return replace(job, detail="handed over, not confirmed: `resume` looks for it")
    progress, is_late = job.progress, left_s < 0
    if progress and progress.state is not AttemptState.RUNNING:
        may_go_on = progress.state is AttemptState.INTERRUPTED and not is_late
        if not may_go_on:
            return replace(job, state=_STATE_OF[progress.state], detail="as its last attempt says")
    elif progress and fresh:
        return replace(job, state=JobState.RUNNING, detail="seen by its heartbeat only")
    parts = [f"not seen by its cluster{f': {why}' if why else ''}"]
    if is_late:
        parts = [f"not seen by its cluster, given up{f': {why}' if why else ''}", "`resume` runs its cells again"]
    elif left_s < math.inf:
        parts.append(f"{_UNTIL}{left_s:.0f} s, then `resume` runs its cells again")
    return replace(job, is_lost=is_late, lost_in_s=left_s, detail="; ".join(parts))


def why_unseen(job: JobStatus) -> str:
    """Why its cluster does not show a job, without when it is given up."""
    return job.detail.partition(f"; {_UNTIL}")[0]


def _failure(job: JobStatus) -> Failure | None:
    """Why the job ended without finishing; None while it may continue, and where it says that it finished."""
    if job.holds_cells or job.state is JobState.COMPLETED:
        return None
    progress = job.progress
    if job.state is JobState.CANCELLED:
        return Failure(kind=FailureClass.CANCELLED, message="cancelled")
    if progress and progress.failure and job.attempts[-1].progress is progress:
        return progress.failure
    return _silent(_silent_class(job), f"{job.backend} says {job.state} ({job.detail or 'no reason given'})")


def _silent_class(job: JobStatus) -> FailureClass:
    """Why a job ended that could not say so itself: its exit code knows best, then its cluster."""
    said = FailureClass.of_exit_code(job.exit_code)
    if said is not None:
        return said
    ended_itself = job.state is JobState.FAILED and job.exit_code is not None and job.exit_code not in FROM_OUTSIDE
    return FailureClass.START if ended_itself and not job.has_begun else _CLASS_OF[job.state]


def _silent(kind: FailureClass, what: str) -> Failure:
    message = f"{what}; the worker itself left no word"
    return Failure(kind=kind, message=message, fingerprint=fingerprint(kind, message, ""))


def _attempts(job: JobStatus, failure: Failure | None) -> tuple[Attempt, ...]:
    """The attempts with how each ended: one that a later one followed without a word was killed."""
    attempts = []
    for attempt in job.attempts:
        progress, is_last = attempt.progress, attempt is job.attempts[-1]
        ended = progress is not None and progress.state is not AttemptState.RUNNING
        own = progress.failure if progress and ended else None
        if is_last and not ended:
            own = failure
        elif not ended:
            own = _silent(FailureClass.NODE, f"attempt {attempt.number} was followed by another")
        attempts.append(replace(attempt, failure=own))
    return tuple(attempts)


def _eta_s(job: JobStatus, now: float) -> float:
    """Seconds that the job still needs of its GPU; its own estimate once it has one."""
    if not job.holds_cells:
        return 0.0
    progress = job.progress
    if job.state is JobState.RUNNING and progress and (progress.eta_s or progress.is_trained):
        return max(progress.eta_s - (now - progress.updated), 0.0)
    left_s = job.predicted_s * (1 - job.n_settled / max(job.n_cells, 1))
    return max(left_s - job.elapsed_s, 0.0) if job.state is JobState.RUNNING else left_s


def left_over(job: JobStatus) -> CellStatus:
    """The state of a cell without rows whose job has ended."""
    if job.failure is None:
        return CellStatus(state=CellState.MISSING, reason=f"{job.name} ended without a valid row of it", job=job.name)
    reason = f"{job.failure.kind}: {job.failure.message}"
    state = CellState.MISSING if job.is_lost or job.failure.kind.is_interruption else CellState.FAILED
    return CellStatus(state=state, reason=reason, job=job.name)
