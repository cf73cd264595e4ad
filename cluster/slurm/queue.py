"""What SLURM says of our jobs: one squeue and one sacct whatever their number, no oftener than is kind."""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

from cluster.backend import ClusterError, ClusterUnavailable, ClusterUsageError, JobState
from cluster.slurm.commands import Refused, ask
from cluster.slurm.parse import (
    SACCT_FORMAT,
    SQUEUE_FORMAT,
    Answer,
    Row,
    job_ids,
    listed,
    parse_sacct,
    parse_squeue,
)

SHORTEST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 60.0
CALLS_SHARE: Final = 0.05  # share of the time for asking: a call that took 1 s is repeated after 20 s
COMES_BACK_S: Final = 30.0  # a lost or preempted job is shown so for some seconds before it waits again
PING_TIMEOUT_S: Final = 5.0  # a controller that is up answers at once; squeue alone would try for half a minute
GARBLED: Final = "squeue's answer is empty or garbled"
_COMES_BACK: Final = (JobState.NODE_FAIL, JobState.PREEMPTED)


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What was seen of some arrays."""

    rows: Mapping[str, Row]  # by job
    without: str = ""  # what did not answer, for people
    is_whole: bool = True  # squeue answered, and all of its answer made sense: what is not in it does not run

    def row(self, array: str, task: int) -> Row | None:
        """What is known of one task; sacct tells of the tasks that never began under the array's own id."""
        own, whole = self.rows.get(f"{array}_{task}"), self.rows.get(array)
        return own or (replace(whole, is_shared=True) if whole else None)


@functools.cache
def shared_queue(slurm_conf: str) -> Queue:
    """The one queue that all backends of this process look at, so that none asks what another has just been told."""
    return Queue()


class Queue:
    """SLURM's queue and accounting, as far as they concern us."""

    def __init__(self) -> None:
        self._view = View(rows={})
        self._arrays: frozenset[str] = frozenset()
        self._good_until = 0.0
        self._accounting = True

    def forget(self) -> None:
        """Ask anew next time: something was just changed."""
        self._good_until = 0.0

    def view(self, arrays: frozenset[str]) -> View:
        """All jobs of these arrays that SLURM shows. Raises: ClusterUnavailable (neither command answered)."""
        if not arrays:
            return View(rows={})
        began = time.monotonic()
        if began < self._good_until and arrays <= self._arrays:
            return self._view
        view = self._ask(arrays)
        took_s = time.monotonic() - began
        pause_s = min(max(SHORTEST_PAUSE_S, took_s / CALLS_SHARE), LONGEST_PAUSE_S)
        self._view, self._arrays, self._good_until = view, arrays, time.monotonic() + pause_s
        return view

    def _ask(self, arrays: frozenset[str]) -> View:
        ids = ",".join(sorted(arrays, key=int))
        waiting, no_controller = self._squeue(ids)
        ended, no_accounting = self._sacct(ids)
        if waiting is None and ended is None:
            raise ClusterUnavailable(f"{no_controller}; {no_accounting}")
        rows = merged(waiting, ended, time.time())
        without = "; ".join(filter(None, (no_controller, no_accounting)))
        return View(rows=rows, without=without, is_whole=waiting is not None and waiting.is_whole)

    def _squeue(self, ids: str) -> tuple[Answer | None, str]:
        """What squeue lists, each task of an array by itself: tasks that wait for different reasons share no line."""
        try:
            _check_controller()
            answer = parse_squeue(ask("squeue", "-a", "-r", "-O", SQUEUE_FORMAT, "-j", ids))
        except Refused as error:
            if "Invalid job id" in str(error):  # all of them are forgotten by the controller
                return Answer(rows={}), ""
            return None, str(error)
        except ClusterUnavailable as error:
            return None, str(error)
        return answer, "" if answer and answer.is_whole else GARBLED

    def _sacct(self, ids: str) -> tuple[Answer | None, str]:
        if not self._accounting:
            return None, "accounting is off"
        try:
            answer = parse_sacct(ask("sacct", "-X", "-P", "-o", SACCT_FORMAT, "-j", ids))
            return answer, "" if answer else "sacct's answer is empty or garbled"
        except (Refused, ClusterUsageError) as error:
            self._accounting = "disabled" not in str(error)
            return None, str(error)
        except ClusterUnavailable as error:
            return None, str(error)

    # ------------------------------------------------------------------ one array

    def find(self, name: str) -> str:
        """The id of the array of this name, empty where SLURM knows none. Raises: ClusterUnavailable."""
        try:
            seen = listed("ARRAY_JOB_ID", ask("squeue", "-a", "-o", "%F", "--name", name))
        except Refused as error:
            raise ClusterUnavailable(str(error)) from None
        if seen is None or not all(job.isdigit() for job in seen):  # it may be there: it is not sent again
            raise ClusterUnavailable(GARBLED)
        if not seen:
            with suppress(ClusterError):  # no accounting, no memory
                shown = ask("sacct", "-X", "-n", "-P", "-o", "JobID", "--name", name, "-S", "now-30days").split()
                seen = [job.partition("_")[0] for line in shown for job in job_ids(line)]
        return seen[0] if seen else ""

    def active(self, arrays: Sequence[str]) -> dict[str, tuple[int, int]]:
        """How many jobs of each array wait and how many run, of those that do. Raises: ClusterUnavailable."""
        answer, no_controller = self._squeue(",".join(arrays))
        if answer is None or not answer.is_whole:
            raise ClusterUnavailable(no_controller)
        counts: dict[str, tuple[int, int]] = {}
        for array in arrays:
            states = [row.state for job, row in answer.rows.items() if job.partition("_")[0] == array]
            running = states.count(JobState.RUNNING)
            if states:
                counts[array] = (len(states) - running, running)
        return counts


def _check_controller() -> None:
    """Raises: ClusterUnavailable when `scontrol ping` says that no controller is up, or does not answer itself."""
    try:
        pinged = ask("scontrol", "ping", timeout_s=PING_TIMEOUT_S)
    except Refused:  # a version that cannot
        return
    states = re.findall(r"^Slurmctld\(.*\bis (UP|DOWN)", pinged, re.MULTILINE)
    if states and "UP" not in states:
        raise ClusterUnavailable(f"no controller is up: {'; '.join(pinged.split(chr(10))).strip('; ')}")


def merged(waiting: Answer | None, ended: Answer | None, now: float) -> dict[str, Row]:
    """One row a job out of squeue's and sacct's; None where one did not answer.

    squeue knows what waits and runs, sacct what has ended, some seconds late. A job that SLURM will start again is
    shown as lost or preempted by sacct for a moment, and is then not in squeue: it counts as waiting. One that sacct
    has as active and squeue does not show has just ended, or a controller that was killed forgot it, and sacct will
    call it RUNNING for ever: nobody knows.
    """
    rows = dict(ended.rows) if ended else {}
    is_whole = waiting is not None and waiting.is_whole
    for job, row in rows.items():
        if row.state in _COMES_BACK and now - row.end < COMES_BACK_S:
            rows[job] = replace(row, state=JobState.PENDING, reason="expected back")
        elif is_whole and row.state.is_active():
            rows[job] = replace(row, state=JobState.UNKNOWN, reason="no longer in squeue")
        elif row.state.is_active():
            rows[job] = replace(row, reason="as last known: the controller does not answer")
    for job, row in waiting.rows.items() if waiting else ():
        known = rows.get(job)
        ending = row.word == "COMPLETING" and known is not None and known.state.is_finished()
        if not ending or known is None or known.state in _COMES_BACK:
            rows[job] = row
    return rows
