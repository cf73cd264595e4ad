"""Seconds that SLURM's side of a large sweep takes: submitting, polling and cancelling many jobs on a real SLURM.

Brings up the testbed in a temporary folder (or uses the one that SLURM_CONF names, with --here), submits jobs that do
nothing, in arrays no larger than the controller allows, and lets one of them run at a time.

    python benchmarks/slurm_scale.py --jobs 1000     # one line of JSON; exit code 1 beyond 15 s and 2 s
    python benchmarks/slurm_scale.py --jobs 10000    # ten arrays of at most 1,001 jobs
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from unittest import mock

from cluster.backend import Control, JobRequest, JobState
from cluster.slurm import SlurmCluster, commands, queue
from cluster.testbed.slurm import SlurmTestbed

SUBMIT_S, STATUS_S = 15.0, 2.0  # goals for 1,000 jobs


def main() -> int:
    """0 when the limits are kept and every job is accounted for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--here", action="store_true", help="on the cluster that SLURM_CONF names")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="scale-", dir="/tmp"))
    testbed = SlurmTestbed(folder / "slurm")
    try:
        if not options.here:
            testbed.up()
            os.environ.update(testbed.env())
        result = measure(folder / "sweep", options.jobs)
    finally:
        if not options.here:
            testbed.down()
        shutil.rmtree(folder)
    sys.stdout.write(json.dumps(result) + "\n")
    scale = options.jobs / 1000
    kept = (
        result["submit_s"] < SUBMIT_S * scale and max(result["status_s"], result["status_after_s"]) < STATUS_S * scale
    )
    return 0 if kept and result["lost"] == 0 else 1


def measure(folder: Path, n_jobs: int) -> dict[str, float]:
    """What was measured."""
    requests = [
        JobRequest(name=f"j{i}", label="", argv=("true",), log=folder / "logs" / "all.log", time_s=60.0)
        for i in range(n_jobs)
    ]
    cluster = SlurmCluster(folder, {"array_parallelism": 1})
    began = time.perf_counter()
    handles = cluster.submit(requests, token="t1")
    submit_s = time.perf_counter() - began
    status_s, n_calls, states = polled(folder, list(handles.values()))
    began = time.perf_counter()
    cluster.control(list(handles.values()), Control.KILL)
    cancel_s = time.perf_counter() - began
    while any(state.is_active() for state in cluster_states(folder, handles)):
        time.sleep(2.0)
    status_after_s, _, states_after = polled(folder, list(handles.values()))
    return {
        "jobs": n_jobs,
        "arrays": len({handle.partition("_")[0] for handle in handles.values()}),
        "submit_s": round(submit_s, 2),
        "status_s": round(status_s, 2),
        "squeue_and_sacct_calls": n_calls,
        "cancel_s": round(cancel_s, 2),
        "status_after_s": round(status_after_s, 2),
        "lost": n_jobs - len(set(handles.values())) + states["UNKNOWN"] + states_after["UNKNOWN"],
        "load": round(os.getloadavg()[0], 1),
    }


def polled(folder: Path, handles: list[str]) -> tuple[float, int, Counter[str]]:
    """Seconds of one poll from a fresh process's view, its calls of squeue and sacct, and the states by name."""
    queue.shared_queue.cache_clear()
    with mock.patch.object(queue, "ask", wraps=commands.ask) as ask:
        began = time.perf_counter()
        statuses = SlurmCluster(folder, {}).poll(handles)
        took_s = time.perf_counter() - began
    return took_s, ask.call_count, Counter(status.state.value for status in statuses.values())


def cluster_states(folder: Path, handles: dict[str, str]) -> list[JobState]:
    """The states of all jobs."""
    queue.shared_queue.cache_clear()
    return [status.state for status in SlurmCluster(folder, {}).poll(list(handles.values())).values()]


if __name__ == "__main__":
    sys.exit(main())
