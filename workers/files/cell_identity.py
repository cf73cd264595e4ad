"""What says which cell a row is, in cells.parquet, in shards and for filters: one list of columns for all of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from workers.files.job import Cohort, JobCell, Stream, canonical_json
from workers.files.place import AXES

_TEXT, _INT = pa.string(), pa.int64()


def place_fields(names: Iterable[str], *, nullable: Iterable[str] = ()) -> list[pa.Field]:
    """The Arrow fields of some of `PLACE_COLUMNS`. What a cell may lack is nullable, and so are those of `nullable`."""
    found: Mapping[str, pa.Field] = {
        "place": pa.field("place", _TEXT),
        **{one.name: pa.field(one.name, _INT if one.is_number else _TEXT, nullable=one.is_optional) for one in AXES},
    }
    return [found[name].with_nullable(found[name].nullable or name in nullable) for name in names]


def shared_columns(experiment: str, stream: Stream, *, method: str) -> dict[str, Any]:
    """The columns that are equal in all cells of a stream; `method` is the method's label."""
    return {
        "experiment": experiment,
        "task": str(stream.task["name"]),
        "hypothesis": stream.hypothesis,
        "seed": stream.seed,
        "method": method,
    }


def own_columns(cell: JobCell) -> dict[str, Any]:
    """The columns in which the cells of a stream differ."""
    return {"cell_key": cell.key, **cell.place.columns(), "token": cell.token}


def cell_identity(
    cohort: Cohort, cell: JobCell, setting: str, variables: Sequence[str], *, method: str
) -> dict[str, Any]:
    """What every row of `cell` on `setting` has, whatever became of the cell; `method` is the method's label."""
    stream = cohort.stream
    return {
        **shared_columns(cohort.experiment, stream, method=method),
        **own_columns(cell),
        "model_fingerprint": str(stream.model["fingerprint"]),
        "task_settings": canonical_json(dict(stream.task)),
        "variables": list(variables),
        "method_settings": canonical_json(dict(stream.method)),
        "engine": stream.engine,
        "setting": setting,
        "status": "done",
    }
