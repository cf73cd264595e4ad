"""The local backend's files, all below `folder/cluster/local/`, and what they say of a job.

    queue/TOKEN.json    one call of submit: its requests in order         written once, by the caller
    orders/HANDLE.json  what the user wants of a job: cancel, hold, ...   written by the callers of control
    runs/HANDLE.json    who runs it, where, since when, how it ended      written by the job's runner alone
    settings.json       workers and devices                               written by the callers of submit
    limit.json          how many may run at once                          written by the callers of limit
    dispatcher.json     who starts the waiting jobs                       written by the dispatcher that holds the lock

A handle is `TOKEN.INDEX`. A job is claimed by creating its run record, which only one process can. What was submitted
in another folder, of which this one is a copy, or before this one was moved, is never started from here.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Final

from cluster.backend import NOTHING_STARTS, Control, HandleStatus, JobRequest, JobState
from cluster.files import create_json, get_record, put_json, records_in
from cluster.process import (
    ENV_LOCAL_JOB,
    MarkedCommand,
    ProcessId,
    exit_text,
    marked_commands,
    request_to_json,
    was_made_in,
)

RUNNER: Final = "cluster.local.processes"  # the module of dispatchers and runners


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How many jobs run side by side, and the GPUs that they share (none: no GPU is assigned)."""

    workers: int
    devices: tuple[str, ...] = ()

    def gpus(self, slots: tuple[int, ...]) -> str:
        """CUDA_VISIBLE_DEVICES of a job in these slots; empty where there are no devices."""
        return ",".join(dict.fromkeys(self.devices[slot % len(self.devices)] for slot in slots)) if self.devices else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerRecord:
    """What a job's runner wrote down. Times are Unix seconds; `ended` is 0.0 while it runs."""

    runner: ProcessId
    slots: tuple[int, ...]
    gpu: str
    started: float
    child: ProcessId | None = None
    restarts: int = 0
    ended: float = 0.0
    exit_code: int = 0  # as in Popen.returncode
    cancelled: bool = False
    error: str = ""  # why the command could not be started

    def is_running(self) -> bool:
        """Whether it occupies its slots: not ended, and the runner or the command itself lives here."""
        return not self.ended and (self.runner.is_alive() or (self.child is not None and self.child.is_alive()))

    def status(self) -> HandleStatus:
        """What the record, and a look at the processes that it names, say of the job."""
        state, detail = self._state()
        return HandleStatus(
            state=state,
            detail=detail,
            node=self.runner.host,
            gpu=self.gpu,
            elapsed_s=(self.ended or time.time()) - self.started,
            restarts=self.restarts,
            exit_code=self.exit_code if self.ended and not self.error else None,
        )

    def _state(self) -> tuple[JobState, str]:
        if self.ended:
            if self.exit_code == 0 and not self.error and not self.cancelled:
                return JobState.COMPLETED, ""
            state = JobState.CANCELLED if self.cancelled else JobState.FAILED
            return state, self.error or exit_text(self.exit_code)
        if not self.runner.is_here():
            return JobState.UNKNOWN, f"it was started on {self.runner.host}; ask there"
        if self.is_running():
            return JobState.RUNNING, ""
        if self.runner.boot != ProcessId.boot_id():
            return JobState.NODE_FAIL, "this machine was restarted while it ran"
        return JobState.FAILED, "its processes are gone and left no exit code: killed from outside"


