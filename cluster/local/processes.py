"""The processes of the local backend, each in a session of its own, so that no terminal's Ctrl-C reaches it.

    python -m cluster.local.processes dispatch FOLDER            starts what waits as slots come free; ends with it
    python -m cluster.local.processes run FOLDER HANDLE SLOTS    runs one job, obeys the orders, records its end

A runner needs no dispatcher: when the dispatcher is killed, running jobs continue and their ends are recorded.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Final

from cluster.backend import Control, JobRequest
from cluster.local.queue import RUNNER, LocalFiles, RunnerRecord, adopted
from cluster.process import (
    ENV_BACKEND,
    ENV_LOCAL_JOB,
    ENV_NODE,
    ENV_SCHEDULER_JOB_ID,
    EXIT_INTERRUPTED,
    ProcessId,
    signal_group,
    start_command,
)

TICK_S: Final = 0.1  # how long a free slot may stay free
_ENDS: Final = (Control.CANCEL, Control.KILL)
CANCEL_GRACE_S: Final = 60  # from SIGTERM to SIGKILL of a cancelled job


def ensure_dispatcher(folder: Path) -> None:
    """See to it that what waits will be started, by a process that is nobody's child. Raises: OSError."""
    _spawn(LocalFiles(folder), "dispatch", str(folder)).wait()  # it continues in a fork


def _spawn(queue: LocalFiles, *arguments: str) -> subprocess.Popen[bytes]:
    queue.root.mkdir(parents=True, exist_ok=True)
    # -P: a folder named `cluster` where the user happens to be must not be taken for this package
    argv = [sys.executable, "-P", "-m", RUNNER, *arguments]
    with open(queue.log, "ab") as log:
        return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)


# ---------------------------------------------------------------------- dispatcher


def dispatch(folder: Path) -> None:
    """Start the waiting jobs until none is left; nothing where another dispatcher is at it."""
    queue = LocalFiles(folder)
    while next(queue.startable(), None) is not None and queue.limit() != 0:
        with _only_dispatcher(queue) as alone:
            if not alone:
                return  # it looks at the queue once more after it lets go of the lock
            queue.announce_dispatcher(ProcessId.of(os.getpid()))
            Dispatcher(folder, queue).serve()


