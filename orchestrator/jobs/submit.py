"""Jobs chosen, written, recorded, handed over, recorded again; in this order, so that a death loses nothing."""

from __future__ import annotations

import contextlib
import logging
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from cluster.backend import (
    AbstractCluster,
    AvoidsNodes,
    ClusterError,
    ClusterUnavailable,
    ClusterUsageError,
    Control,
    FollowsUp,
    JobRequest,
    JobState,
    NothingSent,
    NotPermitted,
    QueueFull,
    SubmissionIncomplete,
)
from orchestrator.backends.opening import open_cluster, open_configured, options_of
from orchestrator.backends.origin import Origin, origin_of
from orchestrator.backends.submissions import (
    Stage,
    Submission,
    claim_submission,
    read_job,
    read_submissions,
    save,
    withdraw,
)
from orchestrator.errors import SpecError, StorageError, SweepBusy
from orchestrator.grid.expand import Grid, matching_keys
from orchestrator.grid.model import check_runnable, chosen_models, model_folder
from orchestrator.jobs.budget import affordable, keep_spec_budget
from orchestrator.jobs.inapplicable import write_inapplicable
from orchestrator.jobs.notifying import keep_spec_command
from orchestrator.jobs.provenance import changed_since, provenance
from orchestrator.jobs.retry import Mode, Selection, select
from orchestrator.plan.machines import machines
from orchestrator.plan.packing import PlannedJob
from orchestrator.plan.plan import Planner, halved, over, to_cohorts
from orchestrator.spec.models import ModelChoice
from orchestrator.spec.schema import SweepSpec
from orchestrator.status.job_state import why_unseen
from orchestrator.status.reader import StatusReader
from orchestrator.status.states import JobStatus, SweepStatus
from workers.files.failure import FailureClass
from workers.files.folder import SweepFolder, replace_file
from workers.files.job import Job

log = logging.getLogger(__name__)