def adopted(command: MarkedCommand) -> RunnerRecord:
    """The record of a job that runs and whose own record is gone. Which slots it was given is not known any more."""
    started = Path(f"/proc/{command.child.pid}")
    return RunnerRecord(
        runner=command.parent or command.child,
        slots=(),
        gpu="",
        started=started.stat().st_mtime if started.exists() else time.time(),
        child=command.child,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Batch:
    """What one call of submit asked for."""

    requests: tuple[JobRequest, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Order:
    """What the user wants of a job."""

    action: Control


@dataclass(frozen=True, slots=True, kw_only=True)
class _Limit:
    """How many jobs may run at once."""

    n_jobs: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """The folder that a dispatcher serves: its record may have been copied with the folder."""

    folder: str = ""


class LocalFiles:
    """The files of one sweep's local backend. Creating the object touches nothing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "cluster" / "local"
        self._batches: dict[str, list[JobRequest]] = {}  # a batch never changes once it is written
        self._commands: tuple[float | None, dict[str, MarkedCommand]] = (None, {})

    @cached_property
    def lock(self) -> Path:
        """Held by the dispatcher while it works."""
        return self.root / "dispatcher.lock"

    @cached_property
    def log(self) -> Path:
        """What the dispatchers and runners themselves have to say."""
        return self.root / "dispatcher.log"

    # ------------------------------------------------------------------ what callers write

    def add(self, token: str, requests: list[JobRequest], settings: Settings) -> None:
        """Queue the requests, unless this token did so before."""
        put_json(self.root / "settings.json", asdict(settings))
        value = {"requests": [request_to_json(request) for request in requests]}
        create_json(self.root / "queue" / f"{token}.json", value)

    def give_order(self, handle: str, action: Control) -> None:
        """Write down what is wanted of a job; the last order counts."""
        put_json(self.root / "orders" / f"{handle}.json", {"action": action})

    def set_limit(self, n_jobs: int | None) -> None:
        """Write down how many jobs may run at once."""
        put_json(self.root / "limit.json", {"n_jobs": n_jobs})

    # ------------------------------------------------------------------ what the dispatcher and the runners write

    def announce_dispatcher(self, dispatcher: ProcessId) -> None:
        """Write down who starts the waiting jobs."""
        put_json(self.root / "dispatcher.json", asdict(dispatcher) | {"folder": str(self.folder)})

    def claim(self, handle: str, record: RunnerRecord) -> bool:
        """Whether the job is the caller's to run: true for one caller, ever."""
        return create_json(self._run(handle), asdict(record))

    def put_run(self, handle: str, record: RunnerRecord) -> None:
        """Replace the record of a job that the caller has claimed."""
        put_json(self._run(handle), asdict(record))

    # ------------------------------------------------------------------ what they say

    def has_dispatcher(self) -> bool:
        """Whether somebody is there to start what waits."""
        path = self.root / "dispatcher.json"
        dispatcher, place = get_record(path, ProcessId), get_record(path, _Place)
        is_here = place is not None and place.folder in ("", str(self.folder))
        return is_here and dispatcher is not None and dispatcher.is_alive()

    def has_settings(self) -> bool:
        """Whether anything was ever submitted here."""
        return (self.root / "settings.json").exists()

    def settings(self) -> Settings:
        """The settings of the latest submission; one job at a time where they cannot be read."""
        return get_record(self.root / "settings.json", Settings) or Settings(workers=1)

    def limit(self) -> int | None:
        """How many jobs may run at once now, None where nobody said."""
        limit = get_record(self.root / "limit.json", _Limit)
        return limit.n_jobs if limit else None

    def batch(self, token: str) -> list[JobRequest]:
        """The requests of one submission, none where there was no such."""
        if token not in self._batches:
            batch = get_record(self.root / "queue" / f"{token}.json", _Batch)
            if batch is None:
                return []
            self._batches[token] = list(batch.requests)
        return self._batches[token]

    def is_own(self, token: str) -> bool:
        """Whether the requests of a submission were made in this folder."""
        return all(was_made_in(self.folder, request) for request in self.batch(token)[:1])

    def request(self, handle: str) -> JobRequest | None:
        """The request behind a handle, or None where it was never submitted here."""
        token, _, index = handle.rpartition(".")
        batch = self.batch(token) if token and index.isdigit() else []
        return batch[int(index)] if index.isdigit() and int(index) < len(batch) else None

    def order(self, handle: str) -> Control | None:
        """The last order for a job; None where there is none or it was released."""
        order = get_record(self.root / "orders" / f"{handle}.json", _Order)
        return None if order is None or order.action is Control.RELEASE else order.action

    def run(self, handle: str) -> RunnerRecord | None:
        """The run record of a job, or None while it waits, and where it cannot be read.

        Two records are made here from the processes themselves: the runner was killed between the start of the command
        and its record, or somebody removed the record.
        """
        record = get_record(self._run(handle), RunnerRecord)
        if record is None:
            command = None if self._run(handle).exists() else self._lately().get(handle)
            return None if command is None else adopted(command)
        if record.child is None and not record.ended and record.runner.is_here():
            # looked for whether or not the runner seems alive: it may be gone when the caller asks the record
            command = self.commands().get(handle)
            return record if command is None else replace(record, child=command.child)
        return record

    def mark(self, handle: str) -> str:
        """What the environment of the job's command says. The folder is named by its inode: a copy has another one."""
        found = self.root.stat()
        return f"{found.st_dev}:{found.st_ino}:{handle}"

    def commands(self) -> dict[str, MarkedCommand]:
        """The commands of this sweep's jobs that run on this machine, by handle: found by their marks."""
        if not self.root.exists():
            return {}
        ours, found = self.mark(""), marked_commands(ENV_LOCAL_JOB, RUNNER)
        return {mark.removeprefix(ours): command for mark, command in found.items() if mark.startswith(ours)}

    def _lately(self) -> dict[str, MarkedCommand]:
        """As `commands`, looked up once a second at most: a status asks for every job that waits."""
        looked, found = self._commands
        if looked is None or time.monotonic() - looked > 1.0:
            found = self.commands()
            self._commands = time.monotonic(), found
        return found

    def claimed(self) -> set[str]:
        """The handles of all jobs that were ever started, here or in a folder of which this one is a copy; also where
        the record cannot be read, or is no file."""
        runs = self.root / "runs"
        names = os.listdir(runs) if runs.is_dir() else []
        return {name.removesuffix(".json") for name in names if name.endswith(".json")}

    def startable(self) -> Iterator[str]:
        """The handles of the jobs that wait and may start, first come first."""
        claimed = self.claimed()
        ordered = set(_stems(self.root / "orders"))
        for token in filter(self.is_own, self.tokens()):
            for index in range(len(self.batch(token))):
                handle = f"{token}.{index}"
                if handle not in claimed and (handle not in ordered or self.order(handle) is None):
                    yield handle

    def status(self, handle: str) -> HandleStatus:
        """What the files say of a job."""
        record = self.run(handle)
        if record is not None:
            return record.status()
        if self._run(handle).exists():
            unreadable = f"{self._run(handle)}: not readable; restore or remove it"
            return HandleStatus(state=JobState.UNKNOWN, detail=unreadable)
        if self.request(handle) is None:
            return HandleStatus(state=JobState.UNKNOWN, detail="never submitted here")
        match self.order(handle):
            case Control.HOLD:
                return HandleStatus(state=JobState.HELD)
            case Control.CANCEL | Control.KILL:
                return HandleStatus(state=JobState.CANCELLED, detail="before it started")
        return HandleStatus(state=JobState.PENDING, detail=self._why_waiting(handle))

    def _why_waiting(self, handle: str) -> str:
        """Why a waiting job will not start, where it will not."""
        if not self.is_own(handle.rpartition(".")[0]):
            return "it was submitted from another folder, before this one was copied or moved: resume submits it anew"
        if self.limit() == 0:
            return NOTHING_STARTS
        return "" if self.has_dispatcher() else "nobody is there to start it: the dispatcher was killed; resume"

    def _run(self, handle: str) -> Path:
        return self.root / "runs" / f"{handle}.json"

    def tokens(self) -> list[str]:
        """Every submission's token, oldest first."""
        files = [(path.stat().st_mtime_ns, path.stem) for path in records_in(self.root / "queue")]
        return [token for _, token in sorted(files)]


def _stems(folder: Path) -> Iterator[str]:
    return (path.name.removesuffix(".json") for path in records_in(folder))
