"""What squeue, sacct and scontrol print, as values. A line that makes no sense is left out: it says nothing of a job.

Source: squeue(1) and sacct(1), JOB STATE CODES and JOB REASON CODES.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from cluster.backend import JobState

SQUEUE_FORMAT: Final = ",".join(
    f"{field}:|" for field in ("JobArrayID", "State", "Reason", "NodeList", "TimeUsed", "RestartCnt", "EndTime")
)
SACCT_FORMAT: Final = "JobID,State,ExitCode,NodeList,ElapsedRaw,End"

STATES: Final = {
    "PENDING": JobState.PENDING,
    "REQUEUED": JobState.PENDING,
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
    if state is JobState.PENDING and reason.startswith("JobHeld"):
        return JobState.HELD
    return state


def parse_squeue(text: str) -> dict[str, Row]:
    """The rows of `squeue -h -O SQUEUE_FORMAT` by job."""
    rows: dict[str, Row] = {}
    for line in text.splitlines():
        fields = line.split("|")
        if len(fields) < 7:
            continue
        shown, word, reason, node, elapsed, restarts, end = (field.strip() for field in fields[:7])
        row = Row(
            job="",
            state=state_of(word, reason),
            word=word,
            reason="" if reason in ("None", "(null)") else reason,
            node=node,
            elapsed_s=duration_s(elapsed),
            restarts=int(restarts) if restarts.isdigit() else 0,
            end=_time(end),
        )
        rows |= _by_job(row, shown)
    return rows


def parse_sacct(text: str) -> dict[str, Row]:
    """The rows of `sacct -X -n -P -o SACCT_FORMAT` by job. A job that ran several times is shown once, as it is now."""
    rows: dict[str, Row] = {}
    for line in text.splitlines():
        fields = line.split("|")
        if len(fields) < 6:
            continue
        shown, word, code, node, elapsed, end = (field.strip() for field in fields[:6])
        row = Row(
            job="",
            state=state_of(word),
            word=word,
            node="" if node == "None assigned" else node,
            elapsed_s=float(elapsed) if elapsed.isdigit() else 0.0,
            end=_time(end),
            exit_code=code,
        )
        rows |= _by_job(row, shown)
    return rows


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
