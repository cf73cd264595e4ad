"""The sweeps of a folder, one line each: what `causalsweep list` shows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cluster.backend import ClusterError
from orchestrator import folder as sweep_folder
from orchestrator.errors import SweepError
from orchestrator.status.cell_state import CellState
from orchestrator.status.states import SweepStatus
from orchestrator.sweep import Sweep
from workers.files.folder import visible_files


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """One sweep. `state`: done, running, waiting, failed, open, or unreadable (`detail` says why)."""

    name: str
    state: str
    n_cells: int
    n_done: int
    changed: float  # seconds since 1970 of the newest spec, cells, submission or shard
    detail: str = ""


def listed(sweeps: Path) -> list[Listed]:
    """Every sweep in the folder `sweeps`, the one that changed last first. A backend that does not answer, and a folder
    that cannot be read, are said in the sweep's own line."""
    found = [_listed(folder) for folder in sweep_folder.folders(sweeps)]
    return sorted(found, key=lambda line: (-line.changed, line.name))


def _listed(folder: Path) -> Listed:
    changed = _changed(folder)
    try:
        status = Sweep.load(folder, sweeps=folder.parent).status()
    except (SweepError, ClusterError) as error:
        first = (str(error).splitlines() or [""])[0]
        return Listed(name=folder.name, state="unreadable", n_cells=0, n_done=0, changed=changed, detail=first)
    return Listed(
        name=folder.name,
        state=_state(status),
        n_cells=len(status.cells),
        n_done=status.counts[CellState.DONE],
        changed=changed,
        detail=", ".join(f"{status.counts[one]:,} {one.label}" for one in CellState if status.counts[one]),
    )


def _state(status: SweepStatus) -> str:
    if status.is_done:
        return "done"
    if status.counts[CellState.RUNNING]:
        return "running"
    if not status.is_quiet:
        return "waiting"
    return "failed" if status.counts[CellState.FAILED] else "open"


def _changed(folder: Path) -> float:
    files = [folder / "sweep.yaml", folder / "cells.parquet"]
    files += [file for name in ("submissions", "shards") for file in visible_files(folder / name, "")]
    times = []
    for file in files:
        try:
            times.append(file.stat().st_mtime)
        except OSError:
            continue
    return max(times, default=0.0)
