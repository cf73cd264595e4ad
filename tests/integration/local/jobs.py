"""Small jobs on the demo's checkpoint, run as a backend runs them, and what they leave behind."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from workers.data.model_info import read_model_info
from workers.files.folder import SweepFolder, replace_file
from workers.files.job import Cell, Cohort, Job, JobCell, RunOptions, Setting, Stream
from workers.files.place import Place
from workers.files.progress import Progress, read_progress
from workers.files.shard import RUN_COLUMNS
from workers.methods.settings import method_settings
from workers.tasks import load_task

POINTS = ((0, 80), (2, 80), (3, 81))
PROJECT = Path(__file__).parents[3]

Row = Mapping[str, Any]


def make_cohort(
    model: Path,
    hypothesis: str = "left_boundary",
    points: Iterable[tuple[int, int]] = POINTS,
    *,
    n_train: int = 1280,
    n_test: int = 96,
    **method: Any,
) -> Cohort:
    """Cells of one hypothesis at these (layer, position) points: 20 steps of 64 pairs."""
    stream = Stream(
        model={"fingerprint": read_model_info(model).fingerprint, "dtype": "float32"},
        task=load_task({"name": "price_tagging"}).settings(),
        hypothesis=hypothesis,
        seed=42,
        data={"n_train": n_train, "n_eval": 32, "n_test": n_test},
        method=method_settings(method.pop("name", "boundless_das"), {"epochs": 1} | method),
        engine="suffix",
    )
    cells = tuple(
        JobCell(
            key=Cell(stream=stream, place=Place(layer=layer, position=position)).key(),
            place=Place(layer=layer, position=position),
            token="x",
        )
        for layer, position in points
    )
    return Cohort(experiment=hypothesis, stream=stream, cells=cells)


def write_job(
    folder: Path,
    model: Path,
    cohorts: Sequence[Cohort],
    *,
    gate: float = 0.0,
    settings: tuple[Setting, ...] = (),
    n_gpus: int = 1,
    **options: Any,
) -> Path:
    """A job file in a sweep's new folder; it saves a checkpoint whenever it may."""
    sweep = SweepFolder(folder)
    sweep.make()
    job = Job(
        job="j",
        sweep="s",
        folder=str(folder),
        label="test",
        model_path=str(model),
        model_revision="",
        gate_task_accuracy=gate,
        cohorts=tuple(cohorts),
        settings=settings,
        n_gpus=n_gpus,
        options=RunOptions(**{"device": "cpu", "checkpoint_every_s": 0.0, "heartbeat_s": 0.05} | options),
    )
    replace_file(sweep.job_file("j"), job.to_json())
    return sweep.job_file("j")


def start(job_file: Path) -> subprocess.Popen[str]:
    """The job's process, as a backend starts it."""
    command = [sys.executable, "-m", "workers", str(job_file)]
    return subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def run(job_file: Path, *, timeout_s: float = 500) -> tuple[int, str]:
    """The exit code and the log of the job, run to its end."""
    process = start(job_file)
    try:
        log, _ = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return process.returncode, log


def progress_of(job_file: Path, attempt: int = 1) -> Progress | None:
    """What the attempt's progress file says now."""
    return read_progress(job_file.parents[1] / "progress" / f"j-{attempt:04d}.json")


def wait_for_steps(process: subprocess.Popen[str], job_file: Path, n_steps: int) -> None:
    """Return when the first attempt has trained `n_steps` cell-steps. Raises: AssertionError when it ends before."""
    while True:
        progress = progress_of(job_file)
        if progress is not None and progress.steps_done >= n_steps:
            return
        if process.poll() is not None:
            raise AssertionError(f"ended with {process.returncode} before step {n_steps}: {process.communicate()[0]}")
        time.sleep(0.01)


def rows_of(job_file: Path) -> dict[tuple[str, str], Row]:
    """What the shards say of each cell and setting, without what two runs may differ in. A row that two attempts both
    wrote must be the same in both. Torn shards are left out."""
    found: dict[tuple[str, str], Row] = {}
    for path in sorted((job_file.parents[1] / "shards").glob("*.parquet")):
        for row in pq.read_table(path).to_pylist():
            science = {column: value for column, value in row.items() if column not in RUN_COLUMNS}
            assert found.setdefault((row["cell_key"], row["setting"]), science) == science
    return found


def edit_job(job_file: Path, **changes: Any) -> None:
    """Change top-level entries of a job file."""
    replace_file(job_file, json.dumps(json.loads(job_file.read_text()) | changes))
