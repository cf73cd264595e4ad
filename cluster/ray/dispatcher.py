"""Runs on the cluster as a Ray Job, `python -m cluster.ray.dispatcher FOLDER/cluster/ray/SUBMISSION.json`.

It looks at each node, then hands every job of the submission to Ray as a task named by the job's label, obeys the
orders that it finds in the folder, starts again what was interrupted or lost its process or node, and writes down what
became of each job. Ray's own retries are off: a run that Ray hides would be missing in our records.
"""

from __future__ import annotations

import logging
import math
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import ray
from ray import cloudpickle
from ray.exceptions import OutOfMemoryError, RayError, RayTaskError, TaskCancelledError

from cluster.backend import Control, JobRequest, JobState
from cluster.process import ENV_BACKEND, ENV_DEADLINE, ENV_SCHEDULER_JOB_ID, EXIT_INTERRUPTED, FROM_OUTSIDE, exit_text
from cluster.ray import probe, task, telling
from cluster.ray.metrics import Gauges
from cluster.ray.record import Batch, DispatcherState, JobRecord, NodeReport, Order, Phase, RayFiles

TICK_S: Final = 0.5  # how often orders are looked for
HEARTBEAT_S: Final = 5.0
METRICS_S: Final = 5.0
TELL_S: Final = 60.0
LAST_START_S: Final = 120.0  # before the deadline
CANCEL_GRACE_S: Final = 60.0  # between SIGTERM and SIGKILL: time to write a checkpoint

_log = logging.getLogger("dispatcher")


@dataclass(slots=True)
class _Job:
    """A job in the dispatcher's hands. `run` is its task at Ray, queued there until `on_gpu`."""

    index: int
    request: JobRequest
    record: JobRecord = field(default_factory=JobRecord)
    run: Any = None
    on_gpu: bool = False
    node_id: str = ""
    held: bool = False
    withdrawn: bool = False  # its task in Ray's queue is to do nothing
    n_interruptions: int = 0  # the restarts after an interruption; the others followed losses
    ending: bool = False  # the user has cancelled or killed it

    def is_waiting(self) -> bool:
        return not (self.record.state.is_finished() or self.on_gpu or self.ending)


