"""cells.parquet: every planned cell with what a job file needs of it; a sweep continues without its spec or its model.

One row per cell, for people and DuckDB. The strands (streams, layout) and the models' sizes are in the metadata, once;
so is the text of the spec that the cells were planned from: the spec and its cells change in one step.
"""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.errors import SweepNotFound
from orchestrator.grid.expand import Grid, Strand
from orchestrator.grid.model import GridModel
from orchestrator.spec.models import name_alone
from workers.data.model_info import ModelInfo
from workers.files.cell_identity import own_columns, place_fields, shared_columns
from workers.files.folder import replace_file
from workers.files.job import JobCell, Stream, canonical_json
from workers.files.place import AXES, PLACE_COLUMNS, PLACE_VERSION, AnyPlace, Place, PlaceSet
from workers.methods.settings import method_label

CELLS_SCHEMA_VERSION: Final = max(4, PLACE_VERSION)  # 2 has no sets of places, 3 has one model
_READ_VERSIONS: Final = tuple(map(str, range(1, CELLS_SCHEMA_VERSION + 1)))  # what an older one lacks is at its default

CELLS_SCHEMA: Final = pa.schema(
    [
        pa.field("cell_key", pa.string(), nullable=False),
        pa.field("experiment", pa.string(), nullable=False),
        pa.field("task", pa.string(), nullable=False),
        pa.field("hypothesis", pa.string(), nullable=False),
        *place_fields(PLACE_COLUMNS, nullable=PLACE_COLUMNS),  # those of a set of places are null, but for `place`
        pa.field("points", pa.string()),  # the set of places, as JSON
        pa.field("token", pa.string()),
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("method", pa.string(), nullable=False),
        pa.field("model", pa.string(), nullable=False),
        pa.field("strand", pa.int32(), nullable=False),  # index into the metadata's `strands`
    ]
)
_SHARED: Final = ("experiment", "task", "hypothesis", "seed", "method", "model")  # the columns of a strand's every cell


def cells_table(grid: Grid) -> pa.Table:
    """One row a planned cell."""
    strand_of_row = pa.array(
        np.repeat(np.arange(len(grid.strands), dtype="int32"), [len(s.cells) for s in grid.strands])
    )

    shared = pa.Table.from_pylist(
        [
            shared_columns(one.experiment, one.stream, method=method_label(one.stream.method)) | {"model": one.model}
            for one in grid.strands
        ],
        schema=pa.schema([field for field in CELLS_SCHEMA if field.name in _SHARED]),
    ).take(strand_of_row)
    own = pa.Table.from_pylist(
        [own_columns(cell) | {"points": _points_text(cell.place)} for strand in grid.strands for cell in strand.cells],
        schema=pa.schema([field for field in CELLS_SCHEMA if field.name not in (*_SHARED, "strand")]),
    )
    columns = {table.field(at).name: table[at] for table in (shared, own) for at in range(table.num_columns)}
    columns["strand"] = strand_of_row
    return pa.table([columns[name] for name in CELLS_SCHEMA.names], schema=CELLS_SCHEMA)


def _points_text(place: AnyPlace) -> str | None:
    return canonical_json(asdict(place)) if isinstance(place, PlaceSet) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedSpec:
    """The spec of a file of cells. `instead_of`: the SHA-256 of the text that sweep.yaml had before, empty if none."""

    text: str
    instead_of: str = ""


def planned_spec(path: Path) -> PlannedSpec | None:
    """The spec in the cells at `path`; None where there is none that is whole: an earlier version wrote no spec."""
    try:
        notes = pq.read_schema(path).metadata or {}
        text, before = notes[b"spec"].decode(), notes[b"spec_instead_of"].decode()
        if notes[b"spec_crc32"].decode() != _checksum(text, before):
            return None
    except (OSError, KeyError, UnicodeDecodeError, pa.ArrowException):
        return None
    return PlannedSpec(text=text, instead_of=before)


def write_grid(grid: Grid, path: Path, spec: PlannedSpec | None = None) -> None:
    """Write every cell of `grid` to `path`, with the spec that they were planned from. Raises: OSError."""
    strands = [
        {
            "experiment": strand.experiment,
            "stream": asdict(strand.stream),
            "variables": list(strand.variables),
            "n_tokens": strand.n_tokens,
            "n_prefix": strand.n_prefix,
            "mean_tokens": strand.mean_tokens,
            "tail_tokens": list(strand.tail_tokens.items()),
            "inapplicable": strand.inapplicable,
            "after": strand.after,
            "best": strand.best,
            "model": strand.model,
        }
        for strand in grid.strands
    ]
    models, text = canonical_json([_raw_model(model) for model in grid.models]), canonical_json(strands)
    metadata = {
        "schema_version": str(CELLS_SCHEMA_VERSION),
        "models": models,
        "strands": text,
        "crc32": _checksum(models, text),
    }
    if spec is not None:
        metadata |= {"spec": spec.text, "spec_instead_of": spec.instead_of}
        metadata["spec_crc32"] = _checksum(spec.text, spec.instead_of)
    table, buffer = cells_table(grid).replace_schema_metadata(metadata), io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", write_page_checksum=True)
    replace_file(path, buffer.getvalue())


