"""The words of a status: cells and jobs as they are now. Cell state and job state are two things.

A cell is done when a valid shard says so, for every setting asked for. A job is what its cluster says, confirmed by its
heartbeat; not seeing a job is not a failure.
"""

from __future__ import annotations

import html
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from cluster.backend import JobState
from orchestrator.status.cell_state import CellState
from workers.files.failure import Failure
from workers.files.progress import Progress
from workers.files.shard import TornShard


@dataclass(frozen=True, slots=True, kw_only=True)
class CellStatus:
    """A cell's state, why, and the job that it belongs to (or that gave its row)."""

    state: CellState
    reason: str = ""
    job: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One run of a job. `progress` is None while it has only claimed its number."""

    number: int
    progress: Progress | None
    failure: Failure | None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStatus:
    """A job as its cluster, its heartbeat and its shards show it."""

    name: str
    label: str
    submission: int
    backend: str
    handle: str
    state: JobState
    detail: str = ""
    is_lost: bool = False  # nobody has seen it for so long that its cells are free again
    lost_in_s: float = math.inf  # until an unseen one is; infinite where those who could know of it did not answer
    node: str = ""
    gpu: str = ""
    attempts: tuple[Attempt, ...] = ()
    n_cells: int = 0
    n_settled: int = 0  # cells with all their rows
    n_gpus: int = 1
    elapsed_s: float = 0.0
    eta_s: float = 0.0
    wait_s: float = 0.0  # until its cluster expects to start it, where it says so
    predicted_s: float = 0.0
    exit_code: int | None = None  # its command's, where it has ended and its cluster knows
    failure: Failure | None = None  # the last attempt's, where it ended without finishing

    @property
    def holds_cells(self) -> bool:
        """Whether its unfinished cells may still be finished by it."""
        return not self.is_lost and not self.state.is_finished()

    @property
    def is_starting(self) -> bool:
        """Whether its process runs, and no cell is in its hands yet: it loads the model, or its environment."""
        last = self.attempts[-1].progress if self.attempts else None
        return self.state is JobState.RUNNING and (last is None or not last.has_begun)

    @property
    def has_begun(self) -> bool:
        """Whether a cell of it was ever in a worker's hands."""
        return self.n_settled > 0 or any(one.progress and one.progress.has_begun for one in self.attempts)

    @property
    def lost_s(self) -> float:
        """Work of attempts that ended before they were finished, after they last wrote something down."""
        ended = self.attempts[:-1] if self.holds_cells else self.attempts
        return sum(attempt.progress.unsaved_s for attempt in ended if attempt.progress)

    @property
    def progress(self) -> Progress | None:
        """The latest heartbeat."""
        return next((attempt.progress for attempt in reversed(self.attempts) if attempt.progress), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepStatus:
    """Everything that is known of a sweep at one moment."""

    name: str
    folder: str
    cells: Mapping[str, CellStatus]  # by cell key, in the grid's order
    jobs: tuple[JobStatus, ...]
    gpu_hours_used: float
    gpu_hours_to_come: float
    max_gpu_hours: float | None = None  # the budget
    eta_s: float  # until the waiting and running jobs end
    torn: tuple[TornShard, ...] = ()
    notes: tuple[str, ...] = ()  # what could not be seen, and what that means
    watch: tuple[str, ...] = ()  # where else to look on
    counts: Counter[CellState] = field(default_factory=Counter)

    @property
    def share_done(self) -> float:
        """Share of the work that is done, the steps of cells in flight counted in."""
        cells = float(self.n_settled)
        for job in self.jobs:
            if job.holds_cells and job.progress and job.progress.steps_total:
                left = job.n_cells - job.n_settled
                cells += left * min(job.progress.steps_done / job.progress.steps_total, 1.0)
        return cells / max(len(self.cells), 1)

    def __repr__(self) -> str:
        counts = ", ".join(f"{n:,} {state.label}" for state in CellState if (n := self.counts[state]))
        return f"<status of {self.name}: {counts}; {len(self.jobs)} jobs>"

    def _repr_html_(self) -> str:
        counts = "".join(f"<tr><th>{one.label}</th><td>{n:,}</td></tr>" for one in CellState if (n := self.counts[one]))
        return f"<b>{html.escape(self.name)}</b><table>{counts}</table>"

    @property
    def is_done(self) -> bool:
        """Whether every planned cell has all its rows, or none to have. Cells that coarse to fine leaves out for the
        time being wait for others, which are not settled then."""
        return self.n_settled == len(self.cells)

    @property
    def n_settled(self) -> int:
        """Cells for which nothing is left to do."""
        return sum(count for state, count in self.counts.items() if state.is_settled)

    @property
    def skipped(self) -> dict[str, int]:
        """Why cells were skipped, the most frequent reason first, and how many were."""
        reasons = Counter(cell.reason for cell in self.cells.values() if cell.state is CellState.SKIPPED)
        return dict(reasons.most_common())

    @property
    def jobs_to_blame(self) -> frozenset[str]:
        """The jobs, by name, that were the last to try a cell which is still to be run."""
        return frozenset(cell.job for cell in self.cells.values() if cell.state.is_open)

    @property
    def is_quiet(self) -> bool:
        """Whether no job waits or runs."""
        return not any(job.holds_cells for job in self.jobs)
