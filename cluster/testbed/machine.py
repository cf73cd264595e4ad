"""The machine under a testbed: its processes, found by the mark that they inherit, and its free ports."""

from __future__ import annotations

import os
import random
import signal
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from cluster.process import ProcessId

MARK: Final = "CAUSALSWEEP_TESTBED"  # environment of all that a testbed starts: MARK=FOLDER, MARK_NODE=FOLDER:NODE


@dataclass(frozen=True, slots=True)
class Process:
    """A process as it is now. Each word of `command` ends with a blank."""

    identity: ProcessId
    parent: int
    environ: frozenset[str]
    command: str


def processes() -> Iterator[Process]:
    """Every process that lives, as far as this user may look."""
    for process in psutil.process_iter(["ppid", "cmdline"]):
        command = process.info["cmdline"]
        try:
            # whole, not by psutil: it stops at the first gap, and slurmstepd writes its title over the beginning
            environ = Path(f"/proc/{process.pid}/environ").read_bytes().decode(errors="replace").split("\0")
            identity = ProcessId.of(process.pid)
        except OSError:
            continue  # it ended meanwhile, or is somebody else's
        if command is not None:
            words = "".join(f"{word} " for word in command)
            yield Process(identity, process.info["ppid"], frozenset(environ), words)


def family(*marks: str) -> list[Process]:
    """The processes with all these settings in their environment, and all that descend from them."""
    table = list(processes())
    mine = {process.identity.pid for process in table if process.environ.issuperset(marks)}
    while more := {process.identity.pid for process in table if process.parent in mine} - mine:
        mine |= more
    return [process for process in table if process.identity.pid in mine]


def send(process: ProcessId, signum: int) -> None:
    """Signal a process, unless it has ended."""
    if process.is_alive():
        with suppress(ProcessLookupError):
            os.kill(process.pid, signum)


def stop(targets: Iterable[ProcessId], *, patience_s: float = 10.0) -> None:
    """End these processes: asked first, made to after `patience_s`."""
    left = _signalled(targets, signal.SIGCONT, 0.0)
    kill(_signalled(left, signal.SIGTERM, patience_s))


def kill(targets: Iterable[ProcessId]) -> None:
    """SIGKILL these processes, and return when they have ended."""
    _signalled(targets, signal.SIGKILL, 5.0)


def _signalled(targets: Iterable[ProcessId], signum: int, limit_s: float) -> list[ProcessId]:
    """Those of `targets` that live on `limit_s` after the signal, or sooner, when none does."""
    left = [process for process in targets if process.is_alive()]
    for process in left:
        send(process, signum)
    end = time.monotonic() + limit_s
    while left and time.monotonic() < end:
        time.sleep(0.02)
        left = [process for process in left if process.is_alive()]
    return left


def free_ports(n_ports: int) -> int:
    """The first of `n_ports` ports on which nothing listens, below those that the kernel gives to clients.

    Any such block, so that clusters which come up at the same moment hardly ever choose the same one.
    Raises: OSError (none is left).
    """
    blocks = range(21000, 32000 - n_ports, n_ports)
    for first in random.sample(blocks, len(blocks)):
        if are_free(first, n_ports):
            return first
    raise OSError(f"no {n_ports} free ports in a row between 21000 and 32000")


def are_free(first: int, n_ports: int) -> bool:
    """Whether nothing listens on any of these ports."""
    return all(_is_free(port) for port in range(first, first + n_ports))


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
        return True
