"""notify.json: a command of the user's, run once for each event of a sweep, by whoever sees the event first.

Jobs look as they end, on whatever backend, and so do `run` and `status --watch`. `notified/EVENT-WHAT` is created by
the one process that runs the command; a command that fails is not tried again, and its output is in `logs/notify.log`.
"""

from __future__ import annotations

import logging
import os
import re
import subprocess
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from workers.files.document import NO_OTHER_KEYS, Format
from workers.files.folder import SweepFolder, replace_file

NOTIFY_SCHEMA_VERSION: Final = 1
_LONGEST_S: Final = 60.0  # a mail program that hangs must not keep a GPU
log = logging.getLogger(__name__)


class Event(StrEnum):
    """What a command is run for."""

    END = "end"  # every job of the last submission has ended
    FAILURE = "failure"  # a job has failed, once for each kind of fault
    BUDGET = "budget"  # the GPU-hours are spent


@dataclass(frozen=True, slots=True, kw_only=True)
class Notify:
    """The command, for a shell; empty where nobody is to be told."""

    __pydantic_config__ = NO_OTHER_KEYS

    command: str
    schema: int = NOTIFY_SCHEMA_VERSION


NOTIFY_FORMAT: Final = Format(kind=Notify, name="a command to notify by", version=NOTIFY_SCHEMA_VERSION)


def command_of(folder: SweepFolder) -> str:
    """The sweep's command; empty where there is none, or none that can be read, which the log says."""
    try:
        return NOTIFY_FORMAT.read(folder.notify).command
    except FileNotFoundError:
        return ""
    except (OSError, ValueError) as error:
        log.warning("%s; nobody is notified", error)
        return ""


def keep_command(folder: SweepFolder, command: str) -> None:
    """Make this the sweep's command. Raises: OSError."""
    if command != command_of(folder) or (command and not folder.notify.exists()):
        replace_file(folder.notify, NOTIFY_FORMAT.text(Notify(command=command)))


def notify(folder: SweepFolder, event: Event, what: str, message: str) -> bool:
    """Whether this call ran the sweep's command for the event: of all that see it, the first one does. `what` tells two
    events of a kind apart. Nothing is raised: a result must not depend on it."""
    command = command_of(folder)
    if not command or not _is_first(folder, f"{event}-{re.sub(r'[^A-Za-z0-9.-]', '-', what)}"):
        return False
    said = {"EVENT": str(event), "SWEEP": folder.root.name, "FOLDER": str(folder.root), "MESSAGE": message}
    env = {**os.environ, **{f"CAUSALSWEEP_{name}": value for name, value in said.items()}}
    try:
        with open(folder.logs / "notify.log", "ab") as output:
            shell = ["/bin/sh", "-c", command]
            ended = subprocess.run(
                shell, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=output, timeout=_LONGEST_S, check=False
            )
    except (OSError, subprocess.TimeoutExpired) as error:
        log.warning("notify: %s: %s", command, error)
        return True
    if ended.returncode:
        log.warning("notify: %s: exit code %d; see logs/notify.log", command, ended.returncode)
    return True


def _is_first(folder: SweepFolder, name: str) -> bool:
    """Whether this call created the mark of the event."""
    try:
        folder.notified.mkdir(exist_ok=True)
        os.close(os.open(folder.notified / name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
    except FileExistsError:
        return False
    except OSError as error:
        log.warning("notify: %s: %s", folder.notified, error.strerror)
        return False
    return True
