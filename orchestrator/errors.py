"""What the orchestrator raises. The command line turns each into one message and an exit code: 2, or 1 where said.

SweepError
|- SpecError        the spec, the model or the task must be mended; nothing was written
|- SweepNotFound    there is no such sweep, job or cell; the message names what there is
|- SweepConflict    the sweep of that name was planned from other science; the message shows the difference
|- SweepBusy        another process is submitting this sweep right now, or jobs may still run: ask again later
|- StorageError     the disk is full or read-only; what was there is as it was
|- BudgetReached    the sweep's GPU-hours are spent or reserved (exit code 1): raise the budget, or leave it
`- RepeatedBug      the same bug ended several attempts (exit code 1): mend it, or force
"""

from __future__ import annotations

from typing import Any


class SweepError(Exception):
    """Root of what the orchestrator raises."""


class SpecError(SweepError, ValueError):
    """The spec, or what it names, must be mended first."""


class SweepNotFound(SweepError, LookupError):
    """No sweep, job or cell of that name."""


class SweepConflict(SweepError):
    """A sweep of this name holds results of other science."""


class SweepBusy(SweepError):
    """Somebody else is at it, or nobody can say whether a job still runs."""


class StorageError(SweepError):
    """A file could not be written; the old one is still whole."""


class BudgetReached(SweepError):
    """Nothing new may begin: the budget of GPU-hours is spent, or reserved by jobs that wait or run."""


class RepeatedBug(SweepError):
    """The same known fault would end the rest of the sweep too."""


def wrong_value(source: str, key: str, got: Any, right: str) -> str:
    """The one wording of a bad value: where it is, what was found there, and what is expected."""
    return f"{source}: key `{key}`: got {got!r}; {right}"
