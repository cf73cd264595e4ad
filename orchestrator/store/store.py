"""Shards -> store: every valid shard's rows, one a cell key and setting, in store/results.parquet.

Of several rows of one cell and setting a measured one beats a failed or skipped one, and the first finished wins. The
compacted file is a copy: what is done, the shards say. It remembers which shards it holds, so that a status of a
thousand jobs reads one file and the shards written since.
"""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from workers.files.folder import SweepFolder, replace_file, visible_files
from workers.files.shard import SHARD_SCHEMA, SHARD_SCHEMA_VERSION

log = logging.getLogger(__name__)

_RANK: Final = {"done": 0, "failed": 1, "skipped": 1}
_CHOICE: Final = ("cell_key", "setting", "status", "ended", "job", "attempt")
_STATE: Final = ("status", "reason", "job", "task_accuracy", "n_correct", "n_total")
_INDEX: Final = tuple(dict.fromkeys((*_CHOICE, *_STATE)))
_ORDER: Final = ("experiment", "method", "setting", "seed", "layer", "position", "cell_key")

Stamp = tuple[int, int]  # size, modification time in nanoseconds


@dataclass(frozen=True, slots=True)
class TornShard:
    """A shard that cannot be read; its rows do not count."""

    path: Path
    problem: str


@dataclass(frozen=True, slots=True)
class RowState:
    """What the store says of one cell and setting."""

    status: str  # done | failed | skipped
    reason: str
    job: str
    task_accuracy: float | None
    n_correct: int | None
    n_total: int | None


