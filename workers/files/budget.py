"""budget.json: how many GPU-hours a sweep may spend, over all of its backends and submissions.

`submit` writes what the spec says (`jobs.max_gpu_hours`), `limit --gpu-hours` another number. Jobs read it before they
begin anything: there is no process that could tell them. A process on a CPU counts as one GPU.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final

from workers.files.document import NO_OTHER_KEYS, Format
from workers.files.folder import SweepFolder, replace_file
from workers.files.progress import AttemptState, attempts_in, read_progress

BUDGET_SCHEMA_VERSION: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """The hours that may be spent; None for as many as it takes. `from_spec`: what the spec said when that was read."""

    __pydantic_config__ = NO_OTHER_KEYS

    gpu_hours: float | None
    from_spec: float | None = None
    schema: int = BUDGET_SCHEMA_VERSION


BUDGET_FORMAT: Final = Format(kind=Budget, name="a budget", version=BUDGET_SCHEMA_VERSION)


def read_budget(folder: SweepFolder) -> Budget | None:
    """The sweep's budget, or None where it has none. Raises: OSError, NewerFile, NotThisFile."""
    try:
        return BUDGET_FORMAT.read(folder.budget)
    except FileNotFoundError:
        return None


def write_budget(folder: SweepFolder, budget: Budget) -> None:
    """Replace the sweep's budget. Raises: OSError."""
    replace_file(folder.budget, BUDGET_FORMAT.text(budget))


class Meter:
    """The GPU-hours that all attempts of a sweep have used so far; files that nobody writes any more are read once."""

    def __init__(self, folder: SweepFolder) -> None:
        self._folder = folder
        self._n_gpus: dict[str, int] = {}  # by job
        self._ended: dict[str, float] = {}  # seconds of attempts that are over, by the file's name

    def spent_h(self) -> float:
        """GPU-hours of every attempt, whether it ended or runs."""
        return sum(self._seconds(path.name, job) * self._gpus(job) for path, job, _ in attempts_in(self._folder)) / 3600

    def _seconds(self, name: str, job: str) -> float:
        if name in self._ended:
            return self._ended[name]
        progress = read_progress(self._folder.progress / name)
        if progress is None:
            return 0.0
        seconds = (progress.ended or progress.updated) - progress.started
        if progress.state is not AttemptState.RUNNING:
            self._ended[name] = seconds
        return seconds

    def _gpus(self, job: str) -> int:
        if job not in self._n_gpus:
            try:
                self._n_gpus[job] = int(json.loads(self._folder.job_file(job).read_bytes()).get("n_gpus", 1))
            except (OSError, ValueError, AttributeError, TypeError):
                self._n_gpus[job] = 1
        return self._n_gpus[job]


def why_reached(budget: Budget | None, spent_h: float) -> str:
    """Why nothing new may begin; empty where something may."""
    if budget is None or budget.gpu_hours is None or spent_h < budget.gpu_hours:
        return ""
    return f"the budget of {budget.gpu_hours:g} GPU-hours is spent ({spent_h:.2f} so far)"
