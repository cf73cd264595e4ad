"""What squeue, sacct and scontrol print, as values. A line that makes no sense is left out: it says nothing of a job.

Both are asked for their header, because an empty answer without it is none: a wrapper or a full pipe has swallowed it.

Source: squeue(1) and sacct(1), JOB STATE CODES and JOB REASON CODES; `job_state_string` in src/common/
slurm_protocol_defs.c of SLURM 22.05, 23.02, 23.11, 24.05, 24.11, 25.05 and 25.11, which names one state more
(EXPEDITING); the columns' headers are in src/squeue/print.c, alike in all of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from cluster.backend import JobState
from cluster.slurm.reasons import is_hold

# The name comes last, because it may hold anything.
_SQUEUE_FIELDS: Final = (
    "JobArrayID",
    "State",
    "Reason",
    "NodeList",
    "TimeUsed",
    "RestartCnt",
    "EndTime",
    "StartTime",
    "Name",
)
SQUEUE_FORMAT: Final = ",".join(f"{field}:|" for field in _SQUEUE_FIELDS)
SQUEUE_HEADER: Final = "JOBID|STATE|"  # how the header of SQUEUE_FORMAT begins
SACCT_FORMAT: Final = "JobID,State,ExitCode,NodeList,ElapsedRaw,End,JobName"
SACCT_HEADER: Final = "JobID|State|"

STATES: Final = {
    "PENDING": JobState.PENDING,
    "REQUEUED": JobState.PENDING,
    "EXPEDITING": JobState.PENDING,  # 25.11: it is requeued at once, with the highest priority
    "REQUEUE_FED": JobState.PENDING,
    "REQUEUE_HOLD": JobState.HELD,
    "RESV_DEL_HOLD": JobState.HELD,
    "SPECIAL_EXIT": JobState.HELD,
    "CONFIGURING": JobState.RUNNING,
    "RUNNING": JobState.RUNNING,
    "COMPLETING": JobState.RUNNING,
    "STAGE_OUT": JobState.RUNNING,
    "SIGNALING": JobState.RUNNING,
    "RESIZING": JobState.RUNNING,
    "SUSPENDED": JobState.RUNNING,
    "STOPPED": JobState.RUNNING,
    "COMPLETED": JobState.COMPLETED,
    "FAILED": JobState.FAILED,
    "LAUNCH_FAILED": JobState.FAILED,
    "RECONFIG_FAIL": JobState.FAILED,
    "CANCELLED": JobState.CANCELLED,
    "REVOKED": JobState.CANCELLED,
    "TIMEOUT": JobState.TIMEOUT,
    "DEADLINE": JobState.TIMEOUT,
    "OUT_OF_MEMORY": JobState.OUT_OF_MEMORY,
    "NODE_FAIL": JobState.NODE_FAIL,
    "BOOT_FAIL": JobState.NODE_FAIL,
    "PREEMPTED": JobState.PREEMPTED,
}

_ID: Final = re.compile(r"(\d+)(?:_(?:(\d+)|\[([\d,:-]+)(?:%\d+)?\]))?(?:\+\d+)?(?:;\S+)?")
_THROTTLED: Final = re.compile(r"(\d+)%\d+")  # `4%1`: what a whole array is called where its tasks are not listed


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One job as a command shows it. Times are Unix seconds, 0.0 where there is none."""

    job: str  # 12, or 12_3 for a task of an array
    state: JobState
    word: str  # the scheduler's own
    reason: str = ""  # why it waits
    node: str = ""
    elapsed_s: float = 0.0
    restarts: int = 0
    end: float = 0.0
    start: float = 0.0  # when SLURM expects to start it, while it waits
    name: str = ""
    exit_code: str = ""
    is_shared: bool = False  # one line stands for several tasks of an array, none of which has begun


def job_ids(text: str) -> list[str]:
    """The jobs that an id stands for: `12_[0-2,5%4]` is 12_0, 12_1, 12_2 and 12_5; none where it is no id.

    An array that is shown whole, `12%4` or `12`, stands for itself. A cluster's name after `;` is dropped.
    """
    throttled = _THROTTLED.fullmatch(text)
    if throttled:
        return [throttled[1]]
    match = _ID.fullmatch(text)
    if match is None:
        return []
    job, task, ranges = match.groups()
    if ranges is None:
        return [job if task is None else f"{job}_{task}"]
    try:
        return [f"{job}_{index}" for part in ranges.split(",") for index in _range(part)]
    except ValueError:
        return []


def _range(text: str) -> range:
    """The numbers of `3`, `3-7` or `0-8:2`. Raises: ValueError."""
    span, _, step = text.partition(":")
    first, _, last = span.partition("-")
    return range(int(first), int(last or first) + 1, int(step or 1))


def compressed(tasks: Iterable[int]) -> str:
    """`0-2,5` of 0, 1, 2, 5: the short form that scancel and scontrol take in brackets."""
    parts: list[list[int]] = []
    for task in sorted(tasks):
        if parts and task == parts[-1][1] + 1:
            parts[-1][1] = task
        else:
            parts.append([task, task])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)


