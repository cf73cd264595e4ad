"""How a submission's dispatcher is started: as a Ray Job that the dashboard lists under the sweep's name."""

from __future__ import annotations

import shlex
import sys
from collections import Counter
from pathlib import Path

from cluster.ray.api import RayApi
from cluster.ray.record import Batch, RayFiles
from cluster.ray.sizes import JOBS, size_of


def start_dispatcher(api: RayApi, record: RayFiles, submission: Batch) -> None:
    """Have the cluster run the submission's dispatcher, unless it has it. Raises: ClusterUnavailable."""
    # -P: a folder `cluster` where the process happens to start is not taken for this package
    command = [sys.executable, "-P", "-m", "cluster.ray.dispatcher", str(record.path(submission.name))]
    api.start_job(submission.name, f"exec {shlex.join(command)}", _metadata(record.folder, submission))


def _metadata(folder: Path, submission: Batch) -> dict[str, str]:
    """What the dashboard's Jobs page shows of a submission."""
    if not submission.requests:  # a look at the nodes, no sweep
        return {"job_name": f"doctor of {submission.sweep}", "folder": str(folder)}
    amounts: Counter[str] = Counter()
    for n, unit in map(size_of, submission.requests):
        amounts[unit] += n
    counted = {JOBS: len(submission.requests)} | {unit: n for unit, n in amounts.items() if unit != JOBS}
    return {"job_name": submission.sweep, **{unit: str(n) for unit, n in counted.items()}, "folder": str(folder)}
