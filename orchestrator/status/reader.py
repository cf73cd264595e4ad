"""What is done, running, failed: derived from shards, progress files, submissions and one question to each cluster.

Nothing here is stored. A job that its cluster does not show keeps its last known state while its heartbeat is fresh.
When nobody has seen it for `lost_after_s` its cells count as missing; a cluster that does not answer proves nothing.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from cluster.backend import AbstractCluster, ClusterError, HandleStatus, JobState
from orchestrator.backends.opening import open_cluster
from orchestrator.backends.origin import Origin, origin_of, seen_from_a_copy
from orchestrator.backends.submissions import Submission, read_job, read_submissions
from orchestrator.grid.expand import Grid, wanted_settings
from orchestrator.spec.schema import CoarseSection
from orchestrator.status.cell_state import CellState
from orchestrator.status.chain import Chain, chained
from orchestrator.status.coarse_to_fine import left_out
from orchestrator.status.job_state import judged, left_over
from orchestrator.status.states import Attempt, CellStatus, JobStatus, SweepStatus
from orchestrator.store.store import RowState, Store
from workers.files.budget import Budget, read_budget, why_reached
from workers.files.folder import SweepFolder
from workers.files.gate import Verdict
from workers.files.job import MAIN_SETTING, Setting
from workers.files.progress import PROGRESS_FORMAT, AttemptState, Progress, attempts_in

_HEARTBEATS_MISSED: Final = 10  # after this number a running attempt is no longer believed
_FRESH_S: Final = 30.0  # but not sooner: clocks differ, file systems lag


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFile:
    """What a status needs of a job file."""

    name: str
    label: str
    keys: tuple[str, ...]
    predicted_s: float
    n_gpus: int
    heartbeat_s: float


class StatusReader:
    """Derives the status of one sweep, again and again; what cannot change is read once."""

    def __init__(
        self,
        folder: SweepFolder,
        grid: Grid,
        settings: Sequence[Setting],
        *,
        gate: float,
        lost_after_s: float,
        coarse: CoarseSection | None = None,
    ):
        self._folder, self._grid, self._gate, self._lost_after_s = folder, grid, gate, lost_after_s
        self._coarse = coarse
        self.store = Store(folder)
        self._settings = {strand.experiment: wanted_settings(settings, strand.experiment) for strand in grid.strands}
        self._clusters: dict[str, AbstractCluster] = {}
        self._origins: dict[str, Origin] = {}  # by token
        self._jobs: dict[str, JobFile] = {}
        self._ended: dict[str, Progress] = {}  # progress files that nobody writes any more

    def read(self) -> SweepStatus:
        """The status now. Raises: StorageError (a submission's record is unreadable)."""
        index = self.store.index()
        settled = self._settled(index)
        submissions = read_submissions(self._folder)
        jobs, notes, watch = self._job_statuses(submissions, settled)
        if any(job.n_settled < job.n_cells for job in jobs if not job.holds_cells):
            # a job that ended while its cluster was asked may have written the rows that were not there before
            index, before = self.store.index(), index
            if index != before:
                settled = self._settled(index)
                jobs, notes, watch = self._job_statuses(submissions, settled)
        chain = self._chain(index, settled)
        cells = self._cells(chain, settled, jobs)
        used_h, budget = sum(_used_s(job) for job in jobs) / 3600, self._budget(notes)
        to_come_s = sum(max(job.eta_s, 0.0) * job.n_gpus for job in jobs if job.holds_cells)
        return SweepStatus(
            name=self._folder.root.name,
            folder=str(self._folder.root),
            cells=cells,
            jobs=tuple(jobs),
            gpu_hours_used=used_h,
            gpu_hours_to_come=to_come_s / 3600,
            max_gpu_hours=budget.gpu_hours if budget else None,
            eta_s=_remaining_s(jobs),
            torn=tuple(self.store.torn()),
            notes=(*notes, *_spent(self._folder, budget, used_h), *chain.notes),
            watch=tuple(watch),
            counts=Counter(cell.state for cell in cells.values()),
        )

    def _budget(self, notes: list[str]) -> Budget | None:
        """The sweep's budget; a file that cannot be read is noted: jobs then begin nothing."""
        try:
            return read_budget(self._folder)
        except (OSError, ValueError) as error:
            notes.append(f"{error}; nothing new begins until it is written anew: causalsweep limit --gpu-hours")
            return None

    # Cells ------------------------------------------------------------------------------------------------------

    def _settled(self, index: Mapping[tuple[str, str], RowState]) -> dict[str, CellStatus]:
        """The cells that their rows decide."""
        settled = {}
        for strand, cell in self._grid.cells():
            main = index.get((cell.key, MAIN_SETTING))
            if main is None:
                continue
            if main.status == "skipped":
                if main.task_accuracy is None:  # it was not the gate
                    settled[cell.key] = CellStatus(state=CellState.INAPPLICABLE, reason=main.reason, job=main.job)
                elif main.task_accuracy < self._gate and _still_holds(main.reason, self._gate):  # else it was lowered
                    settled[cell.key] = CellStatus(state=CellState.SKIPPED, reason=main.reason, job=main.job)
            elif main.status == "failed":
                settled[cell.key] = CellStatus(state=CellState.FAILED, reason=main.reason, job=main.job)
            elif all((cell.key, setting) in index for setting in self._settings[strand.experiment]):
                settled[cell.key] = CellStatus(state=CellState.DONE, job=main.job)
        return settled

    def _cells(
        self,
        chain: Chain,
        settled: Mapping[str, CellStatus],
        jobs: Iterable[JobStatus],
    ) -> dict[str, CellStatus]:
        cells = {cell.key: CellStatus(state=CellState.MISSING) for _, cell in self._grid.cells()}
        cells.update(settled)
        for job in jobs:
            progress = job.progress
            running = set(progress.running_cells) if progress and job.state is JobState.RUNNING else set()
            for key in self._job_file(job.name).keys:
                before = cells.get(key)
                if before is None or before.state is CellState.DONE or (key in settled and before.job == job.name):
                    continue
                if job.holds_cells:
                    state = CellState.RUNNING if key in running else CellState.WAITING
                    reason = "its job is starting: it loads the model" if job.is_starting else job.detail
                    cells[key] = CellStatus(state=state, reason=reason, job=job.name)
                elif key not in settled:
                    cells[key] = left_over(job)
        for strand in self._grid.strands:
            for cell in strand.cells if strand.inapplicable else ():
                if cells[cell.key].state in (CellState.MISSING, CellState.FAILED):
                    cells[cell.key] = CellStatus(state=CellState.INAPPLICABLE, reason=strand.inapplicable)
        for key, reason in chain.left_out.items():
            if cells[key].state is CellState.MISSING:
                cells[key] = CellStatus(state=CellState.LEFT_OUT, reason=reason)
        return cells

    def _chain(self, index: Mapping[tuple[str, str], RowState], settled: Mapping[str, CellStatus]) -> Chain:
        """What coarse to fine and the chain leave out, and what the chain has chosen."""
        everywhere = replace(self._grid, strands=tuple(strand for strand in self._grid.strands if not strand.after))
        out = left_out(everywhere, self._coarse, settled, index) if self._coarse else {}
        return chained(self._grid, out, settled, index)

    # Jobs -------------------------------------------------------------------------------------------------------

    def _job_statuses(
        self, submissions: Sequence[Submission], settled: Mapping[str, CellStatus]
    ) -> tuple[list[JobStatus], list[str], list[str]]:
        attempts, set_aside = self._attempts()
        known = [
            (submission, self._from_files(submission, name, attempts.get(name, []), settled))
            for submission in submissions
            for name in submission.jobs
            if submission.is_unconfirmed or name in submission.handles
        ]
        polled, notes, watch = self._poll(known)
        return [self._judged(submission, job, polled) for submission, job in known], [*set_aside, *notes], watch

    def _judged(self, submission: Submission, job: JobStatus, polled: Mapping[str, HandleStatus]) -> JobStatus:
        return judged(
            job,
            polled.get(job.name),
            submitted=submission.created,
            fresh_s=max(_HEARTBEATS_MISSED * self._job_file(job.name).heartbeat_s, _FRESH_S),
            lost_after_s=self._lost_after_s,
        )

    def _from_files(
        self, submission: Submission, name: str, runs: Sequence[tuple[int, Progress | None]], settled: Mapping[str, Any]
    ) -> JobStatus:
        """The job as the sweep's files show it; COMPLETED only when every cell has its rows and no run is active."""
        file = self._job_file(name)
        n_settled = sum(key in settled for key in file.keys)
        attempts = tuple(Attempt(number=n, progress=p, failure=p.failure if p else None) for n, p in runs)
        last = attempts[-1].progress if attempts else None
        is_over = n_settled == len(file.keys) and last is not None and last.state is AttemptState.FINISHED
        return JobStatus(
            name=name,
            label=file.label,
            submission=submission.number,
            backend=submission.backend,
            handle=submission.handles.get(name, ""),
            state=JobState.COMPLETED if is_over else JobState.UNKNOWN,
            node=last.host if last else "",
            gpu=(last.gpu_uuid or last.gpu_name) if last else "",
            attempts=attempts,
            n_cells=len(file.keys),
            n_settled=n_settled,
            n_gpus=file.n_gpus,
            elapsed_s=(last.ended or last.updated) - last.started if last else 0.0,
            predicted_s=file.predicted_s,
        )

    def _poll(
        self, known: Iterable[tuple[Submission, JobStatus]]
    ) -> tuple[dict[str, HandleStatus], list[str], list[str]]:
        """What each cluster says of the jobs that our files do not decide: one question a place. In the copy of a
        sweep those of the original are none of its jobs, whatever their cluster says."""
        groups: dict[tuple[str, str], tuple[Submission, list[JobStatus]]] = {}
        for submission, job in known:
            if job.state is not JobState.COMPLETED and job.handle:
                groups.setdefault(submission.place, (submission, []))[1].append(job)
        polled: dict[str, HandleStatus] = {}
        notes: list[str] = []
        watch: list[str] = []
        for submission, jobs in groups.values():
            try:
                cluster = self._cluster(submission)
                answer = cluster.poll([job.handle for job in jobs])
            except ClusterError as error:
                notes.append(f"{submission.backend} did not answer, the last known states are shown: {error}")
                continue
            watch += [line for line in cluster.watch if line not in watch]
            polled |= {job.name: answer[job.handle] for job in jobs if job.handle in answer}
        for submission, job in known:
            if job.state is not JobState.COMPLETED and self._origin(submission) is Origin.COPIED:
                polled[job.name] = seen_from_a_copy(polled.get(job.name))
        return polled, notes, watch

    def _origin(self, submission: Submission) -> Origin:
        if submission.token not in self._origins:
            self._origins[submission.token] = origin_of(self._folder, submission)
        return self._origins[submission.token]

    def keys_of(self, job: str) -> tuple[str, ...]:
        """The cell keys of a job. Raises: StorageError."""
        return self._job_file(job).keys

    def _cluster(self, submission: Submission) -> AbstractCluster:
        """The backend of a submission, kept: it may remember what it was told a moment ago. Raises: ClusterError."""
        key = json.dumps([submission.backend, dict(submission.options)], sort_keys=True)
        if key not in self._clusters:
            self._clusters[key] = open_cluster(submission.backend, self._folder, submission.options)
        return self._clusters[key]

    # Files ------------------------------------------------------------------------------------------------------

    def _job_file(self, name: str) -> JobFile:
        if name not in self._jobs:
            self._jobs[name] = _read_job_file(self._folder, name)
        return self._jobs[name]

    def _attempts(self) -> tuple[dict[str, list[tuple[int, Progress | None]]], list[str]]:
        """Every attempt's number and record, by job; and what was set aside."""
        found: dict[str, list[tuple[int, Progress | None]]] = {}
        notes = []
        for path, job, number in attempts_in(self._folder):
            progress = self._ended.get(path.name)
            if progress is None:
                progress, note = _heartbeat(path)
                notes += [note] if note else []
            if progress and progress.state is not AttemptState.RUNNING:
                self._ended[path.name] = progress
            found.setdefault(job, []).append((number, progress))
        return {job: sorted(runs, key=lambda run: run[0]) for job, runs in found.items()}, notes


def _heartbeat(path: Path) -> tuple[Progress | None, str]:
    """What a progress file says, None where it is only claimed yet; or why it is set aside."""
    try:
        return PROGRESS_FORMAT.read(path), ""
    except OSError:
        return None, ""
    except ValueError as error:
        is_claimed = path.exists() and path.stat().st_size == 0
        return None, "" if is_claimed else f"{error}; set aside, its attempt is shown by its cluster and its rows alone"


def _read_job_file(folder: SweepFolder, name: str) -> JobFile:
    """What a status needs of the job file of `name`. Raises: StorageError."""
    job = read_job(folder, name)
    return JobFile(
        name=name,
        label=job.label,
        keys=tuple(cell.key for cohort in job.cohorts for cell in cohort.cells),
        predicted_s=job.predicted_s,
        n_gpus=job.n_gpus,
        heartbeat_s=job.options.heartbeat_s,
    )


def _spent(folder: SweepFolder, budget: Budget | None, used_h: float) -> list[str]:
    """That the budget is spent, and what to do, where it is."""
    why = why_reached(budget, used_h)
    raise_it = f"to raise it: causalsweep limit {folder.root.name} --gpu-hours H"
    return [f"{why}: nothing new begins, and what runs is finished; {raise_it}"] if why else []


def _used_s(job: JobStatus) -> float:
    """GPU-seconds of all attempts so far."""
    runs = [attempt.progress for attempt in job.attempts if attempt.progress]
    return job.n_gpus * sum((progress.ended or progress.updated) - progress.started for progress in runs)


def _remaining_s(jobs: Iterable[JobStatus]) -> float:
    """Seconds until the last job ends, if as many run side by side as now, and none starts before its cluster says."""
    held = [job for job in jobs if job.holds_cells]
    n_running = sum(job.state is JobState.RUNNING for job in held)
    last_s = max((job.wait_s + job.eta_s for job in held), default=0.0)
    return max(last_s, sum(job.eta_s for job in held) / max(n_running, 1))


def _still_holds(reason: str, gate: float) -> bool:
    """Whether a cell that the gate skipped is below this gate too: a first look decides for no lower one."""
    verdict = Verdict.of(reason)
    return verdict is None or verdict.holds_for(gate)
