"""What a backend would refuse of a plan, before anything is submitted."""

from __future__ import annotations

from collections.abc import Sequence

from cluster.backend import ChecksRequests, ClusterUnavailable, JobRequest
from orchestrator.backends.opening import open_configured
from orchestrator.plan.packing import PlannedJob
from orchestrator.spec.schema import SweepSpec
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
