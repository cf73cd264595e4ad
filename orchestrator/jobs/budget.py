"""The sweep's budget of GPU-hours: what is spent, what jobs that wait or run reserve, and what may still begin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from orchestrator.errors import BudgetReached, StorageError
from orchestrator.plan.packing import PlannedJob
from orchestrator.status.states import SweepStatus
from workers.files.budget import Budget, read_budget, write_budget
from workers.files.folder import SweepFolder
from workers.files.job import Job
from workers.files.versions import NewerFile

_T = TypeVar("_T", bound=tuple[Job, PlannedJob])


def keep_spec_budget(folder: SweepFolder, max_gpu_hours: float | None) -> None:
    """Make the spec's budget the sweep's, where the spec says another one than it did. Raises: StorageError."""
    budget = budget_of(folder)
    before = budget.from_spec if budget else None
    if before != max_gpu_hours:
        _write(folder, Budget(gpu_hours=max_gpu_hours, from_spec=max_gpu_hours))


def set_budget(folder: SweepFolder, gpu_hours: float | None) -> None:
    """Let the sweep spend this many hours in all; None: as many as it takes. A file that is torn is written anew.

    Raises: StorageError.
    """
    try:
        before = read_budget(folder)
    except NewerFile as error:
        raise StorageError(str(error)) from error
    except (OSError, ValueError):
        before = None
    _write(folder, replace(before, gpu_hours=gpu_hours) if before else Budget(gpu_hours=gpu_hours))


def budget_of(folder: SweepFolder) -> Budget | None:
    """The sweep's budget. Raises: StorageError."""
    try:
        return read_budget(folder)
    except NewerFile as error:
        raise StorageError(str(error)) from error
    except (OSError, ValueError) as error:
        said = f"{folder.budget}: {error.strerror}" if isinstance(error, OSError) else str(error)
        raise StorageError(f"{said}; write it anew: causalsweep limit {folder.root.name} --gpu-hours H") from error


def affordable(folder: SweepFolder, status: SweepStatus, jobs: Sequence[_T]) -> Sequence[_T]:
    """The jobs that may be submitted, in their order: those before which the budget is not reserved yet.

    Raises: BudgetReached where that is none; StorageError.
    """
    budget = budget_of(folder)
    if budget is None or budget.gpu_hours is None:
        return jobs
    spent, reserved = status.gpu_hours_used, status.gpu_hours_to_come
    kept: list[_T] = []
    for job in jobs:
        if spent + reserved >= budget.gpu_hours:
            break
        kept.append(job)
        reserved += job[0].n_gpus * job[1].predicted_s / 3600
    if not kept:
        raise BudgetReached(
            f"nothing new begins: of {budget.gpu_hours:g} GPU-hours {spent:.2f} are spent and {reserved:.2f} reserved "
            f"by jobs that wait or run; to raise the budget: causalsweep limit {folder.root.name} --gpu-hours H"
        )
    return kept


def _write(folder: SweepFolder, budget: Budget) -> None:
    try:
        write_budget(folder, budget)
    except OSError as error:
        raise StorageError(f"{folder.budget}: cannot write: {error.strerror}") from error
