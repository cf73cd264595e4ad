"""The job's own view of how it is doing: its progress record, the heartbeat that writes it, and requests to stop."""

from __future__ import annotations

import os
import resource
import socket
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from typing import Any, Final

import torch

from workers.files.failure import Failure, FailureClass
from workers.files.folder import replace_file
from workers.files.job import MAIN_SETTING, Cohort, Job
from workers.files.progress import (
    ENV_BACKEND,
    ENV_DEADLINE,
    ENV_NODE,
    ENV_SCHEDULER_JOB_ID,
    FIRST_PHASE,
    AttemptState,
    Progress,
)
from workers.job.gauges import MetricsFile
from workers.job.pace import CheckpointClock, EvaluationAhead, Pace, Stopwatch
from workers.job.stop import StopRequest
from workers.methods.base import Interrupted

_DEADLINE_MARGIN_S: Final = 60.0  # time kept for the last checkpoint before the scheduler's limit


class JobMonitor:
    """Implements the methods' `Monitor`, and writes the progress file from a thread of its own, so that a long step or
    a slow file system never looks like a dead job."""

    def __init__(self, job: Job, attempt: int, *, stop: StopRequest, device: torch.device) -> None:
        self.job, self.stop, self.device = job, stop, device
        folder = job.sweep_folder
        self._path = folder.progress / f"{folder.attempt_name(job.job, attempt)}.json"
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._stopwatch = Stopwatch(device)
        self._pace, self._evaluation = Pace(), EvaluationAhead()
        self._checkpoints = CheckpointClock(job.options.checkpoint_every_s)
        self._steps_of_finished = 0
        self.deadline = float(os.environ.get(ENV_DEADLINE) or "inf")
        self.progress = _first_progress(job, attempt, device)
        self._metrics = MetricsFile(job)
        self._write()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._thread.start()

    # What a method calls ---------------------------------------------------------------------------------------

    def timed(self, name: str) -> AbstractContextManager[None]:
        """Time spent inside counts as `name`."""
        return self._stopwatch.timed(name)

    def advance(self, *, cell_steps: int, pairs: int) -> None:
        """Count the step. Raises: Interrupted when a signal came or the deadline is near."""
        self._stopwatch.n_steps += 1
        self._pace.advance(cell_steps=cell_steps, pairs=pairs)
        self.update(steps_done=self.progress.steps_done + cell_steps)
        self.check_stop()

    def resumed(self, *, cell_steps: int) -> None:
        """A cohort's training begins or resumes after `cell_steps`; what an earlier try at it did no longer counts."""
        with self._lock:
            self._pace.forget_recent()
        self.update(steps_done=self._steps_of_finished + cell_steps)

    def checkpoint_due(self) -> bool:
        """Whether `checkpoint_every_s` has gone by since the last checkpoint, or more where writing one takes long."""
        return self._checkpoints.is_due()

    def checkpoint_written(self, seconds: float) -> None:
        """A checkpoint was written, which took `seconds`."""
        self._checkpoints.written(seconds)
        self.update(saved=time.time())

    def report(self, metrics: Mapping[str, float]) -> None:
        """Show intermediate measures in the progress file."""
        self.update(metrics=dict(metrics))

    # What the job calls ----------------------------------------------------------------------------------------

    def check_stop(self) -> None:
        """Raises: Interrupted when a signal came or the deadline is near."""
        if self.stop.signal_name or time.time() > self.deadline - _DEADLINE_MARGIN_S:
            raise Interrupted(self.stop.signal_name or "deadline")

    def check_time_for(self, cohort: Cohort) -> None:
        """Raises: Interrupted when the time left is less than the cohort needs at the pace so far."""
        rate, now = self._pace.overall(), time.time()
        if rate > 0 and now + n_cell_steps(cohort) / rate > self.deadline - _DEADLINE_MARGIN_S:
            raise Interrupted("deadline")
        self.check_stop()

    def begin(self, cohorts: Sequence[Cohort], *, n_done_before: int) -> None:
        """The cohorts that this attempt will train, and the cells that have all their rows already."""
        self._metrics.begin(cohorts)
        for cohort in cohorts:
            self._evaluation.expect(n_evaluation_steps(cohort, self.job))
        self.update(cells_done=n_done_before, steps_total=sum(n_cell_steps(cohort) for cohort in cohorts))

    def cohort_done(self, cohort: Cohort, rows: Sequence[Mapping[str, Any]], divergences: tuple[Failure, ...]) -> None:
        """Count the cohort's cells, whose rows are in the shard, by what became of them; write the record at once."""
        self._metrics.count(rows)
        n_by_status = Counter({row["cell_key"]: row["status"] for row in rows}.values())
        main = [row for row in rows if row["setting"] == MAIN_SETTING and row["status"] == "done"]
        best = max((row["iia"] for row in main if row["metric"] == "iia"), default=None)
        self._evaluation.done(n_evaluation_steps(cohort, self.job), self._stopwatch.seconds("evaluation"))
        progress = self.progress
        self._steps_of_finished = progress.steps_done
        best_iia = dict(progress.best_iia)
        if best is not None:
            best_iia[cohort.experiment] = max(best, best_iia.get(cohort.experiment, 0.0))
        self.update(
            cells_done=progress.cells_done + n_by_status["done"],
            cells_failed=progress.cells_failed + n_by_status["failed"],
            cells_skipped=progress.cells_skipped + n_by_status["skipped"],
            cell_failures=progress.cell_failures + divergences,
            best_iia=best_iia,
            running_cells=(),
            saved=time.time(),
        )
        self._write()

    def summary(self) -> str:
        """One line for the log: cells, pace, where the time went."""
        progress = self.progress
        seconds = time.time() - progress.started
        shares = ", ".join(f"{name} {share:.0%}" for name, share in sorted(progress.shares.items()))
        return (
            f"{progress.cells_done} cells done, {progress.cells_failed} failed, {progress.cells_skipped} skipped in "
            f"{seconds:.1f} s; {self._pace.n_pairs / max(seconds, 1e-9):.0f} pairs/s; {shares}"
        )

    def interruption(self) -> Failure:
        """How to class an interruption: at the time limit, or before it."""
        near_end = time.time() > self.deadline - 2 * _DEADLINE_MARGIN_S
        kind = FailureClass.TIMEOUT if near_end or not self.stop.signal_name else FailureClass.PREEMPTED
        cause = self.stop.signal_name or "the deadline"
        return Failure(kind=kind, message=f"stopped by {cause}; the next attempt resumes from here")

    def update(self, **changes: Any) -> None:
        """Change fields of the progress record; the next heartbeat writes them."""
        with self._lock:
            self.progress = replace(self.progress, **changes)

    def close(self, state: AttemptState, failure: Failure | None = None) -> None:
        """Write the last record and stop the heartbeat."""
        self._closed.set()
        self._thread.join()
        self.update(state=state, failure=failure, ended=time.time(), running_cells=(), eta_s=0.0)
        self._write()

    def _beat(self) -> None:
        while not self._closed.wait(self.job.options.heartbeat_s):
            self._write()

    def _write(self) -> None:
        with self._lock:
            now = time.time()
            self.progress = replace(self.progress, updated=now, **self._rates(now), **_memory(self.device))
            text = self.progress.to_json()
        try:
            replace_file(self._path, text)
        except OSError:
            return  # a full or lost disk must not end the training: the next beat tries again
        self._metrics.write(self.progress)

    def _rates(self, now: float) -> dict[str, Any]:
        progress = self.progress
        rates = self._pace.rates(now, done=progress.steps_done, total=progress.steps_total, after=self._evaluation)
        return {**asdict(rates), "shares": self._stopwatch.shares()}


