"""The Ray backend's files, all below `folder/cluster/ray/`, each with one writer and replaced whole.

    SUBMISSION.json             one call of submit: its requests in order    written once, by the caller
    state/SUBMISSION.json       what became of each job, and a heartbeat     written by the dispatcher alone
    ends/SUBMISSION.json        that its dispatcher died or was given up     written once, by the first who was told
    orders/SUBMISSION/N.json    one call of control                          written once, by the caller
    metrics/HANDLE.json         numbers that a running job publishes         written by the job
    withdrawn/HANDLE            a task in Ray's queue that is to do nothing  written by the dispatcher
    limit.json                  how many may run at once                     written by the callers of limit

A submission's name is made from the token alone, so the same token is the same submission; it is the Ray Job's
`submission_id` too. A handle is `SUBMISSION.INDEX`. Times are Unix seconds.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

from cluster.backend import ClusterUsageError, Control, HandleStatus, JobRequest, JobState
from cluster.files import create_json, get_record, put_json, records_in
from cluster.process import request_to_json, was_made_in

LIMIT: Final = "limit.json"
_STALE_S: Final = 60.0  # a dispatcher without a heartbeat for so long holds no share of the limit


@dataclass(frozen=True, slots=True, kw_only=True)
class RayJobOptions:
    """How every job of a submission runs."""

    cpus_per_job: float = 1.0
    max_restarts: int | None = None  # in place of a request's own limits of restarts and retries
    resources: Mapping[str, float] = field(default_factory=dict)  # Ray's custom resources


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """One call of submit."""

    name: str
    sweep: str
    submitted: float
    options: RayJobOptions
    requests: tuple[JobRequest, ...]

    def handle(self, index: int) -> str:
        """The handle of the request at `index`."""
        return f"{self.name}.{index}"

    def handles(self) -> dict[str, str]:
        """Each request's handle by its name."""
        return {request.name: self.handle(index) for index, request in enumerate(self.requests)}


