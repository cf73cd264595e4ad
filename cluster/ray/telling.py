"""What a dispatcher says of its submission in one line, and why a job that it has handed to Ray does not start."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from cluster.backend import JobRequest, JobState
from cluster.ray.metrics import Reading
from cluster.ray.record import JobRecord
from cluster.ray.sizes import JOBS, size_of

WAITS: Final = "waits for "  # how a detail begins that says why a job does not start
_MOST: Final = 3  # failures that a line names


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """A job as a line counts it: its request, what became of it, and the last numbers that it published."""

    request: JobRequest
    record: JobRecord
    readings: Sequence[Reading] = ()


def line(sweep: str, jobs: Sequence[Told]) -> str:
    """What is done of all, the best of each hypothesis, what failed and why, what is waited for; in this order."""
    units = Counter(size_of(job.request)[1] for job in jobs)
    unit = units.most_common(1)[0][0] if units else JOBS
    counted = [(*size_of(job.request), job) for job in jobs]
    total = sum(n for n, one, _ in counted if one == unit)
    done = sum(_done(n, unit, job) for n, one, job in counted if one == unit)
    return "; ".join([f"{sweep}: {done:,.0f} of {total:,} {unit} done", *_best(jobs), *_failed(jobs), *_waiting(jobs)])


def _done(n: int, unit: str, job: Told) -> float:
    """How much of a job is done: all of one that completed, else what it published last."""
    if job.record.state is JobState.COMPLETED:
        return n
    return sum(one.value for one in job.readings if one.name == f"{unit}_done")


def _best(jobs: Iterable[Told]) -> list[str]:
    best: dict[str, float] = {}
    for one in (reading for job in jobs for reading in job.readings if reading.name == "best_iia"):
        hypothesis = dict(one.tags).get("hypothesis", "")
        best[hypothesis] = max(one.value, best.get(hypothesis, one.value))
    named = ", ".join(f"{name} {value:.3f}".strip() for name, value in sorted(best.items()))
    return [f"best IIA {named}"] if named else []


def _failed(jobs: Iterable[Told]) -> list[str]:
    ended = [job for job in jobs if job.record.state.is_finished()]
    failed = [job for job in ended if job.record.state not in (JobState.COMPLETED, JobState.CANCELLED)]
    n_cancelled = sum(job.record.state is JobState.CANCELLED for job in ended)
    why = ", ".join(f"{job.request.name} {job.record.detail or job.record.state}" for job in failed[:_MOST])
    more = f", and {len(failed) - _MOST} more" if len(failed) > _MOST else ""
    parts = [f"{len(failed)} failed: {why}{more}"] if failed else []
    return [*parts, *([f"{n_cancelled} cancelled"] if n_cancelled else [])]


def _waiting(jobs: Sequence[Told]) -> list[str]:
    states = Counter(job.record.state for job in jobs)
    why = Counter(job.record.detail for job in jobs if job.record.detail.startswith(WAITS))
    parts = [f"{states[JobState.RUNNING]} running"] if states[JobState.RUNNING] else []
    if states[JobState.PENDING]:
        reason = f" ({why.most_common(1)[0][0]})" if why else ""
        parts.append(f"{states[JobState.PENDING]} waiting{reason}")
    return [*parts, *([f"{states[JobState.HELD]} held"] if states[JobState.HELD] else [])]


def why_waiting(needs: Mapping[str, float], free: Mapping[str, float], there: Mapping[str, float]) -> str:
    """Why a job that needs this does not start, of what is free and what there is in all; empty where it can."""
    asked = {name: n for name, n in needs.items() if n}
    short = [name for name, n in asked.items() if free.get(name, 0.0) < n]
    if not short:
        return ""
    wanted = ", ".join(f"{n:g} {name}" for name, n in asked.items())
    lacking = ", ".join(f"no {name} of {there.get(name, 0.0):g} is free" for name in short)
    return f"{WAITS}{wanted}: {lacking}"
