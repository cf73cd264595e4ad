"""explain: why a cell is in its state, from its rows, its jobs and their attempts, and whether it would run again."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from orchestrator.audit.evidence import Evidence, Row, planned_cells
from orchestrator.audit.nearest import Comparison, Other, nearest, others_in
from orchestrator.errors import RepeatedBug, SpecError, StorageError, SweepNotFound
from orchestrator.grid.expand import cell_fields, matching_keys, wanted_settings
from orchestrator.jobs.retry import Mode, ends_of, select
from orchestrator.status.cell_state import CellState
from orchestrator.status.states import JobStatus, SweepStatus
from orchestrator.sweep import Sweep
from workers.files.job import MAIN_SETTING
from workers.files.versions import NewerFile

_LEAST: Final = 4  # digits of a key
_KEY: Final = re.compile(rf"[0-9a-f]{{{_LEAST},64}}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RowFound:
    """A row of the cell in a shard. `why_not`: why it does not settle the cell on its setting; empty where it does."""

    setting: str
    status: str
    n_correct: int | None
    n_total: int | None
    reason: str
    shard: str
    host: str
    gpu: str
    ended: datetime | None
    why_not: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptFound:
    """One run of a job that had the cell."""

    number: int
    state: str
    host: str
    seconds: float
    end: str  # the failure's class and message; empty where it finished or runs


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFound:
    """A job that had, or has, the cell."""

    job: str
    submission: int
    backend: str
    handle: str
    state: str
    detail: str
    attempts: tuple[AttemptFound, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Why a cell is in its state. `state` is None for a cell that is not planned (any more), `fields` what it is."""

    key: str
    fields: Mapping[str, Any]
    state: CellState | None
    reason: str
    lacking: tuple[str, ...]  # settings without a row that counts
    rows: tuple[RowFound, ...]
    jobs: tuple[JobFound, ...]
    next: str
    compared: Comparison | None = None

    @property
    def is_settled(self) -> bool:
        """Whether nothing is left to do for it."""
        return self.state is not None and self.state.is_settled


def explain(
    sweep: Sweep, keys: Sequence[str] = (), *, where: Iterable[str] = (), against: Sequence[Sweep] = ()
) -> list[Explanation]:
    """Each cell whose key begins with one of `keys`, and each planned one that matches `where`.

    A cell without a row is compared with the nearest one that has some under another key: of this folder, and of the
    sweeps `against`.
    Raises: SpecError (no cell, or several, of a key; a condition is wrong), StorageError.
    """
    where = list(where)
    if bool(keys) == bool(where):
        raise SpecError("explain: give the beginning of a cell's key, or --where KEY=VALUE, and not both")
    try:
        explainer = _Explainer(sweep, against)
        chosen = explainer.of_keys(keys) if keys else explainer.matching(where)
        return [explainer.explained(key) for key in chosen]
    except NewerFile as error:
        raise StorageError(str(error)) from error


