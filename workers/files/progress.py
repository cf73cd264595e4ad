"""The progress file: an attempt's heartbeat, how far it is, and the class of its failure.

An attempt claims its number by creating `progress/JOB-ATTEMPT.json` exclusively, so two runs of one job (a requeued
copy and an orphan on a lost node, say) never share a file. The file is replaced every `heartbeat_s`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

from workers.files.document import Format
from workers.files.failure import Failure
from workers.files.folder import SweepFolder, visible_files

PROGRESS_SCHEMA_VERSION: Final = 1
_FILE_NAME: Final = re.compile(r"(?P<job>[A-Za-z0-9.-]+)-(?P<attempt>\d{4,})\.json")


class AttemptState(StrEnum):
    """Where an attempt is in its life."""

    RUNNING = "running"
    FINISHED = "finished"  # every cell of the job has its rows
    INTERRUPTED = "interrupted"  # stopped by a signal or the deadline, checkpointed, to be continued
    FAILED = "failed"


# What a backend tells a worker, all optional, through the environment.
ENV_BACKEND: Final = "CAUSALSWEEP_BACKEND"
ENV_SCHEDULER_JOB_ID: Final = "CAUSALSWEEP_SCHEDULER_JOB_ID"
ENV_NODE: Final = "CAUSALSWEEP_NODE"
ENV_DEADLINE: Final = "CAUSALSWEEP_DEADLINE"  # Unix seconds at which the scheduler will kill the job
ENV_METRICS_FILE: Final = "CAUSALSWEEP_METRICS_FILE"  # where to publish numbers for a dashboard (workers/job/gauges.py)


FIRST_PHASE: Final = "start"
GATE_NOTE: Final = "gate: "  # a note that begins so says why the model fails the gate


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What a progress file says. Times are Unix seconds."""

    job: str
    attempt: int
    state: AttemptState
    host: str
    pid: int
    backend: str
    scheduler_job_id: str
    gpu_name: str
    gpu_uuid: str  # CUDA_VISIBLE_DEVICES where no GPU can be asked
    started: float
    updated: float
    ended: float = 0.0
    cells_total: int = 0
    cells_done: int = 0
    cells_failed: int = 0
    cells_skipped: int = 0
    steps_total: int = 0  # cell-steps of the whole job
    steps_done: int = 0
    steps_per_s: float = 0.0  # cell-steps a second, recently
    pairs_per_s: float = 0.0  # training pairs x cells a second, recently
    eta_s: float = 0.0
    phase: str = ""  # start | train | evaluate
    running_cells: tuple[str, ...] = ()  # keys of the cells in flight
    shares: Mapping[str, float] = field(
        default_factory=dict
    )  # shares of the time: shared_forward, tails, rotation, ...
    gpu_utilisation: float = 0.0
    peak_memory_bytes: int = 0
    best_iia: Mapping[str, float] = field(default_factory=dict)  # experiment -> best IIA in this attempt
    metrics: Mapping[str, float] = field(default_factory=dict)  # the latest evaluation in training
    saved: float = 0.0  # when the last checkpoint or row was written
    failure: Failure | None = None
    cell_failures: tuple[Failure, ...] = ()
    notes: tuple[str, ...] = ()  # what the worker changed on its own: a halved micro-batch, a fallen-back engine
    schema: int = PROGRESS_SCHEMA_VERSION

    @property
    def has_begun(self) -> bool:
        """Whether a cell was ever in its hands: before that it starts up and loads the model."""
        return self.phase not in ("", FIRST_PHASE)

    @property
    def has_saved(self) -> bool:
        """Whether it wrote a checkpoint or a row."""
        return self.saved > 0

    @property
    def is_trained(self) -> bool:
        """Whether nothing but evaluation is left."""
        return 0 < self.steps_total <= self.steps_done

    @property
    def unsaved_s(self) -> float:
        """Seconds of work that is in no checkpoint and no shard: to be done again if the attempt ends here."""
        return 0.0 if self.state is AttemptState.FINISHED else max(0.0, self.updated - max(self.saved, self.started))

    def to_json(self) -> str:
        """The progress file's text."""
        return PROGRESS_FORMAT.text(self)


PROGRESS_FORMAT: Final = Format(kind=Progress, name="a progress file", version=PROGRESS_SCHEMA_VERSION, unversioned=1)


def claim_attempt(folder: SweepFolder, job: str) -> int:
    """The number of this run of `job`, counted from 1 and held by no other run on any node. Raises: OSError."""
    attempt = 1
    while True:
        path = folder.progress / f"{folder.attempt_name(job, attempt)}.json"
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
        except FileExistsError:
            attempt += 1
        else:
            return attempt


def attempts_in(folder: SweepFolder) -> Iterator[tuple[Path, str, int]]:
    """Every progress file with its job and the attempt's number, by name; other files are passed over."""
    for path in visible_files(folder.progress, ".json"):
        match = _FILE_NAME.fullmatch(path.name)
        if match:
            yield path, match["job"], int(match["attempt"])


def read_progress(path: Path) -> Progress | None:
    """The record in a progress file, or None where it is only claimed yet, torn, gone or of a newer version."""
    try:
        return PROGRESS_FORMAT.read(path)
    except (OSError, ValueError):
        return None
