"""What a command that watches tells the sweep's user: jobs that died without a word of their own, and the end."""

from __future__ import annotations

from orchestrator.errors import StorageError
from orchestrator.status.cell_state import CellState
from orchestrator.status.states import SweepStatus
from workers.files.budget import Budget, why_reached
from workers.files.folder import SweepFolder
from workers.files.notify import Event, keep_command, notify


def keep_spec_command(folder: SweepFolder, command: str) -> None:
    """Make the spec's command the one that jobs run. Raises: StorageError."""
    try:
        keep_command(folder, command)
    except OSError as error:
        raise StorageError(f"{folder.notify}: cannot write: {error.strerror}") from error


def tell(folder: SweepFolder, status: SweepStatus, *, is_over: bool) -> None:
    """Notify of what this status is the first to show; `is_over`: nothing more is submitted by itself."""
    for job in status.jobs:
        if job.failure is not None and not job.failure.kind.is_interruption:
            message = f"{job.name}: {job.failure.kind.label}: {(job.failure.message.splitlines() or [''])[0]}"
            notify(folder, Event.FAILURE, job.failure.fingerprint or job.name, message)
    if status.max_gpu_hours is not None:
        why = why_reached(Budget(gpu_hours=status.max_gpu_hours), status.gpu_hours_used)
        if why:
            notify(folder, Event.BUDGET, f"{status.max_gpu_hours:g}", why)
    if is_over and status.jobs:
        counts = ", ".join(f"{status.counts[state]} {state.label}" for state in CellState if status.counts[state])
        number = max(job.submission for job in status.jobs)
        notify(folder, Event.END, f"r{number}", f"{status.name}: {counts}")
