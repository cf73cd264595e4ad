"""What a job tells its user as it ends: that it failed, that the budget is spent, that it was the last one."""

from __future__ import annotations

import re
from collections import Counter
from typing import Final

from workers.files.budget import read_budget
from workers.files.failure import FailureClass
from workers.files.folder import SweepFolder, visible_files
from workers.files.gather import Shards
from workers.files.job import MAIN_SETTING, Job
from workers.files.notify import Event, command_of, notify
from workers.files.progress import AttemptState, Progress, attempts_in, read_progress

_NUMBER: Final = re.compile(r"r(\d+)-\d+")


def after_attempt(job: Job) -> None:
    """Notify of what the attempt of `job` that has ended now was the first to see."""
    folder = job.sweep_folder
    if not command_of(folder):
        return
    latest = latest_attempts(folder)
    own = latest.get(job.job)
    failure = own.failure if own else None
    if failure is not None and failure.kind is FailureClass.BUDGET:
        budget = read_budget(folder)
        notify(folder, Event.BUDGET, f"{budget.gpu_hours if budget else 0:g}", failure.message)
    elif failure is not None and not failure.kind.is_interruption:
        message = f"{job.job}: {failure.kind.label}: {(failure.message.splitlines() or [''])[0]}"
        notify(folder, Event.FAILURE, failure.fingerprint or job.job, message)
    number = submission_that_is_over(folder, latest)
    if number:
        notify(folder, Event.END, f"r{number}", summary(folder))


def latest_attempts(folder: SweepFolder) -> dict[str, Progress | None]:
    """The record of each job's last attempt, None where it has only claimed its number."""
    last = {job: path for path, job, _ in sorted(attempts_in(folder), key=lambda one: one[2])}
    return {job: read_progress(path) for job, path in last.items()}


def submission_that_is_over(folder: SweepFolder, latest: dict[str, Progress | None]) -> int:
    """The number of the last submission, where all its jobs have ended for good and none of an earlier one runs; else
    0. A job that was preempted runs again, and one that never began has not ended."""
    found = (_NUMBER.fullmatch(path.stem) for path in visible_files(folder.jobs, ".json"))
    names = {match[0]: int(match[1]) for match in found if match}
    last = max(names.values(), default=0)
    is_over = all(_is_over(latest.get(name)) for name, number in names.items() if number == last)
    runs = any(one is not None and one.state is AttemptState.RUNNING for one in latest.values())
    return last if last and is_over and not runs else 0


def _is_over(progress: Progress | None) -> bool:
    if progress is None or progress.state is AttemptState.RUNNING:
        return False
    failure = progress.failure
    return failure is None or not failure.kind.is_interruption or failure.kind is FailureClass.BUDGET


def summary(folder: SweepFolder) -> str:
    """How many cells have which rows, in one line."""
    table = Shards(folder).index()
    rows = zip(table["setting"].to_pylist(), table["status"].to_pylist(), strict=True)
    counts = Counter(status for setting, status in rows if setting == MAIN_SETTING)
    said = ", ".join(f"{counts[state]} {state}" for state in ("done", "failed", "skipped") if counts[state])
    return f"{folder.root.name}: {said or 'no cell is done'}"
