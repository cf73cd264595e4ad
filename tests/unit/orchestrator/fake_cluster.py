"""A cluster that runs nothing: a test says what it knows of each job, and writes what the jobs would have written."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from cluster.backend import (
    AbstractCluster,
    AvoidsNodes,
    ClusterError,
    Control,
    Finding,
    HandleStatus,
    JobRequest,
    JobState,
    KnowsItsSlots,
    Slots,
)
from orchestrator.backends.submissions import Submission, read_submissions
from orchestrator.sweep import Sweep
from workers.files.failure import Failure, FailureClass, fingerprint
from workers.files.folder import replace_file
from workers.files.job import MAIN_SETTING, Job, canonical_json
from workers.files.progress import AttemptState, Progress
from workers.files.shard import SHARD_SCHEMA, shard_bytes


@dataclass
class World:
    """What the fake scheduler knows, shared by all its clusters in one test."""

    states: dict[str, JobState] = field(default_factory=dict)  # by handle; unknown ones are UNKNOWN
    nodes: dict[str, str] = field(default_factory=dict)  # by handle, where known
    exit_codes: dict[str, int] = field(default_factory=dict)
    tokens: dict[str, dict[str, str]] = field(default_factory=dict)
    requests: dict[str, JobRequest] = field(default_factory=dict)  # by job name
    options: list[Mapping[str, Any]] = field(default_factory=list)  # one for each submission
    orders: list[tuple[Control, tuple[str, ...]]] = field(default_factory=list)
    n_polls: int = 0
    n_wakes: int = 0
    is_unanswered: bool = False  # for jobs that are UNKNOWN
    fails_with: ClusterError | None = None  # instead of answering
    dies: bool = False  # after it has accepted the jobs, before the caller hears of it


class Death(BaseException):
    """The submitting process is killed here."""


def killed_in_submit(sweep: Sweep, world: World) -> Submission:
    """What is left of a submit whose process dies after the jobs were accepted, before it hears of it."""
    world.dies = True
    with pytest.raises(Death):
        sweep.submit()
    world.dies = False
    (intent,) = read_submissions(sweep.folder)
    assert intent.is_unconfirmed
    return intent


class _Fake(AbstractCluster):
    """Accepts everything."""

    world = World()

    def __init__(self, folder: Path, options: Mapping[str, Any]) -> None:
        self.given = options

    def wake(self) -> None:
        """Written down."""
        self.world.n_wakes += 1

    def submit(self, requests: Sequence[JobRequest], *, token: str) -> dict[str, str]:
        """Handles that name the job."""
        world = self.world
        if world.fails_with:
            raise world.fails_with
        if token not in world.tokens:
            world.tokens[token] = {request.name: f"{token}/{request.name}" for request in requests}
            world.requests.update({request.name: request for request in requests})
            world.states.update(dict.fromkeys(world.tokens[token].values(), JobState.PENDING))
            world.options.append(self.given)
        if world.dies:
            raise Death
        return world.tokens.get(token, {})

    def poll(self, handles: Sequence[str]) -> dict[str, HandleStatus]:
        """What the test said."""
        self.world.n_polls += 1
        if self.world.fails_with:
            raise self.world.fails_with
        return {handle: self._status(handle) for handle in handles}

    def _status(self, handle: str) -> HandleStatus:
        state = self.world.states.get(handle, JobState.UNKNOWN)
        return HandleStatus(
            state=state,
            is_unanswered=state is JobState.UNKNOWN and self.world.is_unanswered,
            node=self.world.nodes.get(handle, ""),
            exit_code=self.world.exit_codes.get(handle),
        )

    def control(self, handles: Sequence[str], action: Control) -> None:
        """Written down."""
        self.world.orders.append((action, tuple(handles)))

    def limit(self, n_jobs: int | None) -> None:
        """Nothing to limit."""

    def doctor(self) -> list[Finding]:
        """All is well."""
        return [Finding(check="fake", ok=True, found="fine")]


class FakeCluster(_Fake, KnowsItsSlots):
    """In place of this machine."""

    def slots(self) -> Slots:
        """As many as the spec says, without GPUs."""
        return Slots(n_jobs=self.given.get("workers", 2), key="local.workers", has_gpus=False)


class FakeScheduler(_Fake, AvoidsNodes):
    """In place of a cluster."""


def set_state(world: World, job: str, state: JobState) -> None:
    """Let the scheduler say `state` of a job."""
    world.states[_handle(world, job)] = state


def die(world: World, job: str, code: int, *, node: str = "node1") -> None:
    """Let a job's command end with this exit code on a node; the worker itself leaves no word."""
    handle = _handle(world, job)
    world.states[handle], world.exit_codes[handle], world.nodes[handle] = JobState.FAILED, code, node