@contextmanager
def _only_dispatcher(queue: LocalFiles) -> Iterator[bool]:
    with open(queue.lock, "ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


class Dispatcher:
    """Keeps the slots filled. All that it knows it reads from the queue; it may die at any moment."""

    def __init__(self, folder: Path, queue: LocalFiles) -> None:
        self.folder = folder
        self.queue = queue
        self.starting: dict[str, tuple[subprocess.Popen[bytes], tuple[int, ...]]] = {}  # not claimed yet
        self.runners: list[subprocess.Popen[bytes]] = []
        self.ended: set[str] = set()

    def serve(self) -> None:
        """Start jobs until nothing waits (or the limit is 0)."""
        while self.queue.limit() != 0:
            self._settle()
            waiting = [handle for handle in self.queue.startable() if handle not in self.starting]
            if not waiting and not self.starting:
                return
            self._fill(waiting)
            time.sleep(TICK_S)

    def _settle(self) -> None:
        """Forget the runners that have claimed their job or ended."""
        claimed = self.queue.claimed()
        for handle, (runner, slots) in list(self.starting.items()):
            if handle in claimed:
                del self.starting[handle]
            elif runner.poll() is not None:  # it could not even begin: the log says why
                error = f"its runner ended before it began; see {self.queue.log}"
                gone = ProcessId.of(os.getpid())
                now = time.time()
                record = RunnerRecord(runner=gone, slots=slots, gpu="", started=now, ended=now, error=error)
                self.queue.claim(handle, record)
                del self.starting[handle]
        self.runners = [runner for runner in self.runners if runner.poll() is None]

    def _fill(self, waiting: list[str]) -> None:
        running = self._running()
        busy = {slot for slots in running for slot in slots}
        free = [slot for slot in range(self.queue.settings().workers) if slot not in busy]
        limit = self.queue.limit()
        n_more = len(waiting) if limit is None else max(0, limit - len(running))
        for handle in waiting[:n_more]:
            request = self.queue.request(handle)
            assert request is not None, handle
            if len(free) < request.n_gpus:
                return  # first come, first served: a wide job is not overtaken for ever
            slots, free = tuple(free[: request.n_gpus]), free[request.n_gpus :]
            runner = _spawn(self.queue, "run", str(self.folder), handle, ",".join(map(str, slots)))
            self.starting[handle] = (runner, slots)
            self.runners.append(runner)

    def _running(self) -> list[tuple[int, ...]]:
        """The slots of each job that runs or is about to."""
        running = [slots for _, slots in self.starting.values()]
        for handle in self.queue.claimed() - self.ended - self.starting.keys():
            record, is_own = self.queue.run(handle), self.queue.is_own(handle.rpartition(".")[0])
            if record is None or not is_own or not record.is_running():
                self.ended.add(handle)
            else:
                running.append(record.slots)
        return running


# ---------------------------------------------------------------------- runner


class _TakenOver(Exception):
    """Another runner has the job now."""


class Runner:
    """Runs one job: its command again and again while that ends with 75, and passes on what the user orders."""

    def __init__(self, queue: LocalFiles, handle: str, slots: tuple[int, ...]) -> None:
        self.queue = queue
        self.handle = handle
        self.child: subprocess.Popen[bytes] | None = None
        self.stop: signal.Signals | None = None  # what the command is to get, and so far got
        self.delivered: signal.Signals | None = None
        self.record = RunnerRecord(
            runner=ProcessId.of(os.getpid()),
            slots=slots,
            gpu=queue.settings().gpus(slots),
            started=time.time(),
        )

    def run(self) -> None:
        """Claim the job and run it to its end; nothing where another has claimed it."""
        request = self.queue.request(self.handle)
        assert request is not None, self.handle
        signal.signal(signal.SIGTERM, self._obey)
        signal.signal(signal.SIGALRM, self._lose_patience)
        if not self.queue.claim(self.handle, self.record):
            return
        command = self.queue.commands().get(self.handle)
        if command is not None:  # it runs already: somebody removed the record of who runs it
            self.queue.put_run(self.handle, replace(adopted(command), slots=self.record.slots, gpu=self.record.gpu))
            return
        if self.queue.order(self.handle) in _ENDS:  # it came while the job was being claimed
            self.stop = signal.SIGTERM
        try:
            code = self._run_command(request)
            is_unwanted = self.stop is not None or self.queue.order(self.handle) in _ENDS
            self.record = replace(self.record, exit_code=code, cancelled=is_unwanted and code != 0)
        except _TakenOver:
            return
        except OSError as error:
            self.record = replace(self.record, error=f"cannot start {request.argv[0]}: {error}")
        self.record = replace(self.record, ended=time.time())
        self._record()

    def _run_command(self, request: JobRequest) -> int:
        env = {
            **os.environ,
            **({"CUDA_VISIBLE_DEVICES": self.record.gpu} if self.record.gpu else {}),
            **request.env,
            ENV_BACKEND: "local",
            ENV_SCHEDULER_JOB_ID: self.handle,
            ENV_NODE: self.record.runner.host,
            ENV_LOCAL_JOB: self.queue.mark(self.handle),
        }
        for restarts in range(request.max_restarts + 1):
            if self.stop is not None:
                return -self.stop
            self._check_claim()
            self.child = start_command(request, env)
            self._deliver()
            self.record = replace(self.record, child=self._child_id(), restarts=restarts)
            self._record()
            code = self.child.wait()
            signal_group(self.child.pid, signal.SIGKILL)  # nothing of it keeps the GPU
            if code != EXIT_INTERRUPTED:
                break
        return code

    def _check_claim(self) -> None:
        """See to it that the record still says that this runner has the job. Raises: _TakenOver (another one has)."""
        if self.queue.claim(self.handle, self.record):
            return  # somebody removed it
        found = self.queue.run(self.handle)
        if found is None:  # somebody damaged it
            self._record()
        elif found.runner != self.record.runner:
            raise _TakenOver

    def _record(self) -> None:
        """Write down the job's state. Where it cannot be written, the mark of the command still tells whose it is."""
        try:
            self.queue.put_run(self.handle, self.record)
        except OSError as error:
            print(f"{self.handle}: its record cannot be written: {error}", file=sys.stderr, flush=True)

    def _child_id(self) -> ProcessId | None:
        assert self.child is not None
        try:
            return ProcessId.of(self.child.pid)
        except ProcessLookupError:
            return None  # it has ended already

    def _obey(self, _signum: int, _frame: FrameType | None) -> None:
        """An order came (or the machine is going down, which is a cancel)."""
        kill = self.queue.order(self.handle) is Control.KILL
        self.stop = signal.SIGKILL if kill else signal.SIGTERM
        self._deliver()
        signal.alarm(CANCEL_GRACE_S)

    def _lose_patience(self, _signum: int, _frame: FrameType | None) -> None:
        self.stop = signal.SIGKILL
        self._deliver()

    def _deliver(self) -> None:
        if self.child is not None and self.stop is not None and self.stop != self.delivered:
            self.delivered = self.stop
            signal_group(self.child.pid, self.stop)


def main(argv: list[str]) -> None:
    """Entry of both processes."""
    match argv:
        case ["dispatch", folder]:
            if os.fork() == 0:
                dispatch(Path(folder))
        case ["run", folder, handle, slots]:
            Runner(LocalFiles(Path(folder)), handle, tuple(map(int, slots.split(",")))).run()
        case _:
            raise SystemExit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