class Phase(StrEnum):
    """How far a dispatcher is."""

    PROBING = "probing"
    REFUSED = "refused"  # the message says what to mend; no job was started
    RUNNING = "running"
    ENDED = "ended"  # every job is finished


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRecord:
    """What the dispatcher knows of one job."""

    state: JobState = JobState.PENDING
    detail: str = ""
    node: str = ""
    gpu: str = ""
    started: float = 0.0  # start of its latest run
    ended: float = 0.0
    restarts: int = 0
    exit_code: int | None = None

    def status(self, now: float) -> HandleStatus:
        """The same for the seam."""
        elapsed_s = (self.ended or now) - self.started if self.started else 0.0
        return HandleStatus(
            state=self.state,
            detail=self.detail,
            node=self.node,
            gpu=self.gpu,
            elapsed_s=elapsed_s,
            restarts=self.restarts,
            exit_code=self.exit_code,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeReport:
    """What the dispatcher saw of one node before it began; `problem` is empty where jobs can run there."""

    node: str
    problem: str = ""
    clock_skew_s: float = 0.0  # the node's clock less the head's


@dataclass(frozen=True, slots=True, kw_only=True)
class DispatcherState:
    """What a dispatcher says of itself and its jobs. `updated` is its heartbeat."""

    phase: Phase
    updated: float
    message: str = ""
    nodes: tuple[NodeReport, ...] = ()
    jobs: tuple[JobRecord, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One call of control: what to do to which of a submission's jobs."""

    action: Control
    indices: tuple[int, ...]


class RayFiles:
    """The files of one sweep. Creating the object touches nothing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "cluster" / "ray"

    def name(self, token: str) -> str:
        """The submission's name: readable, and no two sweeps on one cluster share it."""
        text = token if token.startswith(self.folder.name) else f"{self.folder.name}-{token}"
        readable = re.sub(r"[^A-Za-z0-9_-]+", "-", text)[:80]
        identity = hashlib.sha256(f"{self.folder}\n{token}".encode()).hexdigest()
        return f"{readable}-{identity[:8]}"

    def path(self, name: str) -> Path:
        """The file that a dispatcher is given."""
        return self.root / f"{name}.json"

    def metrics_path(self, handle: str) -> Path:
        """The file in which a running job may publish numbers."""
        return self.root / "metrics" / f"{handle}.json"

    def withdrawn_path(self, handle: str) -> Path:
        """The mark that tells a task in Ray's queue to end at once, without running its command."""
        return self.root / "withdrawn" / handle

    # ------------------------------------------------------------------ what callers write

    def add(self, token: str, requests: Sequence[JobRequest], options: RayJobOptions) -> Batch:
        """The submission of this token: the one that is there, or this one, now written.

        Raises: OSError, ClusterUsageError (the one that is there cannot be read).
        """
        name = self.name(token)
        raw = {
            "name": name,
            "sweep": self.folder.name,
            "submitted": time.time(),
            "options": asdict(options),
            "requests": [request_to_json(request) for request in requests],
        }
        create_json(self.path(name), raw)
        submission = self.submission(name)
        if submission is None:
            raise ClusterUsageError(f"{self.path(name)}: not readable; restore it, or remove it and submit again")
        return submission

    def give_order(self, name: str, order: Order) -> None:
        """Write down what is wanted of some jobs; orders are obeyed as they were given."""
        file = self.root / "orders" / name / f"{time.time_ns():020d}-{secrets.token_hex(4)}.json"
        put_json(file, {"action": order.action, "indices": order.indices})

    def set_limit(self, n_jobs: int | None) -> None:
        """Write down how many jobs of the sweep may run at once."""
        put_json(self.root / LIMIT, {"n_jobs": n_jobs})

    def put_end(self, name: str, end: HandleStatus) -> None:
        """Write down what became of a submission's active jobs: Ray may forget it. Raises: OSError."""
        create_json(self._end_path(name), {"state": end.state, "detail": end.detail})

    def forget(self, name: str) -> None:
        """Remove a submission of which no job was started."""
        for path in (self._end_path(name), self._state_path(name), self.path(name)):
            path.unlink(missing_ok=True)

    # ------------------------------------------------------------------ what the dispatcher writes

    def put_state(self, name: str, state: DispatcherState) -> None:
        """Replace what is known of a submission's jobs."""
        put_json(self._state_path(name), asdict(state))

    def claim(self, name: str, state: DispatcherState) -> bool:
        """Whether the submission is the caller's to run: true for one dispatcher, ever."""
        return create_json(self._state_path(name), asdict(state))

    # ------------------------------------------------------------------ what they say

    def submission(self, name: str) -> Batch | None:
        """The submission of this name, or None where there was none that can be read. Raises: OSError."""
        return get_record(self.path(name), Batch)

    def is_own(self, submission: Batch) -> bool:
        """Whether its requests were made in this folder, and not in one of which this is a copy."""
        return all(was_made_in(self.folder, request) for request in submission.requests[:1])

    def submissions(self) -> list[Batch]:
        """Every submission of the sweep, oldest first."""
        found = (self.submission(path.stem) for path in records_in(self.root) if path.name != LIMIT)
        return sorted((one for one in found if one), key=lambda one: (one.submitted, one.name))

    def state(self, name: str) -> DispatcherState | None:
        """What the dispatcher said last, or None where it has not begun."""
        return get_record(self._state_path(name), DispatcherState)

    def end(self, name: str) -> HandleStatus | None:
        """What became of the jobs that were active when the dispatcher died, or None where that is not known."""
        return get_record(self._end_path(name), HandleStatus)

    def states(self) -> Iterator[tuple[str, DispatcherState]]:
        """Every dispatcher of the sweep that ever began."""
        for path in records_in(self.root / "state"):
            state = self.state(path.stem)
            if state is not None:
                yield path.stem, state

    def claimed_before(self, submission: Batch) -> int:
        """Jobs of the sweep's earlier dispatchers that run or may: of one limit, they have the first share."""
        now, own = time.time(), (submission.submitted, submission.name)
        claimed = 0
        for name, state in self.states():
            if name == submission.name or state.phase is not Phase.RUNNING or now - state.updated > _STALE_S:
                continue
            other = self.submission(name)
            if other is not None and self.is_own(other) and (other.submitted, name) < own:
                claimed += sum(job.state in (JobState.PENDING, JobState.RUNNING) for job in state.jobs)
        return claimed

    def orders(self, name: str, seen: set[str]) -> list[Order]:
        """The orders that were given since, oldest first; their files are added to `seen`."""
        fresh = [path for path in records_in(self.root / "orders" / name) if path.name not in seen]
        seen.update(path.name for path in fresh)
        return [order for path in fresh if (order := get_record(path, Order))]

    def limit(self) -> int | None:
        """How many jobs of the sweep may run at once; None: as many as fit."""
        limit = get_record(self.root / LIMIT, dict[str, int | None])
        return limit.get("n_jobs") if limit else None

    def _end_path(self, name: str) -> Path:
        return self.root / "ends" / f"{name}.json"

    def _state_path(self, name: str) -> Path:
        return self.root / "state" / f"{name}.json"