def n_cell_steps(cohort: Cohort) -> int:
    """Optimizer steps of all cells of the cohort; a method without training counts as one step a cell."""
    method, n_train = cohort.stream.method, int(cohort.stream.data["n_train"])
    if "batch_size" not in method:
        return len(cohort.cells)
    batch_size = min(int(method["batch_size"]), n_train)
    return len(cohort.cells) * int(method["epochs"]) * -(-n_train // batch_size)


def n_evaluation_steps(cohort: Cohort, job: Job) -> float:
    """What evaluating the cohort's cells on all their settings takes, in cell-steps (`EvaluationAhead`)."""
    batch_size = int(cohort.stream.method.get("batch_size", 64))
    n_settings = 1 + sum(not one.experiments or cohort.experiment in one.experiments for one in job.settings)
    return len(cohort.cells) * n_settings * int(cohort.stream.data["n_test"]) / batch_size


def _first_progress(job: Job, attempt: int, device: torch.device) -> Progress:
    now = time.time()
    cuda = device.type == "cuda"
    properties = torch.cuda.get_device_properties(device) if cuda else None
    return Progress(
        job=job.job,
        attempt=attempt,
        state=AttemptState.RUNNING,
        host=os.environ.get(ENV_NODE) or socket.gethostname(),
        pid=os.getpid(),
        backend=os.environ.get(ENV_BACKEND, "none"),
        scheduler_job_id=os.environ.get(ENV_SCHEDULER_JOB_ID, ""),
        gpu_name=properties.name if properties else "cpu",
        gpu_uuid=str(properties.uuid) if properties else os.environ.get("CUDA_VISIBLE_DEVICES", ""),
        started=now,
        updated=now,
        cells_total=job.n_cells,
        phase=FIRST_PHASE,
    )


def _memory(device: torch.device) -> dict[str, Any]:
    if device.type == "cuda":
        return {"peak_memory_bytes": torch.cuda.max_memory_allocated(device), "gpu_utilisation": _utilisation(device)}
    return {"peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}


def _utilisation(device: torch.device) -> float:
    """The GPU's busy share in percent as the driver tells it; 0.0 where it does not."""
    try:
        return float(torch.cuda.utilization(device))
    except (ModuleNotFoundError, RuntimeError):
        return 0.0
