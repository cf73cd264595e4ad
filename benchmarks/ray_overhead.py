"""What a job costs to dispatch on Ray: ours against plain Ray tasks and against Tune, in one run on the same raylets.

    python benchmarks/ray_overhead.py [--jobs 1000] [--folder DIR]

Every job runs `true` in a child process on one of 16 logical GPUs. So the figure is what the way of dispatching adds,
on a machine whose cores all 16 share: seconds of wall clock a job, from the first hand-over to the last result.
Ways that take a fresh Ray process for each job (Ray's default for GPU tasks, and Tune's) run a tenth of the jobs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cluster.backend import JobRequest
from cluster.ray import RayCluster
from cluster.testbed.ray import RayTestbed

TRUE = ("/bin/true",)


def ours(bed: RayTestbed, folder: Path, n_jobs: int) -> dict[str, float]:
    """Seconds until submit returns, and until all jobs are COMPLETED after that, a job."""
    cluster = RayCluster(folder, {"address": bed.address})
    requests = [
        JobRequest(name=f"j{i}", label=f"job {i} (1 cell)", argv=TRUE, log=folder / "logs" / "all.log", time_s=1.0)
        for i in range(n_jobs)
    ]
    began = time.perf_counter()
    handles = list(cluster.submit(requests, token=f"t{time.time_ns()}").values())
    submitted = time.perf_counter()
    while not all(status.state.is_finished() for status in cluster.poll(handles).values()):
        time.sleep(0.2)
    ended = time.perf_counter()
    assert {str(status.state) for status in cluster.poll(handles).values()} == {"COMPLETED"}
    return {"submit_s": submitted - began, "s_a_job": (ended - submitted) / n_jobs}


def plain_tasks(bed: RayTestbed, n_jobs: int, **options: Any) -> dict[str, float]:
    """Seconds a job of as many tasks handed over at once."""
    import ray

    ray.init(address=bed.gcs, log_to_driver=False)
    run = ray.remote(num_gpus=1, max_retries=0, **options)(lambda: subprocess.run(TRUE, check=True).returncode)
    began = time.perf_counter()
    assert set(ray.get([run.remote() for _ in range(n_jobs)])) == {0}
    return {"s_a_job": (time.perf_counter() - began) / n_jobs}


def tune_trials(bed: RayTestbed, n_jobs: int, folder: Path, *, reuse: bool) -> dict[str, float]:
    """Seconds a trial, of trials that take one step."""
    import ray
    from ray import tune

    class Trial(tune.Trainable):
        def setup(self, config: dict[str, Any]) -> None:
            self.config = config

        def step(self) -> dict[str, Any]:
            return {"code": subprocess.run(TRUE, check=True).returncode, "done": True}

        def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
            return {}

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            return True

    ray.init(address=bed.gcs, log_to_driver=False)
    tuner = tune.Tuner(
        tune.with_resources(Trial, {"gpu": 1, "cpu": 1}),
        param_space={"index": tune.grid_search(list(range(n_jobs)))},
        tune_config=tune.TuneConfig(reuse_actors=reuse, metric="code", mode="min"),
        run_config=tune.RunConfig(storage_path=str(folder), verbose=0),
    )
    began = time.perf_counter()
    results = tuner.fit()
    assert len(results) == n_jobs
    assert results.num_errors == 0
    return {"s_a_job": (time.perf_counter() - began) / n_jobs}


WAYS: dict[str, Callable[[RayTestbed, Path, int], dict[str, float]]] = {
    "plain tasks, one Ray process for many": lambda bed, _, n: plain_tasks(bed, n, max_calls=0),
    "causalsweep": ours,
    "plain tasks, a Ray process each": lambda bed, _, n: plain_tasks(bed, n // 10, max_calls=1),
    "Tune, one Ray process for many": lambda bed, folder, n: tune_trials(bed, n, folder / "tune", reuse=True),
    "Tune, a Ray process each": lambda bed, folder, n: tune_trials(bed, n // 10, folder / "tune1", reuse=False),
}


def main() -> None:
    """Print a line for each way."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "ray-overhead")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    bed = RayTestbed.at(options.folder)
    if options.way:
        print(json.dumps(WAYS[options.way](bed, options.folder, options.jobs)))
        return
    bed.up()
    try:
        for way in WAYS:  # a process each: one Python process is connected to one Ray cluster once
            command = [
                sys.executable,
                __file__,
                "--jobs",
                str(options.jobs),
                "--folder",
                str(options.folder),
                "--way",
                way,
            ]
            env = {**os.environ, "RAY_AUTH_MODE": "disabled"}
            ran = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True)
            figures = json.loads(ran.stdout.splitlines()[-1])
            print(f"{way:40}", {name: round(value, 4) for name, value in figures.items()}, flush=True)
    finally:
        bed.down()


if __name__ == "__main__":
    main()
