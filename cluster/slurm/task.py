"""What a task of an array does on its node: runs its jobs, one process each, and resumes after an interruption.

Signals, and who handles them: SLURM sends SIGUSR2 to this process alone (`--signal=B:USR2@...`, before a time limit or
a preemption) and SIGTERM to every process (cancel, the end of a limit or of a grace time). Both are passed on to the
jobs, which write a checkpoint and end with 75. Then, unless SLURM is already ending this SLURM job for good, it is
given back to the queue with `scontrol requeue`, keeps its id, and resumes from the checkpoints when it starts again.

Source: sbatch(1) --signal; scancel(1); slurm.conf(5) KillWait, PreemptParameters, GraceTime.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Final

from cluster.backend import ClusterError, JobRequest
from cluster.files import get_record
from cluster.process import (
    ENV_BACKEND,
    ENV_DEADLINE,
    ENV_NODE,
    ENV_SCHEDULER_JOB_ID,
    EXIT_INTERRUPTED,
    exit_text,
    signal_group,
    start_command,
)
from cluster.slurm.commands import ask
from cluster.slurm.parse import parse_fields
from cluster.slurm.record import BatchFiles, Chunk, TaskRun
from cluster.slurm.setup import BEGIN, pass_on

REQUEUE_PATIENCE_S: Final = 60.0  # how long to ask a controller that does not answer

log = logging.getLogger(__name__)


def run_task(chunk_file: str) -> None:
    """Run the jobs of this task of the array described in `chunk_file`. Raises: SystemExit (not all ended with 0)."""
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.INFO)
    path = Path(chunk_file)
    submission, chunk = BatchFiles(path.parents[1]), get_record(path, Chunk)
    if chunk is None:
        raise SystemExit(f"{path}: not readable: the jobs of this task are not known; resume the sweep")
    with suppress(OSError):  # a full disk: the jobs' own words are worth more
        pass_on(submission, chunk, os.environ)
    print(BEGIN, flush=True)
    task = ArrayTask(submission, chunk, os.environ)
    code = task.run()
    if code:
        raise SystemExit(code)


@dataclass(slots=True)
class Running:
    """A job's command, running."""

    index: int
    request: JobRequest
    process: subprocess.Popen[bytes]
    gpus: tuple[str, ...]
    record: TaskRun


