"""In place of `python -m workers JOB.json`: writes the rows that a job would write, and needs no model.

python -m tests.stub_worker JOB.json [GATE]      the job ends well once the file GATE exists
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from tests.unit.orchestrator.fake_cluster import write_progress, write_shard
from workers.files.job import Job
from workers.files.progress import AttemptState, claim_attempt


def finish(job: Job) -> None:
    """Run one attempt at the job: a number of its own, a heartbeat, every row, the end."""
    attempt = claim_attempt(job.sweep_folder, job.job)
    write_progress(job, AttemptState.RUNNING, attempt=attempt)
    write_shard(job, attempt=attempt)
    write_progress(job, AttemptState.FINISHED, attempt=attempt)


def main(arguments: list[str]) -> None:
    """Wait for the gate, where there is one, and finish the job."""
    path, *gates = map(Path, arguments)
    while not all(gate.exists() for gate in gates):
        time.sleep(0.05)
    finish(Job.load(path))


if __name__ == "__main__":
    main(sys.argv[1:])
