"""Whether job files, submissions' records and progress files fit together."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.audit.evidence import Evidence
from orchestrator.audit.findings import Finding, damage, remark, unsettled
from orchestrator.backends.submissions import Stage, Submission
from workers.files.progress import PROGRESS_FORMAT, attempts_in
from workers.files.versions import NewerFile

_FROM_BACKUP = "restore it from a backup"


def of_records(evidence: Evidence, planned: frozenset[str]) -> Iterator[Finding]:
    """What is wrong with job files and records; `planned` has the keys of the planned cells. Raises: NewerFile."""
    jobs, submissions = evidence.jobs, evidence.submissions
    for where, problem in sorted(evidence.unreadable.items()):
        what = (
            "move it away: its jobs are then unknown"
            if where.startswith("submissions")
            else ("move its submission's record away: `resume` then runs again what has no rows")
        )
        yield damage(where, problem, f"{_FROM_BACKUP}, or {what}")
    for submission in submissions:
        yield from _of_submission(evidence, submission)
    named = {name for submission in submissions for name in submission.jobs}
    for name, job in jobs.items():
        if name not in named:
            yield _of_unnamed(evidence, name)
        n_strange = sum(cell.key not in planned for cohort in job.cohorts for cell in cohort.cells)
        if n_strange:
            yield remark(f"jobs/{name}.json", f"{n_strange} of its cells are not planned (any more)")


def _of_submission(evidence: Evidence, submission: Submission) -> Iterator[Finding]:
    where = f"submissions/r{submission.number}.json"
    for name in submission.jobs:
        if name not in evidence.jobs and f"jobs/{name}.json" not in evidence.unreadable:
            yield damage(where, f"it names the job {name}, whose file is gone", f"{_FROM_BACKUP}, or move {where} away")
    strange = sorted(set(submission.handles) - set(submission.jobs))
    if strange:
        yield damage(where, f"it has handles of jobs that it does not name: {', '.join(strange[:5])}", _FROM_BACKUP)
    if submission.stage is Stage.INTENT:
        yield unsettled(where, f"handed to {submission.backend}, and not confirmed", "`resume` finds its jobs")
    if submission.stage is Stage.PLANNING:
        yield remark(
            where, "a submit that chose no jobs yet: it runs, or was killed", "it blocks nobody once it is dead"
        )
    if submission.number in evidence.withdrawn:
        yield remark(where, "it is also marked as withdrawn: its process was killed in between")


def _of_unnamed(evidence: Evidence, name: str) -> Finding:
    """A job file that no record names."""
    where, number = f"jobs/{name}.json", name.partition("-")[0]
    if f"submissions/{number}.json" in evidence.unreadable:
        return remark(where, f"its record submissions/{number}.json cannot be read")
    if number[1:].isdecimal() and int(number[1:]) in evidence.withdrawn:
        return remark(where, "its submission was withdrawn: no backend has it", "it may be removed")
    return damage(
        where, "no record names it, so nobody knows whether it runs", f"{_FROM_BACKUP}: submissions/{number}.json"
    )


def of_progress(evidence: Evidence) -> Iterator[Finding]:
    """What is wrong with progress files: no cell is settled by one. Raises: NewerFile."""
    for path, job, number in attempts_in(evidence.folder):
        where = f"progress/{path.name}"
        try:
            said = PROGRESS_FORMAT.read(path)
        except NewerFile:
            raise
        except (OSError, ValueError) as error:
            is_claimed = path.exists() and path.stat().st_size == 0
            what = (
                "an attempt that died before it wrote anything" if is_claimed else str(error).removeprefix(f"{path}: ")
            )
            yield remark(where, what)
            continue
        if (said.job, said.attempt) != (job, number):
            yield remark(where, f"it is that of {said.job}, attempt {said.attempt}")
        elif job not in evidence.jobs and f"jobs/{job}.json" not in evidence.unreadable:
            yield remark(where, f"an attempt of {job}, which has no job file")
