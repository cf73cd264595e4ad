"""How cells learned, and what they do on a few pairs: `traces/JOB-ATTEMPT.parquet`, one row a cell. No torch here.

Nothing but pages and people read it. Done is what a shard says: a cell without a trace is as good as any other.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Iterable, Mapping
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from workers.files.folder import SweepFolder, visible_files

log = logging.getLogger(__name__)

TRACE_SCHEMA_VERSION: Final = 1
_STEPS: Final = pa.list_(pa.int32())
_TEXTS: Final = pa.list_(pa.string())
TRACE_SCHEMA: Final = pa.schema(
    [
        pa.field("cell_key", pa.string(), nullable=False),
        pa.field("loss_step", _STEPS),  # the last step of each part of the training
        pa.field("loss", pa.list_(pa.float32())),  # mean of the steps of that part; of what a method learns by gradient
        pa.field("iia_step", _STEPS),  # after how many steps
        pa.field("iia_n_correct", _STEPS),  # among the first `iia_n_total` validation pairs
        pa.field("iia_n_total", pa.int32()),
        # Ten test pairs, the first ones in the order of the test.
        pa.field("base", _TEXTS),
        pa.field("source", _TEXTS),
        pa.field("variable", _TEXTS),  # which one is interchanged
        pa.field("label", _TEXTS),  # the counterfactual answer
        pa.field("before", _TEXTS),  # what the model says of the base
        pa.field("after", _TEXTS),  # what it says under the intervention
    ]
)


def trace_bytes(traces: Iterable[Mapping[str, Any]]) -> bytes:
    """The content of a file with these rows; what a row lacks is null."""
    table = pa.Table.from_pylist([dict(trace) for trace in traces], schema=TRACE_SCHEMA)
    buffer = io.BytesIO()
    metadata = {"schema_version": str(TRACE_SCHEMA_VERSION)}
    pq.write_table(table.replace_schema_metadata(metadata), buffer, compression="zstd", write_page_checksum=True)
    return buffer.getvalue()


def read_traces(folder: SweepFolder) -> dict[str, dict[str, Any]]:
    """The trace of each cell by its key, that of the last attempt that wrote one. Files that cannot be read, or are of
    a later version, are passed over with a word in the log."""
    found: dict[str, dict[str, Any]] = {}
    for path in visible_files(folder.traces, ".parquet"):
        try:
            with pq.ParquetFile(path, page_checksum_verification=True) as file:
                written = (file.schema_arrow.metadata or {}).get(b"schema_version", b"").decode(errors="replace")
                if written != str(TRACE_SCHEMA_VERSION) or file.schema_arrow.names != TRACE_SCHEMA.names:
                    log.warning("%s: passed over: schema version %s", path, written or "none")
                    continue
                rows: list[dict[str, Any]] = file.read(use_threads=False).to_pylist()
        except (OSError, pa.ArrowException) as error:
            log.warning("%s: passed over: %s", path, (str(error).splitlines() or [type(error).__name__])[0])
            continue
        found |= {row["cell_key"]: row for row in rows}
    return found