_FOLLOW_UP_S: Final = 1800.0
# How often a backend starts a job again by itself: the same policy as for the jobs that follow.
_MAX_RESTARTS, _MAX_RETRIES = FailureClass.PREEMPTED.retries, FailureClass.NODE.retries


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What a call of submit or resume did."""

    backend: str
    submission: Submission | None  # None: there was nothing to run
    n_cells: int
    watch: tuple[str, ...] = ()  # where else to look on
    notes: tuple[str, ...] = ()  # what the user should know of it


class Sender:
    """Hands the cells of one sweep to backends."""

    def __init__(self, spec: SweepSpec, folder: SweepFolder, grid: Grid, reader: StatusReader) -> None:
        self._spec, self._folder, self._grid, self._reader = spec, folder, grid, reader

    def send(
        self, backend: str, mode: Mode, *, auto: bool = False, force: bool = False, where: Sequence[str] = ()
    ) -> Receipt:
        """What was handed to `backend` of the cells that `mode` asks for and that match `where`.

        Raises: RepeatedBug, BudgetReached, SpecError, SweepBusy, StorageError, ClusterError.
        """
        options = options_of(self._spec, backend)
        cluster = open_configured(self._spec, backend, self._folder)
        if auto and not isinstance(cluster, FollowsUp):
            raise SpecError(f"--auto: {backend} has no follow-up jobs; `causalsweep run` waits, and tries again itself")
        planner = Planner(self._spec, self._folder, self._grid, machines(self._spec, backend, self._folder))
        only = matching_keys(self._grid, where)
        keep_spec_budget(self._folder, self._spec.jobs.max_gpu_hours)
        keep_spec_command(self._folder, self._spec.notify)
        changed = changed_since(self._folder, read_submissions(self._folder))
        submission = self._claimed(backend, options, mode)
        try:
            write_inapplicable(self._folder, self._spec, self._grid)
            status = self._reader.read()
            selection = select(status, self._reader.keys_of, mode, force=force, only=only)
            if selection.n_cells == 0:
                if mode is not Mode.SUBMIT:
                    self._check_seen(status)
                withdraw(self._folder, submission)
                return Receipt(backend=backend, submission=None, n_cells=0)
            check_runnable(self._spec, self._grid.models, self._models_of(selection))
            if selection.excluded_hosts and isinstance(cluster, AvoidsNodes):
                options = cluster.avoiding(options, selection.excluded_hosts)
                cluster = open_cluster(backend, self._folder, options)
                submission = replace(submission, options=options)
            planned = build_jobs(planner, submission, selection, over(status))
            jobs = affordable(self._folder, status, planned)
        except BaseException:
            withdraw(self._folder, submission)
            raise
        submission = hand_over(self._folder, cluster, submission, jobs)
        if auto and isinstance(cluster, FollowsUp):
            submission = follow_up(self._folder, cluster, submission, where)
        n_cells = sum(job.n_cells for job, _ in jobs)
        left = f"{selection.n_cells - n_cells:,} cells are left out: the rest of the budget is reserved by these jobs"
        notes = tuple(filter(None, (changed, left if len(jobs) < len(planned) else "")))
        return Receipt(backend=backend, submission=submission, n_cells=n_cells, watch=cluster.watch, notes=notes)

    def _models_of(self, selection: Selection) -> set[str]:
        """The names of the models that have cells in the selection."""
        keys = {key for some in selection.by_halvings.values() for key in some}
        return {strand.model for strand, cell in self._grid.cells() if cell.key in keys}

    def confirm(self, known: Iterable[Submission]) -> None:
        """See to it that each backend has what it was handed: submissions whose process died before it could tell, and
        jobs that wait for a dispatcher that is gone. What was submitted before the folder was moved is cancelled: its
        paths lead nowhere. What was submitted in a folder of which this one is a copy is left alone.
        Raises: as `send`."""
        places = {}
        for submission in known:
            origin = origin_of(self._folder, submission)
            if origin is Origin.COPIED:
                continue
            places[submission.place] = submission
            if submission.is_unconfirmed:
                cluster = open_cluster(submission.backend, self._folder, submission.options)
                submission = hand_over_again(self._folder, cluster, submission)
            if origin is Origin.MOVED:
                with contextlib.suppress(ClusterError, OSError):  # one that does not answer: the status says so
                    cluster = open_cluster(submission.backend, self._folder, submission.options)
                    cluster.control(list(submission.handles.values()), Control.CANCEL)
        for submission in places.values():
            try:
                open_cluster(submission.backend, self._folder, submission.options).wake()
            except NotPermitted as error:
                log.warning("%s", error)
            except (ClusterError, OSError):
                # one that is gone has nobody to wake, as the status says; a full disk is told where jobs are written
                continue

    def _check_seen(self, status: SweepStatus) -> None:
        """Raises: SweepBusy where there is nothing to run only because nobody knows of jobs whether they still run."""
        unseen = [job for job in status.jobs if job.holds_cells and job.state is JobState.UNKNOWN]
        if not unseen:
            return
        n_cells = sum(job.n_cells - job.n_settled for job in unseen)
        why = "; ".join(dict.fromkeys([*status.notes, *(why_unseen(job) for job in unseen)]))
        silent = dict.fromkeys(job.backend for job in unseen if job.lost_in_s == math.inf)
        wait_s = max(job.lost_in_s for job in unseen)
        answer = "answers" if len(silent) == 1 else "answer"
        when = f"when {' and '.join(silent)} {answer}" if silent else f"in {wait_s:.0f} s"
        raise SweepBusy(
            f"nothing can be resumed now: {n_cells} cells are in {len(unseen)} jobs of which nobody knows whether they "
            f"still run: {why}\ntry again {when}: what its cluster then does not show counts as lost"
        )

    def _claimed(self, backend: str, options: Mapping[str, Any], mode: Mode) -> Submission:
        try:
            return claim_submission(self._folder, backend=backend, options=options, reason=str(mode))
        except OSError as error:
            raise StorageError(f"{self._folder.submissions}: cannot write: {error.strerror}") from error


def build_jobs(
    planner: Planner, submission: Submission, selection: Selection, past: Sequence[JobStatus]
) -> list[tuple[Job, PlannedJob]]:
    """The job files' contents, longest first; cells whose memory ran out in jobs of their own."""
    planned: list[tuple[PlannedJob, int]] = []
    for times, keys in selection.by_halvings.items():
        planned += [(job, times) for job in planner.jobs(keys, past, spread=times == 0)]
    choices = chosen_models(planner.spec, planner.grid.models)
    found = {name: choices[name] for name in {job.model for job, _ in planned}}
    located = {name: replace(model, path=str(model_folder(model))) for name, model in found.items()}
    made_by = provenance()
    return [
        (_job_file(planner, submission.job_name(index), job=job, times=times, model=model, provenance=made_by), job)
        for index, (job, times) in enumerate(planned, start=1)
        for model in (located[job.model],)
    ]


def _job_file(
    planner: Planner, name: str, *, job: PlannedJob, times: int, model: ModelChoice, provenance: Mapping[str, Any]
) -> Job:
    """The job's file. `model.path` is the folder where it lies now. An untrained model passes any gate: it is a control
    because it cannot do the task."""
    spec = planner.spec
    return Job(
        job=name,
        sweep=spec.name,
        folder=str(planner.folder.root),
        label=f"{model.name}: {job.label}" if len(planner.grid.models) > 1 else job.label,
        model_path=model.path,
        model_revision=model.revision,
        gate_task_accuracy=spec.gate.task_accuracy if model.untrained_seed is None else 0.0,
        cohorts=to_cohorts(job),
        settings=spec.evaluation_settings(),
        options=halved(spec.run.options(), job, times),
        n_gpus=spec.jobs.gpus,
        predicted_s=round(job.predicted_s, 1),
        provenance=provenance,
    )


