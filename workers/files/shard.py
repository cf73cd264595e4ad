"""The shard: the Parquet file in which one attempt of a job hands back the rows of every cell that it finished.

One row a cell and setting. Counts, never rounded rates. The Arrow schema is explicit and versioned; the version and
the provenance are in the file's key-value metadata. `read_shard` is the one reader: store, status, resume and the
worker agree on which rows there are, because they all ask it.

To add a column: append its field, and name the version that brings it in `_SINCE`. The columns of a cell's place are
the axes of `workers.files.place`.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from workers.files.cell_identity import place_fields
from workers.files.place import AXES, INSIDE, PLACE_COLUMNS
from workers.files.versions import NewerFile

_TEXT, _INT, _REAL = pa.string(), pa.int64(), pa.float64()

# Sums over a row's pairs, and of squares (for the standard error of the mean), for the cell and for its three controls.
SUMMED: Final = ("label_logprob", "logit_diff", "kl", "log_odds")
SUM_COLUMNS: Final = tuple(
    f"sum_{measure}{power}{control}"
    for control in ("", "_none", "_full", "_random")
    for measure in SUMMED
    for power in ("", "_sq")
)
# Likewise what readings measure, for the cell and for its own null.
READ: Final = ("entropy", "attention", "relative_change")
READ_COLUMNS: Final = tuple(
    f"sum_{measure}{power}{control}" for control in ("", "_random") for measure in READ for power in ("", "_sq")
)
# By class of a variable, ascending, one variable after the other: prompts of it, prompts that a classifier puts into
# it, and those of the latter that are of it.
CLASS_COLUMNS: Final = ("class_total", "class_said", "class_correct")

# A row's status: `done` has counts; `skipped` (gate) and `failed` (diverged) have none, but the reason.
SHARD_SCHEMA: Final = pa.schema(
    [
        pa.field("cell_key", _TEXT, nullable=False),
        pa.field("sweep", _TEXT, nullable=False),
        pa.field("experiment", _TEXT, nullable=False),
        pa.field("model", _TEXT, nullable=False),  # path
        pa.field("model_revision", _TEXT),
        pa.field("model_fingerprint", _TEXT, nullable=False),
        pa.field("task", _TEXT, nullable=False),
        pa.field("task_settings", _TEXT),  # canonical JSON
        pa.field("hypothesis", _TEXT, nullable=False),
        pa.field("variables", pa.list_(_TEXT)),
        # where the cell intervenes; where it is a set of places, `place` has its name, `position` where
        # those lie that follow the positions of the grid, and the others are null
        *place_fields(("layer", "position", *INSIDE, "place"), nullable=PLACE_COLUMNS),
        pa.field("token", _TEXT),
        pa.field("seed", _INT, nullable=False),
        pa.field("method", _TEXT, nullable=False),
        pa.field("method_settings", _TEXT),  # canonical JSON
        pa.field("engine", _TEXT, nullable=False),
        pa.field("setting", _TEXT, nullable=False),
        pa.field("status", _TEXT, nullable=False),  # done | skipped | failed
        pa.field("reason", _TEXT),
        pa.field("metric", _TEXT),  # what the numbers are: a key of `workers.files.metrics.METRICS`
        pa.field("n_correct", _INT),
        pa.field("n_total", _INT),
        pa.field("n_dropped", _INT),  # pairs that were drawn and left out
        pa.field("iia", _REAL),
        # controls, on the same pairs: no intervention, the whole vector swapped, a random rotation at the learned width
        pa.field("n_correct_none", _INT),
        pa.field("n_correct_full", _INT),
        pa.field("n_correct_random", _INT),
        # paired with the control "no intervention": pairs that only one of the two gets right (McNemar)
        pa.field("n_only_cell", _INT),
        pa.field("n_only_none", _INT),
        pa.field("n_flips", _INT),  # pairs on which the source's answer is preferred to the base's
        *(pa.field(name, _REAL) for name in (*SUM_COLUMNS, *READ_COLUMNS)),
        *(pa.field(name, pa.list_(_INT)) for name in CLASS_COLUMNS),
        pa.field("task_n_correct", _INT),
        pa.field("task_n_total", _INT),
        pa.field("task_accuracy", _REAL),
        pa.field("dummy_accuracy", _REAL),  # majority label of the test pairs
        pa.field("iia_normalized", _REAL),  # 0: dummy accuracy, 1: task accuracy
        pa.field("subspace_dim", _INT),  # dimensions whose mask exceeds 1/2
        pa.field("boundary", pa.list_(_REAL)),  # one fraction of the hidden size a variable
        pa.field("loss", _REAL),  # mean over the last tenth of the steps
        pa.field("steps", _INT),
        pa.field("started", pa.timestamp("us", tz="UTC")),
        pa.field("ended", pa.timestamp("us", tz="UTC")),
        pa.field("gpu_seconds", _REAL),  # this cell's share of its cohort's wall time
        pa.field("peak_memory_bytes", _INT),
        pa.field("gpu_name", _TEXT),
        pa.field("gpu_uuid", _TEXT),
        pa.field("host", _TEXT),
        pa.field("backend", _TEXT),
        pa.field("job", _TEXT, nullable=False),
        pa.field("attempt", _INT, nullable=False),
        pa.field("scheduler_job_id", _TEXT),
        pa.field("git_sha", _TEXT),
        pa.field("versions", _TEXT),  # canonical JSON: torch, transformers, causalsweep, python
    ]
)

# The schema version that brought a column; 1 where none is named. An older shard is read with null in it, or with what
# `_FILLED` says that its rows have always meant.
_SINCE: Final[Mapping[str, int]] = {
    **{axis.name: axis.since for axis in AXES},
    **dict.fromkeys(("place", "n_dropped", "n_flips", *SUM_COLUMNS), 2),
    **dict.fromkeys((*READ_COLUMNS, *CLASS_COLUMNS), 3),
    **dict.fromkeys((name for name in READ_COLUMNS if "relative_change" in name), 4),
}
_FILLED: Final[Mapping[str, object]] = {axis.name: axis.default for axis in AXES if axis.since > 1}
SHARD_SCHEMA_VERSION: Final = max(_SINCE.values())

# What two runs of one cell may differ in; everything else of a row is the same on any machine of the same kind.
RUN_COLUMNS: Final = frozenset(
    {"sweep", "model", "model_revision", "started", "ended", "gpu_seconds", "peak_memory_bytes", "gpu_name", "gpu_uuid"}
    | {"host", "backend", "job", "attempt", "scheduler_job_id", "git_sha", "versions"}
)


@dataclass(frozen=True, slots=True)
class TornShard:
    """A shard that cannot be read; its rows do not count."""

    path: Path
    problem: str


def read_shard(path: Path) -> pa.Table | TornShard:
    """The rows of a shard in the schema of this version, every page of it checked; or what is wrong with the file.

    What an older schema version lacks is null. Raises: NewerFile (a later version of causalsweep wrote it).
    """
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            schema = file.schema_arrow
            written = (schema.metadata or {}).get(b"schema_version", b"none").decode(errors="replace")
            version = int(written) if written.isascii() and written.isdigit() else 0
            if version > SHARD_SCHEMA_VERSION:
                raise NewerFile(path, found=version, known=SHARD_SCHEMA_VERSION)
            if version < 1:
                return TornShard(path, f"schema version {written}; this is no shard")
            if {field.name: field.type for field in schema} != _types(version):
                return TornShard(path, f"its columns are not those of schema version {version}")
            table = file.read(use_threads=False)
        if version == 1:  # its pages carry no checksums
            table.validate(full=True)
        return _upgraded(table)
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        return TornShard(path, (str(error).splitlines() or [type(error).__name__])[0])


def shard_bytes(table: pa.Table, notes: Mapping[str, str]) -> bytes:
    """The content of a shard with these rows, which are in the schema of this version. `notes` go into its metadata."""
    buffer = io.BytesIO()
    metadata = {"schema_version": str(SHARD_SCHEMA_VERSION), **notes}
    pq.write_table(
        table.replace_schema_metadata(metadata),
        buffer,
        compression="zstd",
        write_page_checksum=True,
    )
    return buffer.getvalue()


def _types(version: int) -> dict[str, Any]:
    """The columns of a schema version with their types."""
    return {field.name: field.type for field in SHARD_SCHEMA if _SINCE.get(field.name, 1) <= version}


def _upgraded(table: pa.Table) -> pa.Table:
    """The table in the schema of this version."""
    there = set(table.column_names)
    columns = [
        table[field.name]
        if field.name in there
        else pa.repeat(pa.scalar(_FILLED.get(field.name), type=field.type), table.num_rows)
        for field in SHARD_SCHEMA
    ]
    return pa.Table.from_arrays(columns, schema=SHARD_SCHEMA)