class ArrayTask:
    """The jobs of one SLURM job, each in a process of its own on GPUs of its own."""

    def __init__(self, submission: BatchFiles, chunk: Chunk, environ: Mapping[str, str]) -> None:
        self.submission = submission
        self.chunk = chunk
        self.environ = environ
        self.slurm_id = f"{environ['SLURM_ARRAY_JOB_ID']}_{environ['SLURM_ARRAY_TASK_ID']}"
        self.node = environ.get("SLURMD_NODENAME", "")
        self.restart = int(environ.get("SLURM_RESTART_COUNT", "0"))
        self.started = time.time()
        self.deadline = self.started + 60.0 * chunk.time_minutes
        self.free_gpus = [gpu for gpu in environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu]
        self.running: dict[int, Running] = {}  # by process number
        self.received: list[int] = []
        self.interrupted = False
        self.code = 0  # the first one's that failed, or was interrupted too often

    def run(self) -> int:
        """The exit code of the SLURM job: 0 when every job ended with 0, 75 when it is to be continued later."""
        for signum in (signal.SIGTERM, signal.SIGUSR2):
            signal.signal(signum, self._pass_on)
        signal.signal(signal.SIGCONT, signal.SIG_DFL)  # submitit set a handler; SLURM sends it before SIGTERM
        self._learn_deadline()
        requests = self.submission.requests()
        waiting = deque((index, requests[index]) for index in self._unfinished())
        while waiting or self.running:
            while waiting and not self.received and self._fits(waiting[0][1]):
                self._start(*waiting.popleft())
            if not self.running:
                self._give_up(waiting)
                break
            ended = self._next_end()
            if self._goes_on_here(ended):
                waiting.append((ended.index, ended.request))
        if not self.interrupted:
            return self.code
        self._requeue()
        return EXIT_INTERRUPTED

    def _give_up(self, waiting: deque[tuple[int, JobRequest]]) -> None:
        """Nothing runs and nothing can be started: a signal came first, or there are too few GPUs."""
        if waiting and self.received:
            self.interrupted = True
        elif waiting:
            needed = waiting[0][1].n_gpus
            log.error("%d GPUs needed, but CUDA_VISIBLE_DEVICES has %d", needed, len(self.free_gpus))
            self.code = self.code or 1

    def _unfinished(self) -> list[int]:
        """The requests that no earlier run of this SLURM job brought to their end."""
        indices = self.chunk.indices(int(self.environ["SLURM_ARRAY_TASK_ID"]))
        if len(indices) == 1:
            return list(indices)  # SLURM runs it again: so do we
        runs = self.submission.runs(indices)
        return [index for index in indices if index not in runs or not runs[index].ended or runs[index].again]

    def _fits(self, request: JobRequest) -> bool:
        return self.chunk.per_task == 1 or len(self.free_gpus) >= request.n_gpus

    # ------------------------------------------------------------------ one job

    def _start(self, index: int, request: JobRequest) -> None:
        n_gpus = len(self.free_gpus) if self.chunk.per_task == 1 else request.n_gpus
        gpus, self.free_gpus = tuple(self.free_gpus[:n_gpus]), self.free_gpus[n_gpus:]
        gpu = ",".join(gpus)
        record = TaskRun(node=self.node, gpu=gpu, restart=self.restart, started=time.time())
        env = {
            **self.environ,
            **({"CUDA_VISIBLE_DEVICES": gpu} if gpus else {}),
            **request.env,
            ENV_BACKEND: "slurm",
            ENV_SCHEDULER_JOB_ID: self.chunk.handle(index),
            ENV_NODE: self.node,
            ENV_DEADLINE: str(self.deadline),
        }
        try:
            process = start_command(request, env)
        except OSError as error:
            record = replace(record, ended=time.time(), error=f"cannot start {request.argv[0]}: {error}")
            self._write_down(index, record)
            log.error("%s: %s", request.name, record.error)
            self.free_gpus += gpus
            self.code = self.code or 127
            return
        self.running[process.pid] = Running(index, request, process, gpus, record)
        if self.received:  # it came while the process was being started
            signal_group(process.pid, self.received[-1])
        self._write_down(index, record)
        log.info("%s runs as process %d on GPU %s", request.name, process.pid, gpu or "none")

    def _write_down(self, index: int, record: TaskRun) -> None:
        """Write down a run, where there is room: this process alone can find and end the command, so it stays."""
        try:
            self.submission.put_run(index, record)
        except OSError as error:
            log.error("request %d: not written down: %s", index, error)

    def _next_end(self) -> Running:
        """The job that ended next, its end written down."""
        ended = None
        while ended is None:
            status = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
            assert status is not None
            ended = self.running.pop(status.si_pid, None)
            if ended is None:
                os.waitpid(status.si_pid, 0)  # not one of the jobs
        code = ended.process.wait()
        signal_group(ended.process.pid, signal.SIGKILL)  # nothing of it keeps the GPU
        self.free_gpus += ended.gpus
        log.info("%s: %s", ended.request.name, exit_text(code))
        again = code == EXIT_INTERRUPTED and not self._is_spent(ended)
        ended.record = replace(ended.record, ended=time.time(), exit_code=code, again=again)
        self._write_down(ended.index, ended.record)
        if code and not again:
            self.code = self.code or (code if code > 0 else 128 - code)
        return ended

    def _is_spent(self, ended: Running) -> bool:
        """Whether the job has had its restarts, here and in earlier runs of the SLURM job."""
        is_spent = self.submission.n_runs(ended.index) > ended.request.max_restarts
        if is_spent:
            log.error("%s: given up after %d restarts", ended.request.name, ended.request.max_restarts)
        return is_spent

    def _goes_on_here(self, ended: Running) -> bool:
        """Whether an interrupted job runs again at once: nobody ends the SLURM job, and half of its time is left."""
        if not ended.record.again:
            return False
        now = time.time()
        if self.received or self.deadline - now < (self.deadline - self.started) / 2:
            self.interrupted = True
            return False
        return True

    # ------------------------------------------------------------------ SLURM

    def _pass_on(self, signum: int, _frame: FrameType | None) -> None:
        self.received.append(signum)
        for job in list(self.running.values()):
            signal_group(job.process.pid, signum)

    def _learn_deadline(self) -> None:
        """When SLURM will end this SLURM job; the time limit that was asked for, where it does not answer."""
        try:
            end = parse_fields(ask("scontrol", "show", "job", "-o", self.slurm_id, timeout_s=10)).get("EndTime", "")
        except ClusterError as error:
            log.warning("end time not known: %s", error)
        else:
            self.deadline = float(end) if end.isdigit() else self.deadline

    def _requeue(self) -> None:
        """Give the SLURM job back to the queue, unless SLURM is already ending it for good."""
        end = time.monotonic() + REQUEUE_PATIENCE_S
        while True:
            try:
                state = parse_fields(ask("scontrol", "show", "job", "-o", self.slurm_id, timeout_s=10)).get("JobState")
                if state == "RUNNING":
                    ask("scontrol", "requeue", self.slurm_id, timeout_s=10)
                    log.info("requeued: the jobs resume from their checkpoints")
                else:
                    log.info("not requeued: it is %s", state)
                return
            except ClusterError as error:
                log.warning("requeue: %s", error)
                if time.monotonic() > end:
                    return
            time.sleep(2.0)