class _Explainer:
    def __init__(self, sweep: Sweep, against: Sequence[Sweep]) -> None:
        self._sweep, self._status = sweep, sweep.status()
        self._evidence = Evidence(sweep.folder)
        self._planned = {key: (strand, cell, science) for key, strand, cell, science in planned_cells(sweep.grid)}
        self._jobs = {job.name: job for job in self._status.jobs}
        self._others = others_in(self._evidence, self._planned, against)
        self._chosen = {mode: _selected(self._status, self._evidence, mode) for mode in (Mode.RESUME, Mode.AUTO)}

    def of_keys(self, keys: Sequence[str]) -> list[str]:
        """The one cell of each beginning of a key. Raises: SpecError, SweepNotFound."""
        known = {*self._planned, *self._evidence.cells_of_jobs, *self._evidence.rows}
        found = []
        for key in keys:
            if not _KEY.fullmatch(key.lower()):
                right = (
                    f"the first {_LEAST} or more of a key's 64 hexadecimal digits, as `results` and `query` show them"
                )
                raise SpecError(f"explain: got {key!r}; expected {right}")
            matching = sorted(one for one in known if one.startswith(key.lower()))
            if not matching:
                what = f"no cell that {self._sweep.spec.name} plans, has in a job or has a row of"
                raise SweepNotFound(
                    f"explain: {what} has a key that begins with {key!r}; --where chooses by what it is"
                )
            if len(matching) > 1:
                names = ", ".join(one[:16] for one in matching[:8])
                raise SpecError(f"explain: {len(matching)} cells have keys that begin with {key!r}: {names}; give more")
            found += matching
        return list(dict.fromkeys(found))

    def matching(self, where: Sequence[str]) -> list[str]:
        """The planned cells that match. Raises: SpecError."""
        only = matching_keys(self._sweep.grid, where) or frozenset()
        return [key for key in self._planned if key in only]

    def explained(self, key: str) -> Explanation:
        """What is known of one cell."""
        if key not in self._planned:
            return self._not_planned(key)
        strand, cell, science = self._planned[key]
        found = self._status.cells[key]
        rows = self._evidence.rows.get(key, [])
        there = {row.values["setting"] for row in rows if row.counts}
        wanted = wanted_settings(self._sweep.spec.evaluation_settings(), strand.experiment)
        compared = nearest(science, self._others) if not rows and found.state.is_open else None
        return Explanation(
            key=key,
            fields=cell_fields(strand, cell),
            state=found.state,
            reason=found.reason,
            lacking=tuple(name for name in wanted if name not in there),
            rows=tuple(_row(row, found.state) for row in rows),
            jobs=tuple(self._jobs_of(key)),
            next=self._next(key, found.state, found.job),
            compared=compared,
        )

    def _not_planned(self, key: str) -> Explanation:
        """A cell of a job file or a shard that the grid does not have."""
        rows = self._evidence.rows.get(key, [])
        science = self._evidence.cells_of_jobs.get(key)
        planned = [
            Other(where="planned here", key=other, science=science) for other, (_, _, science) in self._planned.items()
        ]
        fields = (
            {name: rows[0].values[name] for name in ("experiment", "layer", "position", "seed", "method")}
            if rows
            else {}
        )
        return Explanation(
            key=key,
            fields=fields or {name: value for name, value in (science or {}).items() if not isinstance(value, Mapping)},
            state=None,
            reason="the grid does not have it (any more)",
            lacking=(),
            rows=tuple(_row(row, None) for row in rows),
            jobs=tuple(self._jobs_of(key)),
            next="its rows stay, and count again if it is planned again",
            compared=nearest(science, planned) if science else None,
        )

    def _jobs_of(self, key: str) -> Iterator[JobFound]:
        for name in self._evidence.jobs_of_cells.get(key, ()):
            job = self._jobs.get(name)
            if job is not None:
                yield _job(job)

    def _next(self, key: str, state: CellState, job: str) -> str:
        """What the commands would do with the cell."""
        if state.is_held:
            return f"the job {job} has it: submit and resume leave it alone"
        if not state.is_open:
            does_not = "submit, run and resume leave it alone"
            lower = "; a lower gate.task_accuracy lets it run" if state is CellState.SKIPPED else ""
            return f"{does_not}{lower}"
        again = "resume runs it" if key in self._chosen[Mode.RESUME][0] else "resume would not run it"
        if problem := self._chosen[Mode.AUTO][1]:
            return f"{again} only with --force: {problem.splitlines()[0]}"
        by_itself = "so do run and --auto" if key in self._chosen[Mode.AUTO][0] else self._why_no_retry(key)
        return f"{again}; {by_itself}"

    def _why_no_retry(self, key: str) -> str:
        jobs = [name for name in self._evidence.jobs_of_cells.get(key, ()) if name in self._jobs]
        ends = [kind for name in jobs for kind, _ in ends_of(self._jobs[name])]
        if not ends:
            return "run and --auto do not"
        kind = ends[-1]
        tries = f"{kind.retries} retries of that are used up" if kind.retries else "that is not tried again by itself"
        return f"run and --auto do not: it ended as {kind.label}, and {tries}"


def _selected(status: SweepStatus, evidence: Evidence, mode: Mode) -> tuple[frozenset[str], str]:
    """The cells that a resume would run, and the bug for which it would need `--force`."""

    def keys_of(name: str) -> Iterable[str]:
        job = evidence.jobs.get(name)
        return [cell.key for cohort in job.cohorts for cell in cohort.cells] if job else []

    problem = ""
    try:
        select(status, keys_of, mode)
    except RepeatedBug as error:
        problem = str(error)
    chosen = select(status, keys_of, mode, force=True).by_halvings.values()
    return frozenset(key for keys in chosen for key in keys), problem


def _row(row: Row, state: CellState | None) -> RowFound:
    values = row.values
    state_of_skipped = state in (CellState.SKIPPED, CellState.INAPPLICABLE)
    why_not = "" if row.counts else "another row of the cell counts: a measured one, or the first that finished"
    if row.counts and state is None:
        why_not = "its cell is not planned"
    elif row.counts and values["status"] == "skipped" and values["setting"] == MAIN_SETTING and not state_of_skipped:
        why_not = "the gate was lowered since"
    return RowFound(
        setting=values["setting"],
        status=values["status"],
        n_correct=values["n_correct"],
        n_total=values["n_total"],
        reason=values["reason"] or "",
        shard=row.source,
        host=values["host"] or "",
        gpu=values["gpu_name"] or "",
        ended=values["ended"],
        why_not=why_not,
    )


def _job(job: JobStatus) -> JobFound:
    attempts = []
    for attempt in job.attempts:
        progress, failure = attempt.progress, attempt.failure
        attempts.append(
            AttemptFound(
                number=attempt.number,
                state=str(progress.state) if progress else "claimed",
                host=progress.host if progress else job.node,
                seconds=(progress.ended or progress.updated) - progress.started if progress else 0.0,
                end=f"{failure.kind.label}: {failure.message}" if failure else "",
            )
        )
    end = f"{job.failure.kind.label}: {job.failure.message}" if job.failure and not attempts else ""
    return JobFound(
        job=job.name,
        submission=job.submission,
        backend=job.backend,
        handle=job.handle,
        state="LOST" if job.is_lost else str(job.state),
        detail="; ".join(filter(None, (job.detail, end))),
        attempts=tuple(attempts),
    )
