"""Where a submission was made: in this folder, in one of which it is a copy, or in this one before it was moved.

A backend has a job under the paths of the folder from which it was submitted. Such a job of another folder is not this
sweep's: a copy neither waits for it nor stops it, and a moved sweep stops it and submits its cells anew.
"""

from __future__ import annotations

from enum import StrEnum

from cluster.backend import HandleStatus, JobState
from cluster.process import is_same
from orchestrator.backends.submissions import SUBMISSION_FORMAT, Submission, read_job_planned_in
from workers.files.folder import SweepFolder


class Origin(StrEnum):
    """Where a submission was made."""

    HERE = "here"
    COPIED = "copied"  # in another folder, which still has it
    MOVED = "moved"  # in another folder, which is not there any more


def origin_of(folder: SweepFolder, submission: Submission) -> Origin:
    """Where `submission`, whose record lies in `folder`, was made. Raises: StorageError (no job file to read)."""
    if not submission.jobs:
        return Origin.HERE
    home = read_job_planned_in(folder, submission.jobs[0])
    if home == folder.root or is_same(home, folder.root):
        return Origin.HERE
    try:
        there = SUBMISSION_FORMAT.read(SweepFolder(home).submissions / f"r{submission.number}.json")
    except (FileNotFoundError, NotADirectoryError):
        return Origin.MOVED
    except (OSError, ValueError):
        return Origin.COPIED  # whoever it belongs to: nothing of it is touched from here
    return Origin.COPIED if there.token == submission.token else Origin.MOVED


def seen_from_a_copy(status: HandleStatus | None) -> HandleStatus:
    """What the copy of a sweep says of a job of the original: how it ended, or that the copy does not have it."""
    if status is not None and status.state.is_finished():
        return status
    what = "it is a job of the sweep of which this folder is a copy; resume submits its cells here"
    return HandleStatus(state=JobState.PREEMPTED, detail=what)