class Dispatcher:
    """One submission's jobs, from the first to the last."""

    def __init__(self, record: RayFiles, submission: Batch) -> None:
        self.record = record
        self.submission = submission
        self.jobs = [_Job(index, request) for index, request in enumerate(submission.requests)]
        self.nodes: tuple[NodeReport, ...] = ()
        self._task = ray.remote(max_retries=0, max_calls=0, num_returns="streaming")(task.run_job)
        self._gauges = Gauges(submission.sweep)
        self._deadline = float(
            os.environ.get(ENV_DEADLINE, math.inf)
        )  # when the allocation ends in which the cluster runs
        self._unfit: set[str] = set()  # ids of nodes that could not run a job
        self._orders_seen: set[str] = set()
        self._is_given_up = False
        self._written = self._measured = self._told = 0.0
        self._changed = True

    def run(self) -> int:
        """The exit code of the Ray Job: 0 when no job failed, 1 otherwise, 2 when the submission was refused."""
        self.nodes = probe.probe_nodes(self.record, self.submission)
        problems = [f"node {report.node}: {report.problem}" for report in self.nodes if report.problem]
        if problems:
            self._write(Phase.REFUSED, "; ".join(problems))
            return 2
        self._write(Phase.RUNNING)
        self._tell()
        while any(not job.record.state.is_finished() for job in self.jobs):
            self._tend(self._obey)
            self._tend(self._balance)
            self._collect()
            self._tend(self._publish)
        states = Counter(str(job.record.state) for job in self.jobs)
        self._write(Phase.ENDED, ", ".join(f"{count} {state}" for state, count in states.items()))
        self._tell()
        return 0 if set(states) <= {JobState.COMPLETED, JobState.CANCELLED} else 1

    def _tend(self, step: Callable[[], None]) -> None:
        """Do one step: a file system that fails for a while must not end the sweep."""
        try:
            step()
        except OSError as error:
            _log.warning("%s; trying again", error)

    # ------------------------------------------------------------------ what the user wants

    def _obey(self) -> None:
        if not self._is_given_up and self.record.end(self.submission.name) is not None:
            self._is_given_up = True
            _log.warning("this submission was given up, as nobody heard of it: its jobs are cancelled")
            for job in self.jobs:
                if not job.record.state.is_finished():
                    self._give(job, Order(action=Control.CANCEL, indices=(job.index,)))
        for order in self.record.orders(self.submission.name, self._orders_seen):
            jobs = [self.jobs[index] for index in order.indices]
            n_done = sum(self._give(job, order) for job in jobs if not job.record.state.is_finished())
            _log.info("%s: %d jobs", order.action, n_done)

    def _give(self, job: _Job, order: Order) -> bool:
        """Whether the order changes anything for the job."""
        match order.action:
            case Control.HOLD | Control.RELEASE if job.is_waiting():
                before, job.held = job.held, order.action is Control.HOLD
                self._note(job, state=JobState.HELD if job.held else JobState.PENDING, detail="")
                return before != job.held
            case Control.CANCEL | Control.KILL:
                before, job.ending = job.ending, True
                if job.run is None:
                    self._note(job, state=JobState.CANCELLED, detail="before it started")
                else:
                    ray.cancel(job.run, force=order.action is Control.KILL)
                return not before
        return False

    # ------------------------------------------------------------------ what Ray is to run

    def _balance(self) -> None:
        """Hand to Ray what may run, in order, and withdraw what may no more. All of it when there is no limit: then the
        dashboard shows the whole queue. A task that is withdrawn stays in Ray's queue and does nothing when its turn
        comes: one that is cancelled would be shown as failed."""
        if time.time() > self._deadline - LAST_START_S:
            self._close()
            return
        limit = self.record.limit()
        room = len(self.jobs) if limit is None else limit - self.record.claimed_before(self.submission)
        room -= sum(1 for job in self.jobs if job.run is not None and not job.is_waiting())
        for job in self.jobs:
            if not job.is_waiting():
                continue
            may_run = not job.held and room > 0
            room -= may_run
            if job.run is not None:
                self._withdraw(job, not may_run)
            elif may_run:
                self._withdraw(job, False)
                job.run = self._start(job)

    def _withdraw(self, job: _Job, is_withdrawn: bool) -> None:
        """Tell the job's task in Ray's queue to do nothing, or to run after all. Raises: OSError."""
        if job.withdrawn != is_withdrawn:
            mark = self.record.withdrawn_path(self.submission.handle(job.index))
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.touch() if is_withdrawn else mark.unlink(missing_ok=True)
            job.withdrawn = is_withdrawn

    def _close(self) -> None:
        """Start nothing more: the allocation ends soon, and what runs needs no company."""
        for job in self.jobs:
            if job.is_waiting() and job.run is None:
                self._end(job, JobState.TIMEOUT, "the allocation's time was over before it began")
            elif job.is_waiting():
                self._withdraw(job, True)

    def _start(self, job: _Job) -> Any:
        options = self.submission.options
        handle = self.submission.handle(job.index)
        metrics = self.record.metrics_path(handle)
        metrics.parent.mkdir(parents=True, exist_ok=True)
        env = {ENV_DEADLINE: str(self._deadline)} if self._deadline < math.inf else {}
        env |= {ENV_BACKEND: "ray", ENV_SCHEDULER_JOB_ID: handle, task.ENV_METRICS_FILE: str(metrics)}
        job.request.log.parent.mkdir(parents=True, exist_ok=True)
        avoiding = (
            {"label_selector": {"ray.io/node-id": f"!in({','.join(sorted(self._unfit))})"}} if self._unfit else {}
        )
        return self._task.options(
            name=job.request.label,
            num_gpus=job.request.n_gpus,
            num_cpus=options.cpus_per_job,
            resources=dict(options.resources),
            **avoiding,
        ).remote(
            {
                "argv": list(job.request.argv),
                "programs": probe.programs_of([job.request]),
                "log": str(job.request.log),
                "env": {**job.request.env, **env},
                "withdrawn": str(self.record.withdrawn_path(handle)),
                "grace_s": CANCEL_GRACE_S,
            }
        )

    # ------------------------------------------------------------------ what became of it

    def _collect(self) -> None:
        by_run = {job.run: job for job in self.jobs if job.run is not None}
        if not by_run:
            time.sleep(TICK_S)
            return
        ready, waiting = ray.wait(list(by_run), num_returns=1, timeout=TICK_S)
        if ready and waiting:
            ready += ray.wait(waiting, num_returns=len(waiting), timeout=0)[0]
        for run in ready:
            self._hear(by_run[run])

    def _hear(self, job: _Job) -> None:
        """Take one piece of news of a job: where it runs, or how it ended."""
        try:
            news = ray.get(next(job.run))
        except (StopIteration, TaskCancelledError):
            self._again(job, JobState.CANCELLED, "cancelled from outside")
        except OutOfMemoryError as error:
            self._again(job, JobState.OUT_OF_MEMORY, _first_sentence(error))
        except RayTaskError as error:
            self._end(job, JobState.FAILED, f"{type(error.cause).__name__}: {error.cause}")
        except RayError as error:
            self._again(job, JobState.NODE_FAIL, _first_sentence(error))
        else:
            self._take(job, news)

    def _take(self, job: _Job, news: dict[str, Any]) -> None:
        if "declined" in news:
            self._tend(partial(self._withdraw, job, False))
            job.run = None
            self._note(job, state=JobState.HELD if job.held else JobState.PENDING, detail="")
            return
        if "node" in news and job.withdrawn:  # its node did not see the mark yet
            job.on_gpu = True
            ray.cancel(job.run)
            return
        if "node" in news:
            job.on_gpu, job.node_id = True, news["node_id"]
            _log.info("%s: on %s, GPU %s", job.request.label, news["node"], news["gpu"] or "none")
            place = {"node": news["node"], "gpu": news["gpu"], "started": time.time(), "ended": 0.0, "exit_code": None}
            self._note(job, state=JobState.RUNNING, detail="", **place)
            return
        self._note(job, exit_code=news.get("exit_code"))
        if "unfit" in news:
            self._avoid(job.node_id)
            self._again(job, JobState.NODE_FAIL, f"{job.record.node} cannot run it: {news['unfit']}")
        elif news["exit_code"] == 0:
            self._end(job, JobState.COMPLETED, "")
        elif news["exit_code"] == EXIT_INTERRUPTED and self._deadline < math.inf:
            self._end(job, JobState.TIMEOUT, "the allocation's time was too short for it; there is a checkpoint")
        elif news["exit_code"] == EXIT_INTERRUPTED:
            self._again(job, JobState.PREEMPTED, "interrupted, with a checkpoint")
        elif news["exit_code"] in FROM_OUTSIDE:
            self._again(job, JobState.NODE_FAIL, exit_text(news["exit_code"]))
        else:
            self._end(job, JobState.FAILED, exit_text(news["exit_code"]))

    def _avoid(self, node_id: str) -> None:
        """No more jobs for a node that cannot run one, as long as there is another: it would eat the queue."""
        self._unfit.add(node_id)
        if self._unfit >= {node["NodeID"] for node in ray.nodes() if node["Alive"]}:
            self._unfit.clear()

    def _again(self, job: _Job, state: JobState, why: str) -> None:
        """Put the job back into the queue, or give it up with this state when it has had its restarts."""
        if job.ending or (self._is_spent(job, state) and not job.withdrawn):
            self._end(job, state, f"{why}; given up after {job.record.restarts} restarts")
            return
        job.run, job.on_gpu = None, False
        if job.withdrawn:
            self._tend(partial(self._withdraw, job, False))
            self._note(job, state=JobState.HELD if job.held else JobState.PENDING, detail="")
        else:
            _log.warning("%s: %s; again", job.request.label, why)
            job.n_interruptions += state is JobState.PREEMPTED
            self._note(job, state=JobState.PENDING, detail=f"again, after: {why}", restarts=job.record.restarts + 1)

    def _is_spent(self, job: _Job, state: JobState) -> bool:
        """Whether the job has had its restarts after such ends: interruptions and losses are counted apart."""
        of_user, request = self.submission.options.max_restarts, job.request
        if state is JobState.PREEMPTED:
            return job.n_interruptions >= (request.max_restarts if of_user is None else of_user)
        n_losses = job.record.restarts - job.n_interruptions
        return n_losses >= (request.max_retries if of_user is None else of_user)

    def _end(self, job: _Job, state: JobState, detail: str) -> None:
        if job.ending and state is not JobState.COMPLETED:
            state, detail = JobState.CANCELLED, ""
        job.run, job.on_gpu = None, False
        _log.info("%s: %s %s", job.request.label, state, detail)
        self._note(job, state=state, detail=detail, ended=time.time())
        path = self.record.metrics_path(self.submission.handle(job.index))
        self._gauges.read(self.submission.handle(job.index), path)
        path.unlink(missing_ok=True)
        self.record.withdrawn_path(self.submission.handle(job.index)).unlink(missing_ok=True)

    # ------------------------------------------------------------------ what others can read

    def _note(self, job: _Job, **changes: Any) -> None:
        job.record = replace(job.record, **changes)
        self._changed = True

    def _publish(self) -> None:
        """The record, when it has changed or a heartbeat is due; now and then the gauges."""
        now = time.time()
        if self._changed or now - self._written >= HEARTBEAT_S:
            self._write(Phase.RUNNING)
        if now - self._measured >= METRICS_S:
            self._measured = now
            self._measure(now)

    def _measure(self, now: float) -> None:
        """The jobs' own numbers as gauges, and now and then in the Ray Job's log."""
        running = {self.submission.handle(job.index) for job in self.jobs if job.on_gpu}
        for handle in running:
            self._gauges.read(handle, self.record.metrics_path(handle))
        self._gauges.export([(job.request, job.record) for job in self.jobs], running)
        self._say_why_waiting()
        if now - self._told >= TELL_S:
            self._tell(self._gauges.summary(running) or "no numbers yet")

    def _say_why_waiting(self) -> None:
        """Let each job that does not start say what it waits for."""
        free, there, limit = ray.available_resources(), ray.cluster_resources(), self.record.limit()
        for job in self.jobs:
            if job.record.state is not JobState.PENDING or job.record.detail.startswith("again"):
                continue
            needs = {"GPU": float(job.request.n_gpus), "CPU": self.submission.options.cpus_per_job}
            why = telling.why_waiting(needs | dict(self.submission.options.resources), free, there)
            if limit is not None and (job.run is None or job.withdrawn):
                why = f"{telling.WAITS}its turn: the limit is {limit} jobs at once"
            if job.record.detail != why:
                self._note(job, detail=why)

    def _tell(self, *more: str) -> None:
        """Say what became of the submission so far, for people; a look at the nodes has nothing to say."""
        self._told = time.time()
        handle, readings = self.submission.handle, self._gauges.readings
        told = [
            telling.Told(request=job.request, record=job.record, readings=readings.get(handle(job.index), ()))
            for job in self.jobs
        ]
        if told:
            _log.info("%s", "; ".join([telling.line(self.submission.sweep, told), *more]))

    def _write(self, phase: Phase, message: str = "") -> None:
        now = time.time()
        jobs = tuple(job.record for job in self.jobs)
        state = DispatcherState(phase=phase, updated=now, message=message, nodes=self.nodes, jobs=jobs)
        self.record.put_state(self.submission.name, state)
        self._written, self._changed = now, False


