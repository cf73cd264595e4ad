"""submissions/rN.json: what was handed to which backend, written before the backend is called and again afterwards.

A record that names jobs but no handles is an intent whose process died in between, or whose scheduler did not answer:
its token finds the jobs again, because a backend submits nothing twice under one token.
"""

from __future__ import annotations

import os
import re
import secrets
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Final

from orchestrator.errors import StorageError, SweepBusy
from workers.files.document import NO_OTHER_KEYS, Format
from workers.files.folder import SweepFolder, replace_file, visible_files
from workers.files.job import Job
from workers.files.versions import NewerFile

SUBMISSION_SCHEMA_VERSION: Final = 1
_FILE_NAME: Final = re.compile(r"r[0-9]+\.json")
_ABANDONED_S: Final = 600.0  # planning takes seconds; a claim this old on another host is a dead process


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
        if not _FILE_NAME.fullmatch(path.name):
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
    path = folder.job_file(name)
    try:
        return Job.load(path)
    except NewerFile as error:
        raise StorageError(str(error)) from error
    except (OSError, ValueError) as error:
        what = f"{path}: {error.strerror}" if isinstance(error, OSError) else str(error)
        raise StorageError(f"{what}; restore the file, or move its submission's record away") from error


def claim_submission(folder: SweepFolder, *, backend: str, options: Mapping[str, Any], reason: str) -> Submission:
    """A submission with a number that nobody else has.

    Raises: SweepBusy while another process is choosing jobs of this sweep; OSError.
    """
    while True:
        known = read_submissions(folder)
        number = max((submission.number for submission in known), default=0) + 1
        name = re.sub(r"[^A-Za-z0-9_-]", "-", folder.root.name)
        claimed = Submission(
            number=number,
            token=f"{name}-r{number}-{secrets.token_hex(4)}",
            backend=backend,
            options=dict(options),
            reason=reason,
            created=time.time(),
            host=socket.gethostname(),
            pid=os.getpid(),
        )
        if _create(folder, claimed):
            break
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
    replace_file(_path(folder, changed.number), SUBMISSION_FORMAT.text(changed))
    return changed


def withdraw(folder: SweepFolder, submission: Submission) -> None:
    """Remove a submission of which the backend has nothing, and its job files."""
    for job in submission.jobs:
        folder.job_file(job).unlink(missing_ok=True)
    _path(folder, submission.number).unlink(missing_ok=True)


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
    return True


def _is_alive(submission: Submission) -> bool:
    if submission.host != socket.gethostname():
        return time.time() - submission.created < _ABANDONED_S
    if submission.pid == os.getpid():
        return False
    try:
        os.kill(submission.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _path(folder: SweepFolder, number: int) -> Any:
    return folder.submissions / f"r{number}.json"
