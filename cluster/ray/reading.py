"""From the seam's handles to the record: states, orders and the limit, whoever started the dispatchers."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from cluster.backend import NOTHING_STARTS, ClusterUsageError, Control, HandleStatus, JobState
from cluster.ray.record import Batch, JobRecord, Order, Phase, RayFiles

QUIET_S: Final = 20.0  # four heartbeats; a dispatcher that its cluster does not know and that is quiet so long is dead


def poll(
    record: RayFiles, handles: Sequence[str], fate: Callable[[Batch, float], HandleStatus | None]
) -> dict[str, HandleStatus]:
    """The state of each handle: what the dispatchers wrote down.

    For a submission with active jobs `fate` is asked once: what has become of them if their dispatcher is not at work
    (None: it is), given the seconds since its last sign of life.
    """
    statuses: dict[str, HandleStatus] = {}
    nothing_starts = record.limit() == 0
    for name, indices in _by_submission(handles).items():
        submission = record.submission(name)
        if submission is None:
            continue
        ended = _ended(record, submission, fate) if _active(_jobs(record, submission), indices) else None
        jobs = _jobs(record, submission)  # again: the dispatcher may have ended before `fate` was asked
        now = time.time()
        for index in indices:
            if index < len(jobs):
                job = jobs[index]
                if job.state is JobState.PENDING and nothing_starts:
                    job = replace(job, detail=NOTHING_STARTS)
                statuses[submission.handle(index)] = ended if ended and job.state.is_active() else job.status(now)
    unknown = HandleStatus(state=JobState.UNKNOWN, detail="never submitted here")
    return {handle: statuses.get(handle, unknown) for handle in handles}


def give_orders(record: RayFiles, handles: Sequence[str], action: Control) -> None:
    """Write down what is wanted of the handles that are active."""
    for name, indices in _by_submission(handles).items():
        submission = record.submission(name)
        active = _active(_jobs(record, submission), indices) if submission else ()
        if active:
            record.give_order(name, Order(action=action, indices=active))


def set_limit(record: RayFiles, n_jobs: int | None) -> None:
    """Write the limit down; the dispatchers keep to it within a second or two. Raises: ClusterUsageError."""
    if n_jobs is not None and n_jobs < 0:
        raise ClusterUsageError(f"limit {n_jobs}: it must be 0 or more, or none")
    record.set_limit(n_jobs)


def _ended(
    record: RayFiles, submission: Batch, fate: Callable[[Batch, float], HandleStatus | None]
) -> HandleStatus | None:
    state = record.state(submission.name)
    if state is not None and state.phase is Phase.REFUSED:
        return HandleStatus(state=JobState.FAILED, detail=state.message)
    return fate(submission, time.time() - (state.updated if state else submission.submitted))


def _active(jobs: Sequence[JobRecord], indices: Sequence[int]) -> tuple[int, ...]:
    return tuple(index for index in indices if index < len(jobs) and jobs[index].state.is_active())


def _jobs(record: RayFiles, submission: Batch) -> tuple[JobRecord, ...]:
    state = record.state(submission.name)
    return state.jobs if state else (JobRecord(),) * len(submission.requests)


def _by_submission(handles: Sequence[str]) -> dict[str, list[int]]:
    """The indices of the handles by submission; what is no handle of ours is left out."""
    found: dict[str, list[int]] = defaultdict(list)
    for handle in handles:
        name, _, index = handle.rpartition(".")
        if name and index.isdigit():
            found[name].append(int(index))
    return found
