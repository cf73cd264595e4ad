"""submissions/rN.json: what was handed to which backend, written before the backend is called and again afterwards.

A record that names jobs but no handles is an intent whose process died in between, or whose scheduler did not answer:
its token finds the jobs again, because a backend submits nothing twice under one token.

Two commands never choose jobs of one sweep at the same time. Each creates a record of its own and then looks for an
older one whose process is still choosing. That holds because a number is never used twice: what is withdrawn leaves an
empty `rN.withdrawn` behind, which is there before the record is gone. Where somebody has moved a record away, its job
files still tell its number: another submission's jobs would share names, and so files, with jobs that may still run.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, TypeVar

from cluster.process import ProcessId
from orchestrator.errors import StorageError, SweepBusy
from workers.files.document import NO_OTHER_KEYS, Format
from workers.files.folder import SweepFolder, replace_file, visible_files
from workers.files.job import Job, planned_in
from workers.files.versions import NewerFile

SUBMISSION_SCHEMA_VERSION: Final = 2  # 1 has no `boot` and `started`
_T = TypeVar("_T")
_NUMBER: Final = re.compile(r"r[0-9]+")
_ABANDONED_S: Final = 600.0  # planning takes seconds: a claim of a process that cannot be looked up is void after these
_choosing: set[str] = set()  # the tokens of this process's own claims: its threads are told apart by them


class Stage(StrEnum):
    """How far a submission got."""

    PLANNING = "planning"  # its number is claimed; the jobs are being chosen
    INTENT = "intent"  # the jobs are written; the backend has them, or not
    SUBMITTED = "submitted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """One call of submit or resume."""

    __pydantic_config__ = NO_OTHER_KEYS

    number: int
    token: str
    backend: str
    options: Mapping[str, Any]
    reason: str  # submit | resume | auto
    created: float
    host: str
    pid: int
    boot: str = ""  # with `started`: what tells the process from a later one of the same number
    started: int = 0
    stage: Stage = Stage.PLANNING
    jobs: tuple[str, ...] = ()
    handles: Mapping[str, str] = field(default_factory=dict)  # job -> the scheduler's id
    followup: str = ""  # the scheduler's id of the job that resumes the sweep once these have ended
    message: str = ""
    schema: int = SUBMISSION_SCHEMA_VERSION

    @property
    def place(self) -> tuple[str, str]:
        """Where the jobs are: one scheduler answers for all submissions of one place."""
        return self.backend, str(self.options.get("address", ""))

    @property
    def is_unconfirmed(self) -> bool:
        """The backend may or may not have the jobs."""
        return self.stage is Stage.INTENT

    def job_name(self, index: int) -> str:
        """The name of this submission's job number `index`, counted from 1."""
        return f"r{self.number}-{index:04d}"


SUBMISSION_FORMAT: Final = Format(
    kind=Submission, name="a submission's record", version=SUBMISSION_SCHEMA_VERSION, unversioned=1
)


def read_submissions(folder: SweepFolder) -> list[Submission]:
    """Every submission, first come first. Raises: StorageError for a record that is none."""
    found = []
    for path in visible_files(folder.submissions, ".json"):
        if not _NUMBER.fullmatch(path.stem):
            continue
        try:
            found.append(SUBMISSION_FORMAT.read(path))
        except FileNotFoundError:
            continue  # withdrawn in this moment
        except NewerFile as error:
            raise StorageError(str(error)) from error
        except (OSError, ValueError) as error:
            what = f"{path}: {error.strerror}" if isinstance(error, OSError) else str(error)
            raise StorageError(f"{what}; restore the file, or move it away: its jobs are then unknown") from error
    return sorted(found, key=lambda submission: submission.number)


def read_job(folder: SweepFolder, name: str) -> Job:
    """The job in the job file of `name`, which a submission names. Raises: StorageError."""
    return _read(folder, name, Job.load)


def read_job_planned_in(folder: SweepFolder, name: str) -> Path:
    """The folder in which a job was planned: another one, where the sweep was copied or moved. Raises: StorageError."""
    return _read(folder, name, planned_in)


