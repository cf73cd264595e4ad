"""The rows of cells for which there is nothing to run: they say why, as a job's rows of such cells do."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from orchestrator.errors import StorageError
from orchestrator.grid.expand import Grid, Strand, wanted_settings
from orchestrator.spec.schema import SweepSpec
from workers.files.cell_identity import cell_identity
from workers.files.folder import SweepFolder, replace_file
from workers.files.job import Cohort
from workers.files.shard import SHARD_SCHEMA, TornShard, read_shard, shard_bytes
from workers.methods.settings import method_label

_JOB: Final = "plan"  # no job ran: the plan knew
_NAME: Final = f"{_JOB}-0000.parquet"


def write_inapplicable(folder: SweepFolder, spec: SweepSpec, grid: Grid) -> None:
    """Write a shard with the reason of each cell that cannot be run. Raises: StorageError."""
    settings = spec.evaluation_settings()
    rows = [
        cell_identity(cohort, cell, setting, strand.variables, method=method_label(strand.stream.method))
        | _why(spec, grid, strand)
        for strand in grid.strands
        if strand.inapplicable
        for cohort in (Cohort(experiment=strand.experiment, stream=strand.stream, cells=strand.cells),)
        for setting in wanted_settings(settings, strand.experiment)
        for cell in strand.cells
    ]
    path = folder.shards / _NAME
    if not rows or (path.exists() and _keys(path) >= {(row["cell_key"], row["setting"]) for row in rows}):
        return
    table = pa.Table.from_pylist(rows, schema=SHARD_SCHEMA)
    try:
        replace_file(path, shard_bytes(table, {"job": _JOB, "sweep": spec.name}))
    except OSError as error:
        raise StorageError(f"{path}: cannot write: {error.strerror}") from error


def _keys(path: Path) -> set[tuple[str, str]]:
    """(cell key, setting) of the rows that were written before."""
    shard = read_shard(path)
    if isinstance(shard, TornShard):
        return set()
    return set(zip(shard["cell_key"].to_pylist(), shard["setting"].to_pylist(), strict=True))


def _why(spec: SweepSpec, grid: Grid, strand: Strand) -> dict[str, Any]:
    model = grid.model_of(strand)
    return {
        "sweep": spec.name,
        "model": model.row_name,
        "model_revision": model.revision,
        "status": "skipped",
        "reason": strand.inapplicable,
        "job": _JOB,
        "attempt": 0,
    }
