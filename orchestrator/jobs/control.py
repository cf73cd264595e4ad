"""Cancel, hold, release, limit: passed on to the backends that have jobs of the sweep."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from cluster.backend import Control
from orchestrator.backends.opening import open_cluster
from orchestrator.backends.origin import Origin, origin_of
from orchestrator.backends.submissions import read_submissions
from orchestrator.errors import StorageError, SweepNotFound
from orchestrator.grid.expand import Grid, matching_keys
from orchestrator.jobs.submit import hand_over_again
from orchestrator.status.states import JobStatus, SweepStatus
from workers.files.folder import SweepFolder


def jobs_matching(
    status: SweepStatus, grid: Grid, keys_of: Callable[[str], Iterable[str]], where: Iterable[str]
) -> list[JobStatus]:
    """The jobs that wait or run and whose unfinished cells all match `where`; a job is never cut. Raises: SpecError."""
    only = matching_keys(grid, where)

    def matches(job: JobStatus) -> bool:
        keys = [key for key in keys_of(job.name) if key in status.cells and status.cells[key].state.is_held]
        return only is None or (bool(keys) and only.issuperset(keys))

    return [job for job in status.jobs if job.holds_cells and matches(job)]


def pass_on(folder: SweepFolder, action: Control, jobs: Iterable[JobStatus]) -> None:
    """Do `action` to `jobs`, each on its own backend. Of a submission whose process died before it heard the handles,
    they are asked for first. Raises: ClusterError, SweepBusy (a backend did not answer that), StorageError.
    """
    wanted = {job.name for job in jobs}
    with _writing(folder):
        for submission in read_submissions(folder):
            if wanted.isdisjoint(submission.jobs) or origin_of(folder, submission) is Origin.COPIED:
                continue
            cluster = open_cluster(submission.backend, folder, submission.options)
            if submission.is_unconfirmed:
                submission = hand_over_again(folder, cluster, submission)
            handles = [handle for name, handle in submission.handles.items() if name in wanted]
            if handles:
                cluster.control(handles, action)


def set_limit(folder: SweepFolder, n_jobs: int | None) -> tuple[str, ...]:
    """Let at most `n_jobs` run at once on each backend that was given jobs, whose names come back.

    Raises: ClusterError, StorageError. SweepNotFound when none was given any: nothing would keep the limit.
    """
    own = [one for one in read_submissions(folder) if origin_of(folder, one) is not Origin.COPIED]
    places = {submission.place: submission for submission in own}.values()
    if not places:
        raise SweepNotFound(f"{folder.root}: never submitted, nothing to limit; causalsweep submit first, then limit")
    with _writing(folder):
        for submission in places:
            open_cluster(submission.backend, folder, submission.options).limit(n_jobs)
    return tuple(dict.fromkeys(submission.backend for submission in places))


def log_of(folder: SweepFolder, sweep: str, job: str) -> Path:
    """The log of a job. Raises: SweepNotFound naming the jobs that there are."""
    if not folder.job_file(job).exists():
        names = sorted(file.stem for file in folder.jobs.glob("*.json"))
        raise SweepNotFound(f"{sweep}: no job {job!r}; there are {', '.join(names[:20]) or 'none'}")
    return folder.logs / f"{job}.log"


@contextlib.contextmanager
def _writing(folder: SweepFolder) -> Iterator[None]:
    """A backend's file that cannot be written is a StorageError."""
    try:
        yield
    except OSError as error:
        what = error.filename or folder.root
        raise StorageError(
            f"{what}: cannot write: {error.strerror}; make room, or make the folder writable, and repeat the command: "
            "jobs that it did not reach are as they were"
        ) from error