def hand_over(
    folder: SweepFolder, cluster: AbstractCluster, submission: Submission, jobs: Sequence[tuple[Job, PlannedJob]]
) -> Submission:
    """The submission with the handles of its jobs, written down before and after the backend is asked.

    Raises: ClusterUsageError (nothing was submitted, nothing is left behind), SweepBusy (the backend did not answer:
    resume finds out, where it may have the jobs), StorageError.
    """
    names = tuple(job.job for job, _ in jobs)
    try:
        for job, _ in jobs:
            replace_file(folder.job_file(job.job), job.to_json())
        submission = save(folder, submission, stage=Stage.INTENT, jobs=names)
    except OSError as error:
        withdraw(folder, replace(submission, jobs=names))
        raise StorageError(f"{folder.root}: cannot write the jobs: {error}") from error
    requests = [request_of(folder, job, planned.upper_s) for job, planned in jobs]
    try:
        return _submit(folder, cluster, submission, requests)
    except ClusterUsageError:
        withdraw(folder, submission)
        raise


def hand_over_again(folder: SweepFolder, cluster: AbstractCluster, submission: Submission) -> Submission:
    """An unconfirmed submission, confirmed: the same token submits nothing twice.

    Raises: as `hand_over`; StorageError (a job file cannot be read).
    """
    jobs = [read_job(folder, name) for name in submission.jobs]
    estimates = [PlannedJob(parts=(), predicted_s=job.predicted_s).upper_s for job in jobs]
    requests = [request_of(folder, job, upper_s) for job, upper_s in zip(jobs, estimates, strict=True)]
    try:
        return _submit(folder, cluster, submission, requests)
    except ClusterUsageError as error:  # it has none of them: their cells are free again
        save(folder, submission, stage=Stage.SUBMITTED, message=str(error))
        raise


def follow_up(folder: SweepFolder, cluster: FollowsUp, submission: Submission, where: Sequence[str] = ()) -> Submission:
    """The submission with a job behind it that resumes the cells that match `where` once its jobs have ended.

    Raises: ClusterError.
    """
    only = tuple(word for condition in where for word in ("--where", condition))
    command = ("resume", str(folder.root), "--on", submission.backend, "--auto", *only)
    request = JobRequest(
        name=f"r{submission.number}-auto",
        label=f"resume {folder.root.name}",
        argv=(sys.executable, "-m", "orchestrator", *command),
        log=folder.logs / f"r{submission.number}-auto.log",
        time_s=_FOLLOW_UP_S,
        n_gpus=0,
        max_restarts=_MAX_RESTARTS,
        max_retries=_MAX_RETRIES,
    )
    handles = list(submission.handles.values())
    handle = cluster.submit_followup(request, after=handles, token=f"{submission.token}-auto")
    return save(folder, submission, followup=handle)


def request_of(folder: SweepFolder, job: Job, upper_s: float) -> JobRequest:
    """What a backend is asked to run for `job`."""
    return JobRequest(
        name=job.job,
        label=job.label,
        argv=(sys.executable, "-m", "workers", str(folder.job_file(job.job))),
        log=folder.logs / f"{job.job}.log",
        time_s=upper_s,
        n_gpus=job.n_gpus,
        max_restarts=_MAX_RESTARTS,
        max_retries=_MAX_RETRIES,
    )


def _submit(
    folder: SweepFolder, cluster: AbstractCluster, submission: Submission, requests: Iterable[JobRequest]
) -> Submission:
    changes: dict[str, Any] = {"stage": Stage.SUBMITTED}
    try:
        changes["handles"] = cluster.submit(list(requests), token=submission.token)
    except SubmissionIncomplete as error:
        changes |= {"handles": error.handles, "message": str(error)}
    except NothingSent as error:
        withdraw(folder, submission)
        what = "takes no more jobs now" if isinstance(error, QueueFull) else "did not answer"
        raise SweepBusy(
            f"{submission.backend} {what}: {error}\nnothing was submitted; try again later, or elsewhere (--on)"
        ) from error
    except ClusterUnavailable as error:
        raise SweepBusy(
            f"{submission.backend} did not answer: {error}\n"
            f"whether it has the jobs is not known; `causalsweep resume {folder.root.name}` finds out"
        ) from error
    try:
        return save(folder, submission, **changes)
    except OSError as error:
        raise StorageError(
            f"{folder.submissions}: the jobs are submitted, but their ids cannot be written: {error}\n"
            f"make room, then `causalsweep resume {folder.root.name}` finds them"
        ) from error