def _raw_model(model: GridModel) -> dict[str, Any]:
    return asdict(model) | {"info": asdict(model.info) | {"path": str(model.info.path)}}


def _checksum(*texts: str) -> str:
    """The CRC-32 of what the metadata say, in hexadecimal digits: pages have checksums of their own."""
    return f"{zlib.crc32(chr(0).join(texts).encode()):08x}"


def read_grid(path: Path) -> Grid:
    """The grid that `write_grid` wrote, here or in an earlier version.

    Raises: TornCells when there is none, or none that is whole; SweepNotFound (another version wrote it).
    """
    try:
        table = pq.read_table(path, page_checksum_verification=True)
        metadata = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    except FileNotFoundError:
        raise TornCells(f"{path}: missing; plan the sweep first: causalsweep submit SPEC.yaml") from None
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        raise _torn(path, error) from error
    if metadata.get("schema_version") not in _READ_VERSIONS:
        found = metadata.get("schema_version")
        raise SweepNotFound(f"{path}: schema version {found!r}; this version reads {', '.join(_READ_VERSIONS)}")
    try:
        models = metadata["models" if "models" in metadata else "model"]  # until version 2 there was one
        if metadata.get("crc32") not in (None, _checksum(models, metadata["strands"])):
            raise ValueError("the checksum of its metadata is wrong")
        return _grid(table, _models(json.loads(models)), metadata["strands"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _torn(path, error) from error


class TornCells(SweepNotFound):
    """The file of cells is missing or damaged: it can be planned anew from the spec."""


def _torn(path: Path, error: Exception) -> TornCells:
    return TornCells(f"{path}: not readable ({error}); submit the spec again to write it anew")


def _models(raw: Any) -> tuple[GridModel, ...]:
    """The models of a file's metadata; one alone as version 2 wrote it. Raises: KeyError, TypeError, ValueError."""
    if isinstance(raw, dict):
        info = _info(raw)
        return (GridModel(name=name_alone(info.path), info=info),)
    if not raw:
        raise ValueError("there is no model")
    return tuple(GridModel(**one | {"info": _info(one["info"])}) for one in raw)


def _info(raw: Mapping[str, Any]) -> ModelInfo:
    """A model's sizes. One that a later version adds is for its estimates."""
    known = {field.name for field in fields(ModelInfo)}
    return ModelInfo(**{name: value for name, value in raw.items() if name in known} | {"path": Path(raw["path"])})


def _tail_tokens(raw: Mapping[str, Any]) -> dict[int, float]:
    """Files of the version before have the first token at which a position lies."""
    if "tail_tokens" in raw:
        return dict(raw["tail_tokens"])
    return {at: float(raw["n_tokens"] - first) for at, first in raw.get("first_tokens", ())}


def _grid(table: pa.Table, models: tuple[GridModel, ...], strands_text: str) -> Grid:
    """The grid of a file's rows and metadata. Raises: AttributeError, KeyError, TypeError, ValueError (torn)."""
    cells = _cells_by_strand(table)
    strands = [
        Strand(
            experiment=raw["experiment"],
            stream=Stream(**raw["stream"]),
            variables=tuple(raw["variables"]),
            n_tokens=raw["n_tokens"],
            n_prefix=raw["n_prefix"],
            mean_tokens=raw.get("mean_tokens"),
            tail_tokens=_tail_tokens(raw),
            inapplicable=raw.get("inapplicable", ""),
            after=raw.get("after", ""),
            best=raw.get("best", 0),
            model=raw.get("model", models[0].name),
            cells=tuple(cells[index]),
        )
        for index, raw in enumerate(json.loads(strands_text))
    ]
    if len(strands) != len(cells):
        raise ValueError(f"the cells of {len(cells)} strands, and {len(strands)} strands")
    names = {model.name for model in models}
    if not names.issuperset(strand.model for strand in strands):
        raise ValueError("a strand of a model that is not there")
    return Grid(models=models, strands=tuple(strands))


def _cells_by_strand(table: pa.Table) -> dict[int, list[JobCell]]:
    cells: dict[int, list[JobCell]] = {}
    columns = (table[name].to_pylist() for name in ("strand", "cell_key", "token"))
    for strand, key, token, place in zip(*columns, _places(table), strict=True):
        cells.setdefault(strand, []).append(JobCell(key=key, place=place, token=token))
    return cells


def _places(table: pa.Table) -> Iterator[AnyPlace]:
    """Where each row's cell intervenes."""
    names = [axis.name for axis in AXES if axis.name in table.column_names]
    sets = table["points"].to_pylist() if "points" in table.column_names else [None] * len(table)
    for text, *values in zip(sets, *(table[name].to_pylist() for name in names), strict=True):
        if text is None:
            yield Place(**dict(zip(names, values, strict=True)))
        else:
            raw = json.loads(text)
            yield PlaceSet(**raw | {"points": tuple(Place(**point) for point in raw["points"])})