def _read(folder: SweepFolder, name: str, read: Callable[[Path], _T]) -> _T:
    path = folder.job_file(name)
    try:
        return read(path)
    except NewerFile as error:
        raise StorageError(str(error)) from error
    except (OSError, ValueError) as error:
        what = f"{path}: {error.strerror}" if isinstance(error, OSError) else str(error)
        raise StorageError(f"{what}; restore the file, or move its submission's record away") from error


def claim_submission(folder: SweepFolder, *, backend: str, options: Mapping[str, Any], reason: str) -> Submission:
    """A submission with a number that nobody else has.

    Raises: SweepBusy while another process is choosing jobs of this sweep; OSError.
    """
    me = ProcessId.of(os.getpid())
    while True:
        number = max(_numbers(folder), default=0) + 1
        name = re.sub(r"[^A-Za-z0-9_-]", "-", folder.root.name)
        claimed = Submission(
            number=number,
            token=f"{name}-r{number}-{secrets.token_hex(4)}",
            backend=backend,
            options=dict(options),
            reason=reason,
            created=time.time(),
            host=me.host,
            pid=me.pid,
            boot=me.boot,
            started=me.started,
        )
        if _create(folder, claimed):
            break
    _choosing.add(claimed.token)
    for other in read_submissions(folder):
        if other.number < number and other.stage is Stage.PLANNING and _is_alive(other):
            withdraw(folder, claimed)
            raise SweepBusy(
                f"{folder.root.name}: process {other.pid} on {other.host} is submitting this sweep right now; "
                "wait until it has ended"
            )
    return claimed


def save(folder: SweepFolder, submission: Submission, **changes: Any) -> Submission:
    """The submission with `changes`, as now written. Raises: OSError."""
    changed = replace(submission, **changes)
    if changed.stage is not Stage.PLANNING:
        _choosing.discard(changed.token)
    replace_file(_path(folder, changed.number), SUBMISSION_FORMAT.text(changed))
    return changed


def withdraw(folder: SweepFolder, submission: Submission) -> None:
    """Remove a submission of which the backend has nothing, and its job files: after the record, which names them."""
    _choosing.discard(submission.token)
    with contextlib.suppress(OSError):  # a full disk has room for an empty file, or the folder is gone
        _withdrawn(folder, submission.number).touch()
    with contextlib.suppress(OSError):  # read-only by now: a record of a process that has ended blocks nobody
        _path(folder, submission.number).unlink(missing_ok=True)
        for job in submission.jobs:
            folder.job_file(job).unlink(missing_ok=True)


def _numbers(folder: SweepFolder) -> Iterator[int]:
    """Every number that was ever claimed."""
    records = [path for suffix in (".json", ".withdrawn") for path in visible_files(folder.submissions, suffix)]
    for name in (*(path.stem for path in records), *(path.stem for path in visible_files(folder.jobs, ".json"))):
        number = name.partition("-")[0]  # a job's name is `rN-INDEX`
        if _NUMBER.fullmatch(number):
            yield int(number[1:])


def _create(folder: SweepFolder, submission: Submission) -> bool:
    """Whether this call created the record, whole at once; of several processes one does."""
    path = _path(folder, submission.number)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    replace_file(temporary, SUBMISSION_FORMAT.text(submission))
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink()
    if _withdrawn(folder, submission.number).exists():  # claimed and withdrawn since this number was chosen
        path.unlink()
        return False
    return True


def _is_alive(claim: Submission) -> bool:
    """Whether the process of `claim` may still be choosing jobs."""
    if claim.host != socket.gethostname() or not claim.boot:
        return time.time() - claim.created < _ABANDONED_S
    process = ProcessId(claim.host, claim.boot, claim.pid, claim.started)
    if process == ProcessId.of(os.getpid()):
        return claim.token in _choosing
    return process.is_alive()


def _path(folder: SweepFolder, number: int) -> Path:
    return folder.submissions / f"r{number}.json"


def _withdrawn(folder: SweepFolder, number: int) -> Path:
    return folder.submissions / f"r{number}.withdrawn"
