"""The seam to the places where jobs run. A backend knows commands, GPUs and folders; it knows nothing of cells.

Errors, by what the caller does next:

    ClusterError
    |- ClusterUsageError      the spec or the machine must be mended (message says what and how); nothing was submitted
    |  `- NotPermitted         only somebody else may do it; the message says who
    |- ClusterUnavailable     the scheduler did not answer: ask again later; says nothing about any job
    |  `- NothingSent         it did not answer what is asked before jobs are sent: it has none of them
    |     `- QueueFull         it takes none at present: a limit on submitted jobs is reached
    `- SubmissionIncomplete   some jobs were accepted; `.handles` names them
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Final


class ClusterError(Exception):
    """Root of what a backend raises."""


class ClusterUsageError(ClusterError):
    """The request or the machine must be mended first; nothing was submitted."""


class NotPermitted(ClusterUsageError):
    """The scheduler lets somebody else do this, and not us."""


class ClusterUnavailable(ClusterError):
    """The scheduler did not answer. That says nothing about a job."""


class NothingSent(ClusterUnavailable):
    """The scheduler did not answer, and none of a submission's jobs was sent to it."""


class QueueFull(NothingSent):
    """A limit on submitted jobs is reached; none of a submission's jobs was sent."""


class SubmissionIncomplete(ClusterError):
    """Only some jobs were accepted: `handles` maps their names to the scheduler's ids."""

    def __init__(self, message: str, handles: Mapping[str, str]) -> None:
        super().__init__(message, handles)
        self.message = message
        self.handles = dict(handles)

    def __str__(self) -> str:
        return self.message


class JobState(StrEnum):
    """What the scheduler says of a job. A job that it does not know (any more) is UNKNOWN, never FAILED."""

    PENDING = "PENDING"
    HELD = "HELD"
    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    TIMEOUT = "TIMEOUT"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    NODE_FAIL = "NODE_FAIL"
    PREEMPTED = "PREEMPTED"
    UNKNOWN = "UNKNOWN"

    def is_active(self) -> bool:
        """The job waits or runs."""
        return self in (JobState.PENDING, JobState.HELD, JobState.RUNNING)

    def is_finished(self) -> bool:
        """The job has ended and will not run again by itself."""
        return not self.is_active() and self is not JobState.UNKNOWN


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRequest:
    """What to run: a command on `n_gpus` GPUs in a process of its own, its output appended to `log`.

    `argv` ends with exit code 75 (EX_TEMPFAIL) when it was interrupted and wrote a checkpoint: the same command
    resumes from there. A backend starts it again by itself after such an end, `max_restarts` times in all, and, where
    it can tell, after its process or node was lost, `max_retries` times in all. The command reads CAUSALSWEEP_BACKEND,
    _SCHEDULER_JOB_ID, _NODE and _DEADLINE (Unix seconds) from its environment.
    """

    name: str  # unique in the sweep
    label: str  # for people
    argv: tuple[str, ...]
    log: Path  # in the sweep's folder: that tells a request of this folder from one of a folder that was copied
    time_s: float  # the planner's upper estimate
    n_gpus: int = 1
    max_restarts: int = 20  # the defaults are what backends did of themselves before a request said how often
    max_retries: int = 5
    env: Mapping[str, str] = field(default_factory=dict)


NOTHING_STARTS: Final = "the limit is 0: nothing may start until it is raised (causalsweep limit)"


@dataclass(frozen=True, slots=True, kw_only=True)
class HandleStatus:
    """What the scheduler says of one handle now."""

    state: JobState
    detail: str = ""  # the scheduler's own word for the state, and its reason of waiting
    node: str = ""
    gpu: str = ""  # CUDA_VISIBLE_DEVICES on that node, where known
    elapsed_s: float = 0.0
    restarts: int = 0
    exit_code: int | None = None  # once the command has ended, as in Popen.returncode; None where it is not known
    start: float = 0.0  # Unix seconds at which the scheduler expects a waiting job to start; 0.0 where it does not say
    is_unanswered: bool = False  # UNKNOWN because those who would know did not answer: the job is not missed


