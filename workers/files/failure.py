"""Why an attempt failed, and what follows from it: one enum that carries the policy of each class.

Workers class what ends them, backends are told how often they may start a job again, the orchestrator decides on
retries, and the command line words it all: each of them asks here. A retry counts whoever makes it, so the attempts
that a backend makes by itself and those of later jobs share one number.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

EXIT_FINISHED: Final = 0
EXIT_BAD_INPUT: Final = 65  # EX_DATAERR
EXIT_BUG: Final = 70  # EX_SOFTWARE
EXIT_OUT_OF_MEMORY: Final = 71  # EX_OSERR
EXIT_NODE: Final = 74  # EX_IOERR
EXIT_INTERRUPTED: Final = 75  # EX_TEMPFAIL; a checkpoint is written: the same command resumes
EXIT_BUDGET: Final = 77  # EX_NOPERM: the sweep's budget is spent; no backend starts it again by itself
EXIT_SETUP: Final = 78  # EX_CONFIG; a backend's word: the user's lines before the worker failed


@dataclass(frozen=True, slots=True, kw_only=True)
class _Policy:
    """What follows from a failure.

    `retries`: how often a cell is tried again after it, without a person. `exit_code`: how the worker's process ends
    (None: it lives on, or never says so itself). `stops_after`: this number of equal failures of unfinished jobs stops
    the sweep (0: they never do).
    """

    label: str
    retries: int = 0
    exit_code: int | None = None
    is_interruption: bool = False
    blames_host: bool = False
    needs_less_memory: bool = False
    stops_after: int = 0


class FailureClass(StrEnum):
    """Why an attempt failed, by what to do next."""

    policy: _Policy

    def __new__(cls, value: str, *policy: _Policy) -> FailureClass:
        """The class of this value, which carries its one policy."""
        member = str.__new__(cls, value)
        member._value_ = value
        (member.policy,) = policy
        return member

    # again with half the micro-batch and cohort: the same effective batch
    OUT_OF_MEMORY = (
        "out_of_memory",
        _Policy(label="out of memory", retries=3, exit_code=EXIT_OUT_OF_MEMORY, needs_less_memory=True),
    )
    # again elsewhere
    NODE = "node", _Policy(label="node", retries=3, exit_code=EXIT_NODE, blames_host=True)
    # the worker's process ended by itself before it could begin or say why: a node's fault, or every node's
    START = "start", _Policy(label="death at the start", retries=3, blames_host=True, stops_after=3)
    # the user's own lines before the worker (slurm.setup) failed: no node's fault, and every job's
    SETUP = "setup", _Policy(label="setup", exit_code=EXIT_SETUP, stops_after=3)
    # again from the checkpoint
    PREEMPTED = (
        "preempted",
        _Policy(label="preempted", retries=20, exit_code=EXIT_INTERRUPTED, is_interruption=True),
    )
    TIMEOUT = "timeout", _Policy(label="time limit", retries=20, exit_code=EXIT_INTERRUPTED, is_interruption=True)
    # again when a person asks
    CANCELLED = "cancelled", _Policy(label="cancelled", is_interruption=True)
    # again once the budget was raised
    BUDGET = "budget", _Policy(label="budget spent", exit_code=EXIT_BUDGET, is_interruption=True)
    BAD_INPUT = "bad_input", _Policy(label="bad input", exit_code=EXIT_BAD_INPUT)
    DIVERGED = "diverged", _Policy(label="diverged")  # one cell's loss is not finite
    BUG = "bug", _Policy(label="bug", exit_code=EXIT_BUG, stops_after=3)

    @classmethod
    def of_exit_code(cls, code: int | None) -> FailureClass | None:
        """The class that a worker's exit code stands for; None where the code says nothing."""
        return _OF_EXIT_CODE.get(code) if code is not None else None

    @property
    def label(self) -> str:
        """The class's name for people."""
        return self.policy.label

    @property
    def retries(self) -> int:
        """How often a cell is tried again after such failures, without a person."""
        return self.policy.retries

    @property
    def is_interruption(self) -> bool:
        """It was stopped from outside: no fault, and its unfinished cells are missing, not failed. An interrupted
        attempt that saved something costs none of the retries."""
        return self.policy.is_interruption

    @property
    def blames_host(self) -> bool:
        """It is a strike against the machine that it happened on."""
        return self.policy.blames_host

    @property
    def needs_less_memory(self) -> bool:
        """The next try takes half the memory."""
        return self.policy.needs_less_memory

    @property
    def stops_after(self) -> int:
        """The number of equal failures that stops the sweep; 0: none does."""
        return self.policy.stops_after

    @property
    def exit_code(self) -> int:
        """How a worker ends on it."""
        assert self.policy.exit_code is not None, f"no worker ends on {self.value}"
        return self.policy.exit_code


_OF_EXIT_CODE: Final = {
    kind.policy.exit_code: kind for kind in reversed(FailureClass) if kind.policy.exit_code is not None
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A classed failure. Equal fingerprints are the same fault, whatever the paths and numbers in it."""

    kind: FailureClass
    message: str
    traceback: str = ""
    fingerprint: str = ""
    cell_key: str = ""  # set when the failure is of one cell alone


def fingerprint(kind: FailureClass, message: str, traceback: str) -> str:
    """12 hexadecimal digits that equal faults share: numbers, addresses and folders are blanked out first."""
    frames = re.findall(r'File "[^"]*?([^"/]+)", line \d+, in (\S+)', traceback)
    text = re.sub(r"0x[0-9a-f]+|\d+|/[^\s:'\"]+", "#", message)
    return hashlib.sha256(repr((str(kind), frames, text)).encode()).hexdigest()[:12]
