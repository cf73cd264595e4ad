"""Whether the files of what cells learned can be read, and are those of planned cells."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.audit.findings import Finding, damage, remark
from orchestrator.grid.expand import Grid
from workers.alignments.learned import AlignmentError, check_saved
from workers.files.folder import SweepFolder


def of_alignments(folder: SweepFolder, grid: Grid) -> Iterator[Finding]:
    """The files of what cells learned that are damaged, or of no planned cell."""
    planned = {cell.key for _, cell in grid.cells()}
    n_strange = 0
    for path in sorted(folder.alignments.glob("*/*.safetensors")):
        n_strange += path.stem not in planned
        try:
            check_saved(path)
        except (OSError, AlignmentError) as error:
            said = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
            remedy = "restore it from a backup, or remove it; the cell's rows do not depend on it"
            yield damage(str(path.relative_to(folder.root)), said.removeprefix(f"{path}: "), remedy)
    if n_strange:
        yield remark("alignments", f"{n_strange} files are of cells that are not planned (any more)")
