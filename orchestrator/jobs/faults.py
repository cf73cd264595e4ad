"""What went wrong in a sweep, equal faults together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from orchestrator.jobs.retry import failures
from orchestrator.status.states import SweepStatus
from workers.files.progress import Failure, FailureClass

_NO_FAULT = frozenset({FailureClass.PREEMPTED, FailureClass.CANCELLED, FailureClass.TIMEOUT})


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Failures that share a fingerprint; message and traceback are those of the last one."""

    kind: FailureClass
    fingerprint: str
    count: int
    jobs: tuple[str, ...]
    hosts: tuple[str, ...]
    cell_keys: tuple[str, ...]  # of cells that failed on their own
    message: str
    traceback: str


def faults_of(status: SweepStatus) -> list[Fault]:
    """Every fault of every attempt, the most frequent first; an interruption is none."""
    groups: dict[tuple[str, str], list[tuple[str, str, Failure]]] = {}
    for job, host, failure in _all(status):
        if failure.kind not in _NO_FAULT:
            groups.setdefault((failure.kind, failure.fingerprint), []).append((job, host, failure))
    faults = [
        Fault(
            kind=cases[-1][2].kind,
            fingerprint=cases[-1][2].fingerprint,
            count=len(cases),
            jobs=tuple(dict.fromkeys(job for job, _, _ in cases)),
            hosts=tuple(dict.fromkeys(host for _, host, _ in cases if host)),
            cell_keys=tuple(failure.cell_key for _, _, failure in cases if failure.cell_key),
            message=cases[-1][2].message,
            traceback=cases[-1][2].traceback,
        )
        for cases in groups.values()
    ]
    return sorted(faults, key=lambda fault: -fault.count)


def _all(status: SweepStatus) -> Iterator[tuple[str, str, Failure]]:
    """Job, host and failure, of attempts and of single cells."""
    for job in status.jobs:
        for attempt, failure in failures(job):
            yield job.name, attempt.progress.host if attempt and attempt.progress else job.node, failure
        for attempt in job.attempts:
            if attempt.progress:
                for failure in attempt.progress.cell_failures:
                    yield job.name, attempt.progress.host, failure
