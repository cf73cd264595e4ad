"""Processes: who one is, and how a job's command is started, signalled and ended. What the backends share.

Linux only: a process is told from a later one with the same number by its start time in /proc (proc(5), field 22 of
`stat`) and by the boot of its machine. Read here, and not by psutil: its `create_time()` is a time of day, so that a
clock which is set makes a living process another one, and a job would be run beside itself.
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from cluster.backend import ClusterUnavailable, JobRequest

EXIT_INTERRUPTED: Final = 75  # a command wrote a checkpoint; the same command resumes from it
EXIT_SETUP: Final = 78  # the lines that the user has run before a command failed; sysexits.h, EX_CONFIG
FROM_OUTSIDE: Final = frozenset({-1, -2, -9, -15})  # SIGHUP, SIGINT, SIGKILL, SIGTERM: no fault of the command

ENV_BACKEND: Final = "CAUSALSWEEP_BACKEND"
ENV_SCHEDULER_JOB_ID: Final = "CAUSALSWEEP_SCHEDULER_JOB_ID"
ENV_NODE: Final = "CAUSALSWEEP_NODE"
ENV_DEADLINE: Final = "CAUSALSWEEP_DEADLINE"
ENV_LOCAL_JOB: Final = "CAUSALSWEEP_LOCAL_JOB"


@dataclass(frozen=True, slots=True)
class ProcessId:
    """One process, told from every other process of any machine."""

    host: str
    boot: str
    pid: int
    started: int  # clock ticks after boot

    @classmethod
    def of(cls, pid: int) -> ProcessId:
        """The process that has this number here and now. Raises: ProcessLookupError."""
        return cls(socket.gethostname(), cls.boot_id(), pid, _started(pid))

    @staticmethod
    def boot_id() -> str:
        """What tells this boot of this machine from every other."""
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()

    def is_here(self) -> bool:
        """Whether this is its machine: elsewhere nobody can say whether it lives."""
        return self.host == socket.gethostname()

    def is_alive(self) -> bool:
        """Whether it runs on this machine now; a zombie does not."""
        try:
            return self == ProcessId.of(self.pid)
        except ProcessLookupError:
            return False


def _started(pid: int) -> int:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        raise ProcessLookupError(f"no process {pid}") from None
    fields = stat.rpartition(")")[2].split()  # the name before it may hold anything
    if fields[0] in "ZX":
        raise ProcessLookupError(f"process {pid} has ended")
    return int(fields[19])


@dataclass(frozen=True, slots=True)
class MarkedCommand:
    """A command that runs here with a mark in its environment, and the process that started it, while that lives."""

    child: ProcessId
    parent: ProcessId | None


def marked_commands(variable: str, parent: str) -> dict[str, MarkedCommand]:
    """The commands that were started with `variable` in their environment, by its value: found without any file.

    Several processes inherit one value: the command is the oldest that leads a session. Its parent counts where
    `parent` is a word of that process's command line; otherwise init has adopted the command.
    """
    prefix, found = f"{variable}=", dict[str, ProcessId]()
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):  # it ended meanwhile, or it is somebody else's
            pid = int(path.parent.name)
            words = path.read_bytes().decode(errors="replace").split("\0")
            value = next((word.removeprefix(prefix) for word in words if word.startswith(prefix)), None)
            if value is not None and os.getsid(pid) == pid:
                process = ProcessId.of(pid)
                found[value] = min(process, found.get(value, process), key=lambda one: one.started)
    return {value: MarkedCommand(child, _parent(child.pid, parent)) for value, child in found.items()}


def _parent(pid: int, word: str) -> ProcessId | None:
    with suppress(OSError):
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        parent = ProcessId.of(int(stat.rpartition(")")[2].split()[1]))
        line = Path(f"/proc/{parent.pid}/cmdline").read_bytes().decode(errors="replace")
        return parent if word in line.split("\0") else None
    return None


def start_command(request: JobRequest, env: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """The job's command, running as the leader of a session of its own, its output appended to the job's log.

    Raises: OSError (no such program, no such folder).
    """
    request.log.parent.mkdir(parents=True, exist_ok=True)
    with open(request.log, "ab") as log:
        return subprocess.Popen(
            request.argv,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def signal_group(leader: int, signum: int) -> None:
    """Send `signum` to every process of the leader's group; nothing where none is left."""
    try:
        os.killpg(leader, signum)
    except ProcessLookupError:
        return


def exit_text(code: int) -> str:
    """How a process ended, for people: `exit code 3`, `killed by SIGKILL`. `code` is as in Popen.returncode."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"


def request_to_json(request: JobRequest) -> dict[str, Any]:
    """The request as plain JSON values, from which `cluster.files.get_record` makes it again."""
    return {**asdict(request), "log": str(request.log)}


@contextmanager
def only_sender(lock: Path, token: str) -> Iterator[None]:
    """While this is held no other process hands the jobs of `token` to a scheduler. Raises: ClusterUnavailable."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with open(lock, "w", encoding="ascii") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ClusterUnavailable(f"{token}: another process is submitting these jobs") from None
        yield


def was_made_in(folder: Path, request: JobRequest) -> bool:
    """Whether a request was made in the sweep's folder `folder`, by whatever path that was seen, and not in one of
    which `folder` is a copy, or which was moved: its log lies there, as all that it names."""
    return folder in request.log.parents or any(is_same(parent, folder) for parent in request.log.parents)


def is_same(one: Path, other: Path) -> bool:
    """Whether two paths lead to one folder."""
    try:
        return one.samefile(other)
    except OSError:
        return False