class Store:
    """The results of one sweep. Rows of shards that were read once are kept while the object lives."""

    def __init__(self, folder: SweepFolder) -> None:
        self._folder = folder
        self._read: dict[str, tuple[Stamp, pa.Table | TornShard]] = {}

    @property
    def path(self) -> Path:
        """The compacted file: for pandas, Polars and DuckDB without this project's code."""
        return self._folder.store / "results.parquet"

    def index(self) -> dict[tuple[str, str], RowState]:
        """The state of each (cell key, setting) that has a row."""
        table = pa.concat_tables(self._parts(_INDEX))
        keys, settings = table["cell_key"].to_pylist(), table["setting"].to_pylist()
        states = list(zip(*(table[name].to_pylist() for name in _STATE), strict=True))
        found = {}
        for at in chosen_rows(table):
            status, reason, *rest = states[at]
            found[keys[at], settings[at]] = RowState(status, reason or "", *rest)
        return found

    def torn(self) -> list[TornShard]:
        """The shards that cannot be read."""
        held = self._held()
        unknown = [name for name, stamp in self._stamps().items() if held.get(name) != stamp]
        return [shard for name in unknown if isinstance(shard := self._shard(name, _INDEX), TornShard)]

    def table(self) -> pa.Table:
        """Every row, sorted by experiment, method, setting, seed, layer, position; written to `path` where it is new,
        and where the folder may be written."""
        stamps = self._stamps()
        held = self._held()
        valid = self._valid(stamps, held)
        if held and held == valid:
            return pq.read_table(self.path)
        table = pa.concat_tables(self._parts(tuple(SHARD_SCHEMA.names)))
        table = table.take(pa.array(chosen_rows(table), type=pa.int64()))
        table = table.sort_by([(name, "ascending") for name in _ORDER])
        notes = {"schema_version": str(SHARD_SCHEMA_VERSION), "shards": json.dumps(valid)}
        buffer = io.BytesIO()
        pq.write_table(table.replace_schema_metadata(notes), buffer, compression="zstd")
        try:
            self._folder.store.mkdir(parents=True, exist_ok=True)
            replace_file(self.path, buffer.getvalue())
        except OSError as error:
            log.warning("%s: not written: %s", self.path, error.strerror)
        return table

    def _parts(self, columns: Sequence[str]) -> list[pa.Table]:
        """The compacted file where every shard that it holds is still there, and the valid shards that it lacks."""
        stamps = self._stamps()
        held = self._held()
        usable = bool(held) and all(self._still_holds(name, stamp, stamps, columns) for name, stamp in held.items())
        parts = [SHARD_SCHEMA.empty_table().select(columns)]
        if usable:
            parts.append(pq.read_table(self.path, columns=list(columns)).select(columns))
        for name, stamp in stamps.items():
            if not (usable and held.get(name) == stamp):
                shard = self._shard(name, columns)
                if isinstance(shard, pa.Table):
                    parts.append(shard.select(columns))
        return [part.replace_schema_metadata(None) for part in parts]

    def _still_holds(self, name: str, stamp: Stamp, stamps: Mapping[str, Stamp], columns: Sequence[str]) -> bool:
        """Whether a shard of the compacted file is as it was, or has only been written on."""
        if stamps.get(name) == stamp:
            return True
        return name in stamps and isinstance(self._shard(name, columns), pa.Table)

    def _stamps(self) -> dict[str, Stamp]:
        stamps = {}
        for path in visible_files(self._folder.shards, ".parquet"):
            try:
                stat = path.stat()
            except FileNotFoundError:
                continue
            stamps[path.name] = (stat.st_size, stat.st_mtime_ns)
        return stamps

    def _valid(self, stamps: Mapping[str, Stamp], held: Mapping[str, Stamp]) -> dict[str, Stamp]:
        return {
            name: stamp
            for name, stamp in stamps.items()
            if held.get(name) == stamp or isinstance(self._shard(name, _INDEX), pa.Table)
        }

    def _held(self) -> dict[str, Stamp]:
        """The shards that the compacted file holds; none where there is no valid one."""
        try:
            notes = pq.read_schema(self.path).metadata or {}
            if notes.get(b"schema_version") != str(SHARD_SCHEMA_VERSION).encode():
                return {}
            return {name: (size, mtime) for name, (size, mtime) in json.loads(notes[b"shards"]).items()}
        except (OSError, pa.ArrowException, KeyError, ValueError):
            return {}

    def _shard(self, name: str, columns: Sequence[str]) -> pa.Table | TornShard:
        """At least `columns` of a shard, read again only where the file has changed."""
        path = self._folder.shards / name
        try:
            stat = path.stat()
        except FileNotFoundError:
            return TornShard(path, "it is gone")
        stamp = (stat.st_size, stat.st_mtime_ns)
        seen = self._read.get(name)
        if seen and seen[0] == stamp and (isinstance(seen[1], TornShard) or set(columns) <= set(seen[1].column_names)):
            return seen[1]
        shard = read_shard(path, columns)
        self._read[name] = (stamp, shard)
        return shard


def read_shard(path: Path, columns: Iterable[str] = SHARD_SCHEMA.names) -> pa.Table | TornShard:
    """The `columns` of a shard, or what is wrong with it."""
    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            version = (schema.metadata or {}).get(b"schema_version", b"none").decode()
            if version != str(SHARD_SCHEMA_VERSION):
                return TornShard(path, f"schema version {version}; this version reads {SHARD_SCHEMA_VERSION}")
            if not schema.remove_metadata().equals(SHARD_SCHEMA):
                return TornShard(path, f"its columns are not those of schema version {version}")
            return file.read(columns=list(columns), use_threads=False)
    except (OSError, pa.ArrowException) as error:
        return TornShard(path, str(error).splitlines()[0])


def chosen_rows(table: pa.Table) -> list[int]:
    """The index of the one row that counts for each cell key and setting."""
    columns: dict[str, list[Any]] = {name: table[name].to_pylist() for name in _CHOICE if name != "ended"}
    ended = table["ended"].cast(pa.int64()).to_pylist()
    best: dict[tuple[str, str], tuple[tuple[int, int, str, int], int]] = {}
    for at, (key, setting, status, job, attempt) in enumerate(zip(*columns.values(), strict=True)):
        rank = (_RANK.get(status, 2), ended[at] or 0, job, attempt)
        found = best.get((key, setting))
        if found is None or rank < found[0]:
            best[(key, setting)] = (rank, at)
    return [at for _, at in best.values()]
