"""What would be refused before anything is submitted."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cluster.backend import ChecksRequests, ClusterUnavailable, JobRequest
from orchestrator.backends.opening import open_configured
from orchestrator.errors import SweepNotFound
from orchestrator.plan.packing import PlannedJob
from orchestrator.spec.schema import BACKEND_KEYS, SweepSpec
from workers.files.folder import SweepFolder


def unchecked(spec: SweepSpec, folder: SweepFolder, backend: str, jobs: Sequence[PlannedJob]) -> tuple[str, ...]:
    """Why the jobs were not checked against `backend`; nothing where they were, or where it cannot say beforehand.

    Raises: ClusterUsageError, as submit would.
    """
    cluster = open_configured(spec, backend, folder)
    if not isinstance(cluster, ChecksRequests) or not jobs:
        return ()
    longest_s = max(job.upper_s for job in jobs)
    log = folder.logs / "check.log"
    request = JobRequest(name="check", label="", argv=("true",), log=log, time_s=longest_s, n_gpus=spec.jobs.gpus)
    try:
        cluster.check([request])
    except ClusterUnavailable as error:
        return (f"not checked against {backend}, which submit does: {error}",)
    return ()


def check_planned(spec: SweepSpec, folder: SweepFolder, backend: str, is_done: Callable[[], bool]) -> None:
    """That a sweep without a submission can be resumed on `backend`, empty where nobody said.

    Raises: SweepNotFound where it was never planned, or where its spec is for another machine than this one.
    """
    # A planned sweep without a submission is done by another one's rows, or its `submit` was killed.
    if not (folder.spec.exists() or folder.cells.exists()):
        raise SweepNotFound(f"{folder.root}: never submitted; causalsweep submit does so")
    clusters = [key for key in BACKEND_KEYS[1:] if getattr(spec, key)]
    if not backend and clusters and not is_done():
        raise SweepNotFound(
            f"{folder.root}: never submitted, and its spec is for more than this machine "
            f"(key `{clusters[0]}`): say where it is to run, as in --on {clusters[0].replace('_', '-')}"
        )
