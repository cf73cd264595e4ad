"""How a submission's dispatcher is started: as a Ray Job that the dashboard lists under the sweep's name."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from typing import Final

from cluster.ray.api import RayApi
from cluster.ray.record import Batch, RayFiles

_SIZE: Final = re.compile(r"\((\d+) (\w+?)s?\)$")  # a label that says how much is in the job: "... (7 cells)"


def start_dispatcher(api: RayApi, record: RayFiles, submission: Batch) -> None:
    """Have the cluster run the submission's dispatcher, unless it has it. Raises: ClusterUnavailable."""
    # -P: a folder `cluster` where the process happens to start is not taken for this package
    command = [sys.executable, "-P", "-m", "cluster.ray.dispatcher", str(record.path(submission.name))]
    api.start_job(submission.name, f"exec {shlex.join(command)}", _metadata(record.folder, submission))


def _metadata(folder: Path, submission: Batch) -> dict[str, str]:
    """What the dashboard's Jobs page shows of a submission."""
    sizes = [_SIZE.search(request.label) for request in submission.requests]
    units = {size[2] for size in sizes if size}
    n_units = {f"{unit}s": str(sum(int(size[1]) for size in sizes if size and size[2] == unit)) for unit in units}
    return {"job_name": submission.sweep, "jobs": str(len(submission.requests)), **n_units, "folder": str(folder)}
