"""One job as a Ray task: a command in a fresh child process that cannot outlive it, nor leave anything running.

The Ray process around it touches no GPU, so it is used again for the next job: starting one costs a CPU-second.

Stdlib and ray alone: the dispatcher sends this module to the nodes by value, so the Python of a node's raylet needs no
installation of ours; the job's own interpreter is the one that its command names.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import ray

ENV_METRICS_FILE: Final = "CAUSALSWEEP_METRICS_FILE"
ENV_GUARDIAN: Final = (
    "CAUSALSWEEP_GUARDIAN"  # set for a command and all that it starts: the Ray process in charge of it
)
_GUARDIAN: Final = re.compile(rb"(?:^|\0)%b=(?P<mark>(?P<namespace>[!-~]+) (?P<pid>\d+) \d+)\0" % ENV_GUARDIAN.encode())
_SUBREAPER: Final = 36  # prctl(2), PR_SET_CHILD_SUBREAPER: orphans below this process become its children
POLL_S: Final = 0.2  # Ray delivers a cancellation between two bytecodes of the main thread, never into a system call

# Set in the child before it becomes the command: the kernel kills it with its parent, so that nothing keeps a GPU that
# Ray has handed on. Source: prctl(2), PR_SET_PDEATHSIG = 1. Not preexec_fn: a Ray worker has many threads.
LAUNCHER: Final = (
    "import ctypes, os, sys\n"
    "ctypes.CDLL(None).prctl(1, 9)\n"
    "if os.getppid() != int(sys.argv[1]): os._exit(74)\n"
    "try: os.execvp(sys.argv[2], sys.argv[2:])\n"
    "except OSError as error: os.write(2, f'{sys.argv[2]}: {error.strerror}\\n'.encode())\n"
    "os._exit(127)\n"
)


class CommandFailed(Exception):
    """The job's command ended with another exit code than 0."""


def run_job(job: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """First where the job runs (`node`, `node_id`, `gpu`), then how it ended (`exit_code`, or `unfit`: this node cannot
    run it). Or nothing but `declined`, where the dispatcher has withdrawn it since it was queued.

    `job` holds `argv`, `log`, `env`, `programs` (what a node must have), `withdrawn` (the mark that says so) and
    `grace_s`: what a cancelled command has between SIGTERM and SIGKILL.
    """
    if os.path.exists(job["withdrawn"]):
        yield {"declined": True}
        return
    context = ray.get_runtime_context()
    node_id = context.get_node_id()
    gpu = ",".join(context.get_accelerator_ids().get("GPU", []))
    node = node_name(node_id)
    yield {"node": node, "node_id": node_id, "gpu": gpu}
    missing = [program for program in job["programs"] if shutil.which(program) is None]
    if missing:
        yield {"unfit": f"{missing[0]}: no such program"}
        return
    env = {"CUDA_VISIBLE_DEVICES": gpu} | job["env"] | {"CAUSALSWEEP_NODE": node}
    try:
        command = Command(job["argv"], env, job["log"])
    except OSError as error:
        yield {"unfit": f"{error.filename}: {error.strerror}"}
        return
    try:
        while command.exit_code() is None:
            time.sleep(POLL_S)
    finally:  # also when cancelled: the main thread was interrupted
        command.end(job["grace_s"])
    code = command.exit_code()
    yield {"exit_code": code}
    if code:  # after the news: for the dashboard, which shows it as the task's error
        raise CommandFailed(f"exit code {code}; the last lines of {job['log']}:\n{last_lines(job['log'])}")


class Command:
    """A command in a child process. Its output goes to a log, appended, and to this process's own."""

    def __init__(self, argv: Sequence[str], env: Mapping[str, str], log: str) -> None:
        """Start it, bound to this process's life, in its process group: Ray ends the group with the process.

        Raises: OSError (no such log or folder).
        """
        _kill_orphans()
        ctypes.CDLL(None).prctl(_SUBREAPER, 1)
        self._log = open(log, "ab", buffering=0)  # noqa: SIM115 - closed by `end`, after the thread that writes it
        self._child = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", LAUNCHER, str(os.getpid()), *argv],
            env={**os.environ, **env, ENV_GUARDIAN: _mark(os.getpid())},
            cwd=os.path.dirname(log),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self._copier = threading.Thread(target=self._copy, daemon=True)
        self._copier.start()

    def exit_code(self) -> int | None:
        """As Popen.returncode: None while it runs."""
        return self._child.poll()

    def end(self, grace_s: float) -> None:
        """Stop it if it runs, asked first, so that it writes a checkpoint; and whatever it has left running."""
        if self._child.poll() is None:
            self._child.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self._child.wait(grace_s)
            self._child.kill()
            self._child.wait()
        _kill_descendants()
        self._copier.join(timeout=5)
        self._log.close()

    def _copy(self) -> None:
        assert self._child.stdout is not None
        with self._child.stdout as pipe:
            while data := os.read(pipe.fileno(), 65536):
                with suppress(OSError, ValueError):  # a full disk must not stop the job
                    self._log.write(data)
                with suppress(OSError):
                    os.write(1, data)


def node_name(node_id: str) -> str:
    """The node's name in Ray, with the beginning of its id where another node alive is called the same."""
    alive = {node["NodeID"]: node["NodeName"] for node in ray.nodes() if node["Alive"]}
    name = alive.get(node_id, node_id)
    return name if Counter(alive.values())[name] <= 1 else f"{name}#{node_id[:8]}"


def last_lines(path: str, *, n_bytes: int = 2000) -> str:
    """The end of a log, from the beginning of a line."""
    with open(path, "rb") as log:
        size = log.seek(0, os.SEEK_END)
        log.seek(max(0, size - n_bytes))
        text = log.read().decode(errors="replace")
    return text if size <= n_bytes else text.partition("\n")[2]


def _kill_orphans() -> None:
    """End what is left here of commands whose Ray process was killed: daemons that have left its process group."""
    here = os.readlink("/proc/self/ns/pid")
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):  # it ended meanwhile, or is somebody else's
            found = _GUARDIAN.search(path.read_bytes())
            if found and found["namespace"].decode() == here and found["mark"].decode() != _mark(int(found["pid"])):
                os.kill(int(path.parent.name), signal.SIGKILL)


def _mark(pid: int) -> str:
    """A process, as no other is marked: `NAMESPACE PID START`; without START where it has ended."""
    namespace = os.readlink("/proc/self/ns/pid")
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return f"{namespace} {pid}"
    return f"{namespace} {pid}" if stat[0] == "Z" else f"{namespace} {pid} {stat[19]}"


def _kill_descendants() -> None:
    """End what the command started and did not end itself: it would stay on a GPU that is handed on now."""
    pids = [os.getpid()]
    for pid in pids:
        for path in Path(f"/proc/{pid}/task").glob("*/children"):
            with suppress(OSError):
                pids += map(int, path.read_text().split())
    for pid in pids[1:]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for pid in pids[1:]:
        with suppress(ChildProcessError):  # some are only grandchildren now; they come to us and end as zombies
            os.waitpid(pid, 0)
