"""Which unfinished cells to run again, and how: by the class of what ended them (`workers.files.failure`), and bounded.

An interrupted attempt that saved something is free; every other attempt counts, whether a backend or a later job made
it. A fault that would end every job stops the sweep.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from cluster.backend import JobState
from orchestrator.errors import RepeatedBug
from orchestrator.status.cell_state import CellState
from orchestrator.status.states import Attempt, JobStatus, SweepStatus
from workers.files.failure import Failure, FailureClass

MAX_STRIKES: Final = 2
_STRIKE_LIFE_S: Final = 24 * 3600.0


class Mode(StrEnum):
    """Who asks."""

    SUBMIT = "submit"  # a person who wants what was never run or was stopped
    RESUME = "resume"  # a person who wants what failed as well
    AUTO = "auto"  # nobody: only what is worth another try


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The cells to run: their keys by the number of times that their memory ran out."""

    by_halvings: Mapping[int, frozenset[str]] = field(default_factory=dict)
    excluded_hosts: tuple[str, ...] = ()

    @property
    def n_cells(self) -> int:
        """Cells to run."""
        return sum(len(keys) for keys in self.by_halvings.values())


def select(
    status: SweepStatus,
    keys_of: Callable[[str], Iterable[str]],
    mode: Mode,
    *,
    force: bool = False,
    only: Collection[str] | None = None,
) -> Selection:
    """What to run of the cells that are missing or failed; nothing that runs, waits or is done.

    `keys_of` gives the cell keys of a job. `only`: none but these cells.
    Raises: RepeatedBug when one bug ended several jobs whose cells still lack rows, unless `force`.
    """
    if not force:
        _check_faults(status)
    kinds: defaultdict[str, Counter[FailureClass]] = defaultdict(Counter)
    last: dict[str, FailureClass] = {}
    for job in status.jobs:
        ends = list(ends_of(job))
        for key in keys_of(job.name) if ends else ():
            kinds[key].update(kind for kind, is_free in ends if not is_free)
            last[key] = ends[-1][0]
    chosen: defaultdict[int, set[str]] = defaultdict(set)
    for key, cell in status.cells.items():
        if (only is None or key in only) and _is_wanted(cell.state, mode, kinds[key], last.get(key)):
            chosen[sum(n for kind, n in kinds[key].items() if kind.needs_less_memory)].add(key)
    return Selection(
        by_halvings={count: frozenset(keys) for count, keys in sorted(chosen.items())},
        excluded_hosts=excluded_hosts(status),
    )


def _is_wanted(state: CellState, mode: Mode, kinds: Mapping[FailureClass, int], last: FailureClass | None) -> bool:
    if mode is Mode.RESUME:
        return state.is_open
    if mode is Mode.SUBMIT:
        return state is CellState.MISSING
    if last is None:
        return state is CellState.MISSING
    return state.is_open and kinds[last] <= last.retries


def ends_of(job: JobStatus) -> Iterator[tuple[FailureClass, bool]]:
    """How the job's attempts ended, and whether that is free."""
    for attempt, failure in failures(job):
        has_saved = attempt is not None and attempt.progress is not None and attempt.progress.has_saved
        yield failure.kind, failure.kind.is_interruption and has_saved
    if job.state is JobState.CANCELLED:
        yield FailureClass.CANCELLED, False  # its workers tell a cancel from a preemption no more than we could
    if job.state is JobState.COMPLETED and job.n_settled < job.n_cells:
        yield FailureClass.NODE, False  # it says that it finished, and a valid row is not there


def failures(job: JobStatus) -> Iterator[tuple[Attempt | None, Failure]]:
    """How the job's attempts ended badly; a failure without an attempt is one before the worker could begin."""
    for attempt in job.attempts:
        if attempt.failure is not None:
            yield attempt, attempt.failure
    if not job.attempts and job.failure is not None:
        yield None, job.failure


def excluded_hosts(status: SweepStatus) -> tuple[str, ...]:
    """The hosts on which attempts died more than once in the last day."""
    strikes: Counter[str] = Counter()
    for job in status.jobs:
        for attempt, failure in failures(job):
            progress = attempt.progress if attempt else None
            is_recent = progress is None or time.time() - progress.updated < _STRIKE_LIFE_S
            if failure.kind.blames_host and is_recent:
                strikes[progress.host if progress else job.node] += 1
    return tuple(sorted(host for host, count in strikes.items() if host and count >= MAX_STRIKES))


def repeated_faults(status: SweepStatus) -> dict[str, list[tuple[JobStatus, Failure]]]:
    """The faults, by fingerprint, that would end every job: equal ones have ended several whose cells still lack rows.

    One that may be a single host's fault counts when several hosts have seen it, or nothing of the sweep ever began.
    """
    blamed = {cell.job for cell in status.cells.values() if cell.state is CellState.FAILED}
    found: defaultdict[str, list[tuple[JobStatus, Failure]]] = defaultdict(list)
    for job in status.jobs:
        if job.name in blamed and job.failure is not None and job.failure.kind.stops_after:
            found[job.failure.fingerprint].append((job, job.failure))
    return {
        name: cases
        for name, cases in found.items()
        if len(cases) >= cases[-1][1].kind.stops_after and _is_nobodys_host(status, cases)
    }


def _is_nobodys_host(status: SweepStatus, cases: Iterable[tuple[JobStatus, Failure]]) -> bool:
    """Whether it would happen elsewhere too."""
    hosts = {job.node for job, failure in cases if failure.kind.blames_host}
    return len(hosts) != 1 or not any(job.has_begun for job in status.jobs)


def _check_faults(status: SweepStatus) -> None:
    for name, cases in repeated_faults(status).items():
        job, failure = cases[-1]
        raise RepeatedBug(
            f"the same {failure.kind.label} ({name}) ended {len(cases)} jobs, the last one {job.name}: "
            f"{failure.message}\n"
            f"see: causalsweep errors {status.name}; mend it, then: causalsweep resume {status.name} --force"
        )
