"""fsck: whether a sweep's files prove that every planned cell is settled exactly once; with `repair`, what can be made
again from the others is.

`check` asks the rows' index whether the work is done, which is quick. This reads every file whole, compares each with
the others, and depends on no copy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from orchestrator import folder as sweep_folder
from orchestrator.audit.evidence import Evidence
from orchestrator.audit.findings import Audit, Finding, Severity, damage, remark, unsettled
from orchestrator.audit.learned import of_alignments
from orchestrator.audit.records import of_progress, of_records
from orchestrator.audit.repair import Repairs, derived
from orchestrator.audit.results import of_rows
from orchestrator.errors import SpecError, StorageError, SweepNotFound
from orchestrator.grid.file import TornCells, read_grid
from orchestrator.status.cell_state import CellState
from orchestrator.status.states import SweepStatus
from orchestrator.sweep import SWEEPS, Sweep
from orchestrator.wording import counted
from workers.files.folder import SweepFolder
from workers.files.versions import NewerFile

_MOST: Final = 5  # examples of one kind


def fsck(source: str | Path, *, sweeps: Path = SWEEPS, repair: bool = False) -> Audit:
    """What the files of a planned sweep prove. With `repair`, what is found after what could be made again was.

    Raises: SweepNotFound, SpecError, StorageError (a newer version wrote a file; a repair cannot be written).
    """
    found = sweep_folder.find(source, sweeps, ())
    if not found.is_planned:
        found = sweep_folder.find(found.folder.root, sweeps, ())
    try:
        repaired = Repairs(found).made() if repair else ()
        audit = _audit(found.folder, source=found.spec.name)
    except NewerFile as error:
        raise StorageError(str(error)) from error
    return Audit(**{name: getattr(audit, name) for name in audit.__slots__} | {"repaired": repaired})


def _audit(folder: SweepFolder, *, source: str) -> Audit:
    evidence, findings, status = Evidence(folder), [], None
    try:
        grid = read_grid(folder.cells)
    except TornCells as error:
        cells = folder.cells.name
        findings.append(damage(cells, str(error), "fsck --repair plans it anew from sweep.yaml", is_repairable=True))
    else:
        status = _status(folder, findings)
        findings += of_rows(evidence, grid)
        findings += of_alignments(folder, grid)
        findings += of_records(evidence, frozenset(cell.key for _, cell in grid.cells()))
        findings += _not_once(evidence, status) if status else ()
    findings += of_progress(evidence)
    findings += derived(folder, evidence)
    findings += _torn(evidence, findings, status)
    counts = status.counts if status else Counter[CellState]()
    return Audit(
        sweep=source,
        folder=str(folder.root),
        n_cells=len(status.cells) if status else 0,
        n_done=counts[CellState.DONE],
        n_settled=status.n_settled if status else 0,
        n_rows=sum(len(rows) for rows in evidence.rows.values()),
        n_shards=len({row.shard for rows in evidence.rows.values() for row in rows}),
        n_jobs=len(evidence.jobs),
        n_submissions=len(evidence.submissions),
        findings=tuple(sorted(findings, key=lambda finding: list(Severity).index(finding.severity))),
    )


def _status(folder: SweepFolder, findings: list[Finding]) -> SweepStatus | None:
    """The status that the files and clusters give; or a finding that says why there is none."""
    try:
        return Sweep.load(folder.root).status()
    except (StorageError, SpecError, SweepNotFound) as error:
        findings.append(unsettled("the cells' states", f"cannot be told: {error}"))
        return None


def _not_once(evidence: Evidence, status: SweepStatus) -> Iterator[Finding]:
    """The cells that are not settled, and those that two jobs have at once."""
    for state in CellState:
        cells = [key for key, cell in status.cells.items() if cell.state is state]
        if state.is_settled or not cells:
            continue
        reasons = Counter(status.cells[key].reason for key in cells if status.cells[key].reason)
        why = f": {reasons.most_common(1)[0][0]}" if reasons else ""
        yield unsettled(_named(cells), f"{state.label}{why}", f"causalsweep explain {status.name} {cells[0][:12]}")
    active = {job.name for job in status.jobs if job.holds_cells}
    for key, names in evidence.jobs_of_cells.items():
        both = [name for name in names if name in active]
        if len(both) > 1 and key in status.cells and not status.cells[key].state.is_settled:
            yield unsettled(_named([key]), f"{len(both)} jobs that wait or run have it: {', '.join(both)}")
    for note in status.notes:
        yield remark("status", note)


def _named(keys: list[str]) -> str:
    """Some cells by the beginnings of their keys."""
    names = ", ".join(key[:12] for key in keys[:_MOST])
    more = f" and {len(keys) - _MOST:,} more" if len(keys) > _MOST else ""
    return f"{counted(len(keys), 'cell')} ({names}{more})"


def _torn(evidence: Evidence, findings: list[Finding], status: SweepStatus | None) -> Iterator[Finding]:
    """The shards that cannot be read and cannot be made again."""
    named = {finding.where for finding in findings}
    for shard in evidence.torn:
        where = f"shards/{shard.path.name}"
        if where in named:
            continue
        if status is not None and status.is_done:
            yield remark(where, f"{shard.problem}; other rows have replaced its own", "it may be removed")
        else:
            yield damage(where, f"{shard.problem}; its rows do not count", "`resume` runs again what has no other row")