def _first_sentence(error: Exception) -> str:
    """What happened, without Ray's ids and advice, which follow."""
    line = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return line.partition(". ")[0]


def main(arguments: Sequence[str]) -> int:
    """The exit code of `Dispatcher.run`; 2 when the submission cannot be read or Ray cannot be joined."""
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    path = Path(arguments[0])
    record = RayFiles(path.parents[2])
    try:
        submission = record.submission(path.stem)
    except OSError as error:
        _log.error("%s: %s; the sweep's folder must lie where every node sees it", path, error.strerror)
        return 2
    if submission is None:
        _log.error("no file %s; the sweep's folder must lie where every node sees it", path)
        return 2
    waiting = DispatcherState(
        phase=Phase.PROBING, updated=time.time(), jobs=tuple(JobRecord() for _ in submission.requests)
    )
    if not record.claim(submission.name, waiting):
        _log.error("%s was begun by another dispatcher", submission.name)
        return 2
    for module in (probe, task):  # by value: the raylet's Python need not have this package
        cloudpickle.register_pickle_by_value(module)
    try:
        ray.init(address=os.environ["RAY_ADDRESS"], log_to_driver=False, logging_level=logging.WARNING)
    except (RuntimeError, ConnectionError) as error:  # other versions than the cluster's; no head
        record.put_state(submission.name, replace(waiting, phase=Phase.REFUSED, message=str(error)))
        return 2
    return Dispatcher(record, submission).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