def state_of(word: str, reason: str = "") -> JobState:
    """The state that the scheduler's word stands for; UNKNOWN for one that is new to us.

    sacct writes `CANCELLED by 0`, and a `+` where a column was too narrow.
    """
    words = word.split()
    state = STATES.get(words[0].rstrip("+").upper(), JobState.UNKNOWN) if words else JobState.UNKNOWN
    return JobState.HELD if state is JobState.PENDING and is_hold(reason) else state


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a command listed. A job that is not in it is missed only where `is_whole`: every line made sense."""

    rows: dict[str, Row]
    is_whole: bool = True


def parse_squeue(text: str) -> Answer | None:
    """The rows of `squeue -r -O SQUEUE_FORMAT` by job; None where it is no answer of squeue's.

    A job that squeue lists is waiting or running, whatever a newer version calls its state.
    """
    lines = listed(SQUEUE_HEADER, text)
    if lines is None:
        return None
    rows: dict[str, Row] = {}
    is_whole = text.endswith("\n")
    for line in lines:
        found = _squeue_row(line)
        is_whole = is_whole and bool(found)
        rows |= found
    return Answer(rows=rows, is_whole=is_whole)


def _squeue_row(line: str) -> dict[str, Row]:
    fields = [field.strip() for field in line.split("|", 8)]
    if len(fields) < 9:
        return {}
    shown, word, reason, node, elapsed, restarts, end, start, name = fields
    state = state_of(word, reason)
    if state is JobState.UNKNOWN:
        state = JobState.RUNNING if node else JobState.PENDING
    row = Row(
        job="",
        state=state,
        word=word,
        reason="" if reason in ("None", "(null)") else reason,
        node=node,
        elapsed_s=duration_s(elapsed),
        restarts=int(restarts) if restarts.isdigit() else 0,
        end=_time(end),
        start=0.0 if state is JobState.RUNNING else _time(start),
        name=name.removesuffix("|"),
    )
    return _by_job(row, shown)


def parse_sacct(text: str) -> Answer | None:
    """The rows of `sacct -X -P -o SACCT_FORMAT` by job; None where it is no answer of sacct's.

    A job that ran several times is shown once, as it is now.
    """
    lines = listed(SACCT_HEADER, text)
    if lines is None:
        return None
    rows: dict[str, Row] = {}
    is_whole = text.endswith("\n")
    for line in lines:
        fields = [field.strip() for field in line.split("|", 6)]
        found = _sacct_row(*fields) if len(fields) == 7 else {}
        is_whole = is_whole and bool(found)
        rows |= found
    return Answer(rows=rows, is_whole=is_whole)


def _sacct_row(shown: str, word: str, code: str, node: str, elapsed: str, end: str, name: str) -> dict[str, Row]:
    row = Row(
        job="",
        state=state_of(word),
        word=word,
        node="" if node == "None assigned" else node,
        elapsed_s=_time(elapsed),
        end=_time(end),
        exit_code=code,
        name=name,
    )
    return _by_job(row, shown)


def listed(header: str, text: str) -> list[str] | None:
    """The lines below the one that begins with `header`; None where there is none."""
    lines = iter(line.strip() for line in text.splitlines())
    is_answer = any(line.startswith(header) for line in lines)
    return [line for line in lines if line] if is_answer else None


def _by_job(row: Row, shown: str) -> dict[str, Row]:
    """The row of each job that the id `shown` stands for."""
    jobs = job_ids(shown)
    return {job: replace(row, job=job, is_shared=len(jobs) > 1) for job in jobs}


def parse_fields(text: str) -> dict[str, str]:
    """The `Key=Value` pairs of one line of `scontrol show ... -o`, values without blanks."""
    return dict(word.split("=", 1) for word in text.split() if "=" in word)


def parse_config(text: str) -> dict[str, str]:
    """The `Key = value` lines of `scontrol show config`."""
    pairs = (line.partition("=") for line in text.splitlines())
    return {key.strip(): value.strip() for key, equals, value in pairs if equals}


def duration_s(text: str) -> float:
    """Seconds of SLURM's `[DAYS-]HOURS:MINUTES:SECONDS` (or `MINUTES:SECONDS`, `MINUTES`); 0.0 where it is none.

    `UNLIMITED` and `INFINITE` are infinite. Source: sbatch(1), --time.
    """
    if text.upper() in ("UNLIMITED", "INFINITE"):
        return float("inf")
    match = re.fullmatch(r"(?:(\d{1,9})-)?(\d{1,9})(?::(\d{1,9}))?(?::(\d{1,9}))?", text)
    if match is None:
        return 0.0
    days, *parts = (int(part) if part else None for part in match.groups())
    first, second, third = parts
    assert first is not None
    if days is not None:
        return float(days * 86400 + first * 3600 + (second or 0) * 60 + (third or 0))
    if third is not None:
        return float(first * 3600 + (second or 0) * 60 + third)
    return float(first * 60 + (second or 0))


def _time(text: str) -> float:
    return float(text) if text.isdigit() else 0.0