def _handle(world: World, job: str) -> str:
    (handle,) = [handle for handles in world.tokens.values() for name, handle in handles.items() if name == job]
    return handle


def job_of(sweep: Sweep, name: str) -> Job:
    """A job file of the sweep."""
    return Job.load(sweep.folder.job_file(name))


def jobs_of(sweep: Sweep) -> list[Job]:
    """Every job file of the sweep."""
    return [Job.load(path) for path in sorted(sweep.folder.jobs.glob("*.json"))]


def write_shard(
    job: Job, keys: Iterable[str] | None = None, *, attempt: int = 1, ended: float = 1e9, **fields: Any
) -> Path:
    """The shard of an attempt that finished the cells of `keys` (default: all), with some columns replaced."""
    rows = []
    for cohort in job.cohorts:
        for cell in cohort.cells:
            if keys is None or cell.key in set(keys):
                stream = cohort.stream
                for setting in [MAIN_SETTING, *(one.name for one in job.settings)]:
                    row: dict[str, Any] = dict.fromkeys(SHARD_SCHEMA.names) | {
                        "cell_key": cell.key,
                        "sweep": job.sweep,
                        "experiment": cohort.experiment,
                        "model": job.model_path,
                        "model_fingerprint": stream.model["fingerprint"],
                        "task": stream.task["name"],
                        "hypothesis": stream.hypothesis,
                        **cell.place.columns(),
                        "token": cell.token,
                        "seed": stream.seed,
                        "method": stream.method["name"],
                        "method_settings": canonical_json(dict(stream.method)),
                        "engine": stream.engine,
                        "setting": setting,
                        "status": "done",
                        "n_correct": 70,
                        "n_total": 100,
                        "iia": 0.7,
                        "job": job.job,
                        "attempt": attempt,
                        "gpu_seconds": 10.0,
                        "ended": datetime.fromtimestamp(ended, UTC),
                    }
                    rows.append(row | fields)
    table = pa.Table.from_pylist(rows, schema=SHARD_SCHEMA)
    folder = job.sweep_folder
    path = folder.shards / f"{folder.attempt_name(job.job, attempt)}.parquet"
    replace_file(path, shard_bytes(table, {}))
    return path


def write_progress(
    job: Job,
    state: AttemptState,
    *,
    attempt: int = 1,
    kind: FailureClass | None = None,
    message: str = "it broke",
    updated: float | None = None,
    host: str = "node1",
    running: Iterable[str] = (),
    **changes: Any,
) -> None:
    """The progress file of an attempt, failed with `kind` where it is given; `changes` are further fields."""
    now = time.time() if updated is None else updated
    failure = None
    if kind is not None:
        failure = Failure(kind=kind, message=message, fingerprint=fingerprint(kind, message, ""))
    progress = Progress(
        job=job.job,
        attempt=attempt,
        state=state,
        host=host,
        pid=1,
        backend="local",
        scheduler_job_id="",
        gpu_name="cpu",
        gpu_uuid="",
        started=now - 60,
        updated=now,
        ended=0.0 if state is AttemptState.RUNNING else now,
        running_cells=tuple(running),
        failure=failure,
        **changes,
    )
    folder = job.sweep_folder
    replace_file(folder.progress / f"{folder.attempt_name(job.job, attempt)}.json", progress.to_json())


def finish(world: World, job: Job) -> None:
    """The job ran through: shard, last heartbeat, and the scheduler's word."""
    write_shard(job)
    write_progress(job, AttemptState.FINISHED)
    set_state(world, job.job, JobState.COMPLETED)


def fail(world: World, job: Job, kind: FailureClass, *, message: str = "it broke", host: str = "node1") -> None:
    """Let a job fail."""
    state = AttemptState.INTERRUPTED if kind is FailureClass.PREEMPTED else AttemptState.FAILED
    write_progress(job, state, kind=kind, message=message, host=host)
    set_state(world, job.job, JobState.PREEMPTED if kind is FailureClass.PREEMPTED else JobState.FAILED)


def newest_jobs(sweep: Sweep) -> list[Job]:
    """The jobs of the last submission."""
    return [job_of(sweep, name) for name in read_submissions(sweep.folder)[-1].jobs]


def keys_of(jobs: list[Job]) -> list[str]:
    """Every cell of some jobs."""
    return sorted(cell.key for job in jobs for cohort in job.cohorts for cell in cohort.cells)