class Control(StrEnum):
    """What can be done to jobs that are already submitted."""

    CANCEL = "cancel"  # SIGTERM, a checkpoint, then the end
    KILL = "kill"  # at once
    HOLD = "hold"
    RELEASE = "release"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of `doctor`: what was looked at, what was found, and the remedy where it will hurt."""

    check: str
    ok: bool
    found: str
    remedy: str = ""


class AbstractCluster(ABC):
    """A place to run jobs. Every backend passes tests/contract/test_cluster.py.

    A backend is made from the sweep's folder and its options, keeps its own files under `folder/cluster/`, and can be
    made again at any time, in any process that sees the folder. Where its options choose one of several schedulers,
    the option is called `address`. What not every backend can do is a class of its own below, from which those that
    can inherit as well: `KnowsItsSlots`, `ChecksRequests`, `AvoidsNodes`,
    `FollowsUp`.
    """

    watch: tuple[str, ...] = ()  # lines for people: where else to look on while the jobs run

    @abstractmethod
    def submit(self, requests: Sequence[JobRequest], *, token: str) -> dict[str, str]:
        """The scheduler's id of each request by name. Nothing of the caller's need keep running.

        `token` is unique to this call; a call repeated with the same token submits nothing twice, also when the first
        one died or timed out half-way. Raises: ClusterUsageError, ClusterUnavailable, SubmissionIncomplete.
        """

    @abstractmethod
    def wake(self) -> None:
        """See to it that what was accepted and waits will be started, whatever of the backend has died meanwhile.

        Nothing is started twice, and what is held stays held. Raises: ClusterUnavailable.
        """

    @abstractmethod
    def poll(self, handles: Sequence[str]) -> dict[str, HandleStatus]:
        """The state of each handle, by a number of calls to the scheduler that does not grow with the handles.

        A handle that the scheduler does not show is UNKNOWN. Raises: ClusterUnavailable.
        """

    @abstractmethod
    def control(self, handles: Sequence[str], action: Control) -> None:
        """Do `action` to each handle that is still active; the others are left alone.

        Raises: ClusterUnavailable, ClusterUsageError (the backend cannot do it).
        """

    @abstractmethod
    def limit(self, n_jobs: int | None) -> None:
        """Let at most `n_jobs` of this sweep's jobs run at once from now on (None: as many as fit)."""

    @abstractmethod
    def doctor(self) -> list[Finding]:
        """What this backend allows and what will hurt, each with its remedy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slots:
    """How many jobs of one GPU (or CPU) each run side by side; `key` is the spec's key that says so."""

    n_jobs: int
    key: str
    has_gpus: bool
    gpu_name: str = ""  # as the driver calls it, where known


class KnowsItsSlots(ABC):
    """A backend that can be planned for without the spec's `cluster:`."""

    @abstractmethod
    def slots(self) -> Slots:
        """What the machine has."""


class ChecksRequests(ABC):
    """A backend that can say what `submit` would refuse, without sending the jobs."""

    @abstractmethod
    def check(self, requests: Sequence[JobRequest]) -> None:
        """Raises: ClusterUsageError, as `submit` would; ClusterUnavailable (it cannot be asked from here)."""


class AvoidsNodes:
    """A backend with the option `avoid`: a list of nodes not to use while there are others."""

    @staticmethod
    def avoiding(options: Mapping[str, Any], nodes: Iterable[str]) -> dict[str, Any]:
        """The options with `nodes` among those to avoid."""
        return {**options, "avoid": sorted({*options.get("avoid", ()), *nodes})}


class FollowsUp(ABC):
    """A backend that starts a job when others have ended."""

    @abstractmethod
    def submit_followup(self, request: JobRequest, *, after: Sequence[str], token: str) -> str:
        """The handle of a small job that starts when all jobs of `after` have ended, however they did.

        It gets no GPU and does not count against the limit of running jobs. Raises: as `AbstractCluster.submit`.
        """
