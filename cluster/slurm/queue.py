"""What SLURM says of our jobs: one squeue and one sacct whatever their number, no oftener than is kind."""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

from cluster.backend import ClusterError, ClusterUnavailable, ClusterUsageError, JobState
from cluster.slurm.commands import Refused, ask
from cluster.slurm.parse import SACCT_FORMAT, SQUEUE_FORMAT, Row, job_ids, parse_sacct, parse_squeue

SHORTEST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 60.0
CALLS_SHARE: Final = 0.05  # share of the time for asking: a call that took 1 s is repeated after 20 s
COMES_BACK_S: Final = 30.0  # a lost or preempted job is shown so for some seconds before it waits again
_COMES_BACK: Final = (JobState.NODE_FAIL, JobState.PREEMPTED)


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What was seen of some arrays."""

    rows: Mapping[str, Row]  # by job
    without: str = ""  # what did not answer, for people

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
        return View(rows=rows, without="; ".join(filter(None, (no_controller, no_accounting))))

    def _squeue(self, ids: str) -> tuple[dict[str, Row] | None, str]:
        try:
            return parse_squeue(ask("squeue", "-h", "-a", "-O", SQUEUE_FORMAT, "-j", ids)), ""
        except Refused as error:
            if "Invalid job id" in str(error):  # all of them are forgotten by the controller
                return {}, ""
            return None, str(error)
        except ClusterUnavailable as error:
            return None, str(error)

    def _sacct(self, ids: str) -> tuple[dict[str, Row] | None, str]:
        if not self._accounting:
            return None, "accounting is off"
        try:
            return parse_sacct(ask("sacct", "-X", "-n", "-P", "-o", SACCT_FORMAT, "-j", ids)), ""
        except (Refused, ClusterUsageError) as error:
            self._accounting = "disabled" not in str(error)
            return None, str(error)
        except ClusterUnavailable as error:
            return None, str(error)

    # ------------------------------------------------------------------ one array

    def find(self, name: str) -> str:
        """The id of the array of this name, empty where SLURM knows none. Raises: ClusterUnavailable."""
        try:
            seen = ask("squeue", "-h", "-a", "-o", "%F", "--name", name).split()
        except Refused as error:
            raise ClusterUnavailable(str(error)) from None
        if not seen:
            with suppress(ClusterError):  # no accounting, no memory
                shown = ask("sacct", "-X", "-n", "-P", "-o", "JobID", "--name", name, "-S", "now-30days").split()
                seen = [job.partition("_")[0] for line in shown for job in job_ids(line)]
        return seen[0] if seen else ""

    def active(self, arrays: Sequence[str]) -> dict[str, tuple[int, int]]:
        """How many jobs of each array wait and how many run, of those that do. Raises: ClusterUnavailable."""
        rows, no_controller = self._squeue(",".join(arrays))
        if rows is None:
            raise ClusterUnavailable(no_controller)
        counts: dict[str, tuple[int, int]] = {}
        for array in arrays:
            states = [row.state for job, row in rows.items() if job.partition("_")[0] == array]
            running = states.count(JobState.RUNNING)
            if states:
                counts[array] = (len(states) - running, running)
        return counts


def merged(waiting: Mapping[str, Row] | None, ended: Mapping[str, Row] | None, now: float) -> dict[str, Row]:
    """One row a job out of squeue's and sacct's; None where one did not answer.

    squeue knows what waits and runs, sacct what has ended, some seconds late. A job that SLURM will start again is
    shown as lost or preempted by sacct for a moment, and is then not in squeue: it counts as waiting. One that sacct
    has as active and squeue does not show has just ended, or a controller that was killed forgot it, and sacct will
    call it RUNNING for ever: nobody knows.
    """
    rows = dict(ended or {})
    for job, row in rows.items():
        if row.state in _COMES_BACK and now - row.end < COMES_BACK_S:
            rows[job] = replace(row, state=JobState.PENDING, reason="expected back")
        elif waiting is not None and row.state.is_active():
            rows[job] = replace(row, state=JobState.UNKNOWN, reason="no longer in squeue")
        elif waiting is None and row.state.is_active():
            rows[job] = replace(row, reason="as last known: the controller does not answer")
    for job, row in (waiting or {}).items():
        known = rows.get(job)
        ending = row.word == "COMPLETING" and known is not None and known.state.is_finished()
        if not ending or known is None or known.state in _COMES_BACK:
            rows[job] = row
    return rows
