"""The shard: the Parquet file in which one attempt of a job hands back the rows of every cell that it finished.

One row a cell and setting. Counts, never rounded rates. The Arrow schema is explicit and versioned; version and
provenance stand in the file's key-value metadata.
"""

from __future__ import annotations

from typing import Final

import pyarrow as pa

SHARD_SCHEMA_VERSION: Final = 1

_TEXT, _INT, _REAL = pa.string(), pa.int64(), pa.float64()

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
        pa.field("layer", _INT, nullable=False),
        pa.field("position", _INT, nullable=False),
        pa.field("token", _TEXT),
        pa.field("seed", _INT, nullable=False),
        pa.field("method", _TEXT, nullable=False),
        pa.field("method_settings", _TEXT),  # canonical JSON
        pa.field("engine", _TEXT, nullable=False),
        pa.field("setting", _TEXT, nullable=False),
        pa.field("status", _TEXT, nullable=False),  # done | skipped | failed
        pa.field("reason", _TEXT),
        pa.field("metric", _TEXT),  # iia | decoding (accuracy of a probe: decodable is not causal)
        pa.field("n_correct", _INT),
        pa.field("n_total", _INT),
        pa.field("iia", _REAL),
        # controls, on the same pairs: no intervention, the whole vector swapped, a random rotation at the learned width
        pa.field("n_correct_none", _INT),
        pa.field("n_correct_full", _INT),
        pa.field("n_correct_random", _INT),
        # paired with the control "no intervention": pairs that only one of the two gets right (McNemar)
        pa.field("n_only_cell", _INT),
        pa.field("n_only_none", _INT),
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

# What two runs of one cell may differ in; everything else of a row is the same on any machine of the same kind.
RUN_COLUMNS: Final = frozenset(
    {"sweep", "model", "model_revision", "started", "ended", "gpu_seconds", "peak_memory_bytes", "gpu_name", "gpu_uuid"}
    | {"host", "backend", "job", "attempt", "scheduler_job_id", "git_sha", "versions"}
)
