"""A job from its file to its exit code: `python -m workers JOB.json`.

1. Claim an attempt number, start the heartbeat.
2. Load the model; measure its task accuracy (the gate).
3. For each cohort that is not done: fit, or load what was fitted earlier; evaluate on the settings that lack rows;
   write the rows. Out of memory: halve the micro-batch, then the cohort.
4. Gather the rows of all jobs into the store, for whoever opens it next.
5. Whatever happens is classed in the progress file, and in the exit code for the backend.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch

from workers.data.checkpoint_files import unchanged
from workers.data.tokenizer import Tokenizer
from workers.engine.model import check_device, load_model, pick_device
from workers.files.failure import (
    EXIT_FINISHED,
    Failure,
    FailureClass,
)
from workers.files.gate import fails, reason
from workers.files.gather import gather_after_job
from workers.files.job import Cohort, Job, JobCell
from workers.files.place import span_label
from workers.files.progress import AttemptState, claim_attempt
from workers.job.budget import BudgetSpent, BudgetWatch
from workers.job.cohort import TaskData, Workbench, evaluate_cohort, fit_cohort, halves, save_alignments, saved_columns
from workers.job.failures import classed, is_out_of_memory
from workers.job.memory import cells_that_fit
from workers.job.monitor import JobMonitor
from workers.job.remaining import Work, work_of
from workers.job.rows import GateResult, RowWriter, cell_row
from workers.job.shared import data_of
from workers.job.stop import StopRequest
from workers.job.traces import TraceWriter
from workers.job.wrong_answers import wrong_answers
from workers.methods.alignment import Column
from workers.methods.base import Interrupted, NotApplicable
from workers.methods.checkpoint import CheckpointFile
from workers.methods.settings import METHODS

log = logging.getLogger(__name__)

_SMALLEST_MICRO_BATCH: Final = 4


def run_job(job: Job, stop: StopRequest) -> int:
    """The exit code (`workers.files.failure`) of one attempt at `job`, which ends early when `stop` is set."""
    device = pick_device(job.options.device)
    try:
        attempt = claim_attempt(job.sweep_folder, job.job)
    except OSError as error:
        log.error("%s: cannot write: %s", job.sweep_folder.progress, error.strerror)
        return FailureClass.NODE.exit_code
    monitor = JobMonitor(job, attempt, stop=stop, device=device)
    log.info("job %s attempt %d: %s on %s", job.job, attempt, job.label, device)
    try:
        torch.set_num_threads(job.options.threads)  # after the claim: whatever it raises or kills, the attempt counts
        _JobRun(job, attempt, monitor).run()
    except BudgetSpent as error:
        failure = Failure(kind=FailureClass.BUDGET, message=str(error))
        gather_after_job(job.sweep_folder)
        monitor.close(AttemptState.INTERRUPTED, failure)
        log.warning("%s", failure.message)
        return failure.kind.exit_code
    except Interrupted:
        failure = monitor.interruption()
        monitor.close(AttemptState.INTERRUPTED, failure)
        log.warning("%s", failure.message)
        return failure.kind.exit_code
    except Exception as error:  # the outermost frame: whatever it was becomes a classed failure
        failure = classed(error)
        log.error("%s: %s\n%s", failure.kind, failure.message, failure.traceback)
        gather_after_job(job.sweep_folder)
        monitor.close(AttemptState.FAILED, failure)
        return failure.kind.exit_code
    gather_after_job(job.sweep_folder)
    monitor.close(AttemptState.FINISHED)
    log.info("finished: %s", monitor.summary())
    return EXIT_FINISHED


class _JobRun:
    """One attempt while it runs."""

    def __init__(self, job: Job, attempt: int, monitor: JobMonitor) -> None:
        self.job, self.monitor = job, monitor
        self.attempt_name = job.sweep_folder.attempt_name(job.job, attempt)
        self.writer = RowWriter(job, attempt, monitor.progress)
        self.traces = TraceWriter(job.sweep_folder, self.attempt_name)
        self._explained: set[tuple[str, str]] = set()  # tasks whose gate failed, and was explained

    def run(self) -> None:
        """Whatever of the job has no rows yet. Raises: whatever ends the attempt."""
        work = work_of(self.job)
        to_train = [part.cohort for part in work if not part.is_trained]
        n_left = sum(len(part.cohort.cells) for part in work)
        self.monitor.begin(to_train, n_done_before=self.job.n_cells - n_left)
        if not work:
            return
        budget = BudgetWatch(self.job.sweep_folder)
        budget.check()
        check_device(self.job.options.device, self.monitor.device)
        model_path = Path(self.job.model_path)
        stream = work[0].cohort.stream
        info = unchanged(model_path, str(stream.model["fingerprint"]))
        tokenizer = Tokenizer.load(model_path, vocab_size=info.vocab_size)
        language_model = load_model(
            model_path,
            dtype=str(stream.model["dtype"]),
            device=self.monitor.device,
            n_gpus=self.job.n_gpus,
            untrained_seed=stream.untrained_seed,
        )
        for note in language_model.notes:
            log.warning("%s", note)
            self.monitor.update(notes=(*self.monitor.progress.notes, note))
        work = _side_by_side(work)
        cohorts = [part.cohort for part in work]
        self.bench = Workbench(self.job, language_model, tokenizer, self.monitor, cohorts=cohorts)
        left = deque(part for whole in work for part in self._fitting(whole))
        while left:
            budget.check()
            part = left.popleft()
            try:
                left.extendleft(reversed(self._run_cohort(part)))
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                left.extendleft(reversed(self._smaller(part, error)))

    def _fitting(self, work: Work) -> list[Work]:
        """The cohort in parts that the device's memory holds."""
        model, stream = self.bench.language_model, work.cohort.stream
        on_activations = METHODS[stream.method["name"]].fits == "on activations"
        n_states = int(stream.data["n_train"]) if on_activations else 0
        width = max(self.bench.engines.width_of(cell.place) for cell in work.cohort.cells)
        limit = self.job.options.max_cohort or cells_that_fit(width, model.device, n_states=n_states)
        parts = [work.cohort]
        while any(len(part.cells) > limit for part in parts):
            parts = [half for part in parts for half in halves(part)]
        return [replace(work, cohort=part) for part in parts]

    def _run_cohort(self, work: Work) -> list[Work]:
        """Run the cohort; what comes back is to be run in its place."""
        cohort, started = work.cohort, time.time()
        gate, threshold = self._data(cohort).gate, self.job.gate_task_accuracy
        if fails(gate.n_correct, gate.n_total, gate.n_all, threshold=threshold):
            why = reason(gate.n_correct, gate.n_total, gate.n_all, threshold=threshold)
            self._say_wrong_answers(cohort)
            self._skip(work, why, gate)
            return []
        checkpoint = CheckpointFile(self.job.sweep_folder.checkpoints, cohort.key(), self.attempt_name)
        try:
            columns = self._columns(work, checkpoint)
            self.monitor.update(phase="evaluate")
            traces: list[dict[str, Any]] = []
            rows = list(evaluate_cohort(self.bench, cohort, columns, work.settings, started, traces=traces))
        except NotApplicable as error:
            parts = self._by_kind(work)
            if len(parts) > 1:
                return parts
            self._skip(work, str(error), None)
            return []
        if not work.is_trained:
            save_alignments(self.bench, cohort, columns)
        self.traces.add(traces)
        self.writer.add(rows)
        checkpoint.remove()
        self.monitor.cohort_done(cohort, rows, _divergences(columns))
        log.info("%s: %d cells in %.1f s", _name(cohort), len(cohort.cells), time.time() - started)
        return []

    def _by_kind(self, work: Work) -> list[Work]:
        """The cohort in parts whose cells have one width, site and position: a method may have a meaning for some."""
        parts: dict[tuple[object, ...], list[JobCell]] = {}
        for cell in work.cohort.cells:
            sites = tuple(point.site for point in cell.place.points)
            kind = (self.bench.engines.width_of(cell.place), sites, cell.place.column)
            parts.setdefault(kind, []).append(cell)
        return [replace(work, cohort=replace(work.cohort, cells=tuple(cells))) for cells in parts.values()]

    def _columns(self, work: Work, checkpoint: CheckpointFile) -> list[Column]:
        """The cohort's columns: trained here, or read where they were trained earlier."""
        cohort = work.cohort
        running = tuple(cell.key for cell in cohort.cells)
        if work.is_trained:
            self.monitor.check_stop()
            self.monitor.update(phase="evaluate", running_cells=running)
            return saved_columns(self.bench, cohort)
        self.monitor.check_time_for(cohort)
        self.monitor.update(phase="train", running_cells=running)
        return fit_cohort(self.bench, cohort, checkpoint, micro_batch=work.micro_batch)

    def _skip(self, work: Work, reason: str, gate: GateResult | None) -> None:
        """Record cells that cannot be run. `gate` is given where the gate is why: it may be lowered one day."""
        cohort = work.cohort
        variables = self._data(cohort).source.variables[cohort.stream.hypothesis]
        rows: list[dict[str, Any]] = [
            cell_row(cohort, cell, setting.name, variables, gate) | {"status": "skipped", "reason": reason}
            for setting in work.settings
            for cell in cohort.cells
        ]
        self.writer.add(rows)
        self.monitor.cohort_done(cohort, rows, ())
        log.warning("%s: %d cells skipped: %s", _name(cohort), len(cohort.cells), reason)

    def _say_wrong_answers(self, cohort: Cohort) -> None:
        """Note what the model says instead, once for each set of prompts."""
        stream, known = cohort.stream, self.monitor.progress.notes
        source = self._data(cohort).source
        asked = (source.name, source.gate_group(stream.hypothesis))
        if asked in self._explained:
            return
        self._explained.add(asked)
        prompts = source.prompts(stream.hypothesis, n_prompts=int(stream.data["n_test"]))
        new = [note for note in wrong_answers(self.bench, prompts) if note not in known]
        for note in new:
            log.warning("%s", note)
        self.monitor.update(notes=(*known, *new))

    def _data(self, cohort: Cohort) -> TaskData:
        stream, threshold = cohort.stream, self.job.gate_task_accuracy
        return self.bench.task_data(stream.task, stream.hypothesis, int(stream.data["n_test"]), threshold=threshold)

    def _smaller(self, work: Work, error: Exception) -> list[Work]:
        """The same cells in less memory: half the micro-batch, then half the cohort. Raises: `error` in the end."""
        with contextlib.suppress(RuntimeError):
            torch.cuda.empty_cache()
        cohort, half_batch = work.cohort, work.micro_batch // 2
        if half_batch >= _SMALLEST_MICRO_BATCH:
            rest = [replace(work, micro_batch=half_batch)]
            note = f"out of memory: micro-batch halved to {half_batch} pairs (same effective batch)"
        elif len(cohort.cells) > 1:
            rest = [replace(work, cohort=half) for half in halves(cohort)]
            note = f"out of memory: cohort of {len(cohort.cells)} cells halved"
        else:
            raise error
        log.warning("%s", note)
        self.monitor.update(notes=(*self.monitor.progress.notes, note))
        return rest


def _name(cohort: Cohort) -> str:
    """The cohort in a log: `left_boundary L9 h3..8 p81 s42`."""
    return f"{cohort.experiment} {span_label([cell.place for cell in cohort.cells])} s{cohort.stream.seed}"


def _side_by_side(work: Sequence[Work]) -> list[Work]:
    """The work in its order, but what reads the same prompts one after the other, so that they run one forward."""
    by_data: dict[str, list[Work]] = {}
    for part in work:
        by_data.setdefault(data_of(part.cohort), []).append(part)
    return [part for parts in by_data.values() for part in parts]


def _divergences(columns: list[Column]) -> tuple[Failure, ...]:
    return tuple(
        Failure(kind=FailureClass.DIVERGED, message=facts.failure, cell_key=cell.key)
        for column in columns
        for cell, facts in zip(column.cells, column.facts, strict=True)
        if facts.failure
    )
