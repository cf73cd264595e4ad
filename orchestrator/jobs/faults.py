"""What went wrong in a sweep, equal faults together."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from orchestrator.jobs.retry import failures
from orchestrator.status.states import SweepStatus
from workers.files.failure import Failure, FailureClass

_TAIL_BYTES: Final = 4000


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Failures that share a fingerprint; message and traceback are those of the last one."""

    kind: FailureClass
    fingerprint: str
    count: int
    jobs: tuple[str, ...]
    hosts: tuple[str, ...]
    cell_keys: tuple[str, ...]  # cells that failed on their own
    message: str
    traceback: str
    log_line: str = ""  # the last of its job's log, where no traceback says more


def faults_of(status: SweepStatus, logs: Path) -> list[Fault]:
    """Every fault of every attempt, the most frequent first; an interruption is none. `logs` is the logs' folder."""
    groups: dict[tuple[str, str], list[tuple[str, str, Failure]]] = {}
    for job, host, failure in _all(status):
        if not failure.kind.is_interruption:
            groups.setdefault((failure.kind, failure.fingerprint), []).append((job, host, failure))
    faults = [_fault(cases, logs) for cases in groups.values()]
    return sorted(faults, key=lambda fault: -fault.count)


def _fault(cases: Sequence[tuple[str, str, Failure]], logs: Path) -> Fault:
    """Equal failures as one fault."""
    job, _, last = cases[-1]
    says_it_all = last.traceback or last.cell_key
    return Fault(
        kind=last.kind,
        fingerprint=last.fingerprint,
        count=len(cases),
        jobs=tuple(dict.fromkeys(job for job, _, _ in cases)),
        hosts=tuple(dict.fromkeys(host for _, host, _ in cases if host)),
        cell_keys=tuple(failure.cell_key for _, _, failure in cases if failure.cell_key),
        message=last.message,
        traceback=last.traceback,
        log_line="" if says_it_all else _last_line(logs / f"{job}.log"),
    )


def _last_line(log: Path) -> str:
    """The last line of a log that holds anything; empty where there is none."""
    try:
        with open(log, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            lines = file.read().decode("utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _all(status: SweepStatus) -> Iterator[tuple[str, str, Failure]]:
    """Job, host and failure, of attempts and of single cells."""
    for job in status.jobs:
        for attempt, failure in failures(job):
            yield job.name, attempt.progress.host if attempt and attempt.progress else job.node, failure
        for attempt in job.attempts:
            if attempt.progress:
                for failure in attempt.progress.cell_failures:
                    yield job.name, attempt.progress.host, failure
