"""What can be made again from a sweep's other files: copies of the spec, the cells, gathered rows, the index, a shard.

A shard that is torn or gone is written again from the store, as long as the store has not been gathered since: it holds
every row that counted. Nothing is removed: a torn file is kept under a name that no reader looks at.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from orchestrator import folder as sweep_folder
from orchestrator import folder_readme
from orchestrator.audit.evidence import REUSED, Evidence
from orchestrator.audit.findings import Finding, damage, remark
from orchestrator.errors import StorageError, SweepConflict
from orchestrator.folder import Found
from orchestrator.grid.expand import expand
from orchestrator.grid.file import TornCells, planned_spec, read_grid
from orchestrator.grid.model import pinned
from orchestrator.learned import INDEX, write_index
from orchestrator.store.store import Store
from orchestrator.sweep import Sweep
from workers.files.folder import SweepFolder, replace_file
from workers.files.gather import Shards
from workers.files.shard import shard_bytes

_REPAIR: Final = "fsck --repair"


def derived(folder: SweepFolder, evidence: Evidence) -> Iterator[Finding]:
    """What `Repairs` would make. Raises: NewerFile."""
    if not folder.spec.exists():
        yield damage(folder.spec.name, "missing; the cells hold its text", f"{_REPAIR} writes it", is_repairable=True)
    if not (folder.root / folder_readme.NAME).exists():
        yield remark(folder_readme.NAME, "missing", f"{_REPAIR} writes it", is_repairable=True)
    for lost in _lost(folder, evidence):
        said = f"{lost.problem}; the store still has {lost.rows.num_rows} rows of it"
        remedy = f"{_REPAIR} writes it again; `results` and `report` would gather without it"
        yield damage(f"shards/{lost.name}", said, remedy, is_repairable=True)
    is_behind = bool(evidence.rows) and not Shards(folder).is_gathered()
    if is_behind:
        what = f"store/{Store(folder).path.name}"
        yield remark(what, "behind the shards, or missing", "whoever reads results gathers", is_repairable=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Lost:
    """A shard that is torn or gone, and those of its rows that the store holds."""

    name: str
    problem: str
    rows: pa.Table


def _lost(folder: SweepFolder, evidence: Evidence) -> Iterator[_Lost]:
    """The shards of this sweep's jobs whose rows only the store has."""
    table, held = Shards(folder).kept()
    if table is None:
        return
    there = {row.shard for rows in evidence.rows.values() for row in rows}
    torn = {shard.path.name: shard.problem for shard in evidence.torn}
    for name in sorted(held):
        job_name, _, attempt = name.removesuffix(".parquet").rpartition("-")
        job = evidence.jobs.get(job_name)
        if name in there or name.startswith(REUSED) or job is None:
            continue
        keys = pa.array([cell.key for cohort in job.cohorts for cell in cohort.cells])
        is_its = pc.and_(pc.equal(table["job"], job_name), pc.equal(table["attempt"], int(attempt)))
        is_ours = pc.and_(pc.equal(table["sweep"], job.sweep), pc.is_in(table["cell_key"], keys))
        rows = table.filter(pc.and_(is_its, is_ours))
        if rows.num_rows:
            yield _Lost(name=name, problem=torn.get(name, "it is gone"), rows=rows)


class Repairs:
    """Makes again what can be made, in the order in which one thing depends on another."""

    def __init__(self, found: Found) -> None:
        self._found, self._folder = found, found.folder
        self._done: list[str] = []

    def made(self) -> tuple[str, ...]:
        """What was made, a line each. Raises: StorageError, SpecError, SweepConflict, NewerFile."""
        try:
            self._cells()
            with sweep_folder.made(self._folder):
                pass
            self._copies()
            if self._shards():
                self._store()
        except OSError as error:
            where = error.filename or self._folder.root
            raise StorageError(
                f"{where}: cannot write: {error.strerror}; make room, then fsck --repair again"
            ) from error
        return tuple(self._done)

    def _cells(self) -> None:
        """Plan the cells anew where their file is torn. Raises: SweepConflict where jobs had others."""
        path = self._folder.cells
        with contextlib.suppress(TornCells):
            read_grid(path)
            return
        spec = pinned(self._found.spec)
        grid = expand(spec, self._folder)
        planned = {cell.key for _, cell in grid.cells()}
        known = Evidence(self._folder).cells_of_jobs
        if strange := [key for key in known if key not in planned]:
            raise SweepConflict(
                f"{path}: not written: planned from {spec.source} it lacks {len(strange)} cells that jobs have, "
                f"such as {strange[0][:12]}; restore the model, the task and the spec that the sweep was planned from"
            )
        with sweep_folder.written(self._folder, spec, grid):
            self._done.append(f"{path.name}: {grid.n_cells:,} cells planned anew from the spec")

    def _copies(self) -> None:
        """The texts for people."""
        readme, planned = self._folder.root / folder_readme.NAME, planned_spec(self._folder.cells)
        if not self._folder.spec.exists() and planned is not None:
            replace_file(self._folder.spec, planned.text)
            self._done.append(f"{self._folder.spec.name}: written from the cells")
        if not readme.exists():
            replace_file(readme, folder_readme.readme_of(self._folder.root.name))
            self._done.append(f"{readme.name}: written")

    def _shards(self) -> bool:
        """Write shards again of which only the store has the rows; not of jobs that run, which do so themselves.
        Whether none is left: to gather would lose its rows."""
        evidence = Evidence(self._folder)
        assert evidence.rows is not None  # reading them finds the torn ones
        lost, n_left = list(_lost(self._folder, evidence)), 0
        active = self._active_jobs() if lost else set()
        for shard in lost:
            job, path = shard.name.removesuffix(".parquet").rpartition("-")[0], self._folder.shards / shard.name
            if job in active:
                n_left += 1
                continue
            if path.is_file():
                path.rename(path.with_name(f"_{path.name}"))
            notes = {"job": job, "sweep": self._found.spec.name, "restored_from": "store/results.parquet"}
            replace_file(path, shard_bytes(shard.rows, notes))
            self._done.append(f"shards/{shard.name}: {shard.rows.num_rows} rows written again from the store")
        return n_left == 0

    def _active_jobs(self) -> set[str]:
        return {job.name for job in Sweep.load(self._folder.root).status().jobs if job.holds_cells}

    def _store(self) -> None:
        """Gather the rows, and index what was learned."""
        is_indexed = (self._folder.alignments / INDEX).exists() or not any(self._folder.alignments.glob("*/*"))
        if Shards(self._folder).is_gathered() and is_indexed:
            return
        store = Store(self._folder)
        table = store.gather()
        write_index(self._folder, table)
        if table.num_rows:
            self._done.append(f"store/{store.path.name}: {table.num_rows:,} rows gathered")
