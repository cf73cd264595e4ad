"""The rows of a file of pairs as plain mappings, a few thousand at a time, and a digest of the file.

JSON Lines, JSON (a list of objects), CSV and TSV, Parquet, and a folder that the `datasets` library saved.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from workers.tasks.base import TaskError

CHUNK: Final = 10_000  # rows
_MAX_FIELD: Final = 1 << 24  # characters in a CSV's field

# A row's place for messages (`line 7`, `row 7`), and the row
Row = tuple[str, Mapping[str, Any]]


class FileError(TaskError):
    """A file of pairs that cannot be read, or a row of it that cannot be used."""

    def __init__(self, path: Path, place: str, problem: str) -> None:
        super().__init__(f"file: {path}{f', {place}' if place else ''}: {problem}")
        self.args = (path, place, problem)

    def __str__(self) -> str:
        path, place, problem = self.args
        return f"file: {path}{f', {place}' if place else ''}: {problem}"


def digest_of(path: Path) -> str:
    """The SHA-256 of a file, or of the names and contents of a folder's files. Raises: FileError."""
    try:
        if path.is_dir():
            total = hashlib.sha256()
            for file in sorted(one for one in path.rglob("*") if one.is_file() and not one.name.startswith("cache-")):
                total.update(f"{file.relative_to(path)}:{_digest(file)};".encode())
            return total.hexdigest()
        return _digest(path)
    except OSError as error:
        raise FileError(path, "", f"cannot be read: {error.strerror}; give the path of a file of pairs") from error


def _digest(path: Path) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_rows(path: Path) -> Iterator[list[Row]]:
    """The file's rows in its order, in lists of at most `CHUNK`. Raises: FileError."""
    readers = {
        ".jsonl": _json_lines,
        ".ndjson": _json_lines,
        ".json": _json,
        ".csv": _csv,
        ".tsv": _csv,
        ".parquet": _parquet,
    }
    if path.is_dir():
        rows = _saved_dataset(path)
    elif path.suffix.lower() in readers:
        rows = readers[path.suffix.lower()](path)
    else:
        known = f"{', '.join(readers)} and a folder of the datasets library"
        raise FileError(path, "", f"got a name that ends in {path.suffix!r}; expected {known}")
    try:
        yield from _chunked(rows)
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        right = "save the file as UTF-8"
        raise FileError(path, "", f"not UTF-8: byte 0x{byte:02x} ({error.reason}); {right}") from error
    except OSError as error:
        raise FileError(path, "", f"cannot be read: {error.strerror or error}") from error


def _chunked(rows: Iterable[Row]) -> Iterator[list[Row]]:
    rows = iter(rows)
    while chunk := list(islice(rows, CHUNK)):
        yield chunk


def _json_lines(path: Path) -> Iterator[Row]:
    with open(path, "rb") as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            place = f"line {number:,}"
            try:
                row = json.loads(line)
            except UnicodeDecodeError as error:
                raise FileError(path, place, f"not UTF-8 ({error.reason}); save the file as UTF-8") from error
            except ValueError as error:
                raise FileError(path, place, f"not JSON: {error}; expected one JSON object a line") from error
            yield place, _object(path, place, row)


def _json(path: Path) -> Iterator[Row]:
    try:
        rows = json.loads(path.read_bytes())
    except UnicodeDecodeError:
        raise
    except ValueError as error:
        raise FileError(path, "", f"not JSON: {error}; expected a list of objects") from error
    if not isinstance(rows, list):
        raise FileError(path, "", f"got {type(rows).__name__}; expected a list of objects")
    for number, row in enumerate(rows, start=1):
        yield f"row {number:,}", _object(path, f"row {number:,}", row)


def _object(path: Path, place: str, row: Any) -> Mapping[str, Any]:
    if not isinstance(row, dict):
        raise FileError(path, place, f"got {type(row).__name__}; expected a JSON object")
    return row


def _csv(path: Path) -> Iterator[Row]:
    """Empty fields are absent ones."""
    csv.field_size_limit(_MAX_FIELD)
    with open(path, encoding="utf-8-sig", newline="") as stream:
        reader = csv.DictReader(stream, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True)
        try:
            for row in reader:
                place = f"line {reader.line_num:,}"
                if None in row or None in row.values():
                    n_columns = len(reader.fieldnames or ())
                    raise FileError(path, place, f"not the {n_columns} fields that the first line names")
                yield place, {column: value for column, value in row.items() if value != ""}
        except csv.Error as error:
            raise FileError(path, f"line {reader.line_num + 1:,}", f"not CSV: {error}") from error


def _parquet(path: Path) -> Iterator[Row]:
    try:
        with pq.ParquetFile(path) as file:
            yield from _numbered(batch.to_pylist() for batch in file.iter_batches(batch_size=CHUNK))
    except pa.ArrowException as error:
        raise FileError(path, "", f"not readable as Parquet: {error}") from error


def _numbered(batches: Iterable[list[dict[str, Any]]]) -> Iterator[Row]:
    number = 0
    for batch in batches:
        for row in batch:
            number += 1
            yield f"row {number:,}", row


def _saved_dataset(path: Path) -> Iterator[Row]:
    """A dataset, or several by split: the split's name is each row's `split` then, unless it has one of its own."""
    try:
        import datasets
    except ImportError as error:
        right = 'pip install "causalsweep[data]"; or save the dataset as Parquet'
        raise FileError(path, "", f"a folder, which needs the datasets library: {right}") from error
    try:
        found = datasets.load_from_disk(str(path))
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise FileError(path, "", f"not a folder that datasets saved (save_to_disk): {error}") from error
    parts = found if isinstance(found, datasets.DatasetDict) else {"": found}
    for split, dataset in parts.items():
        tables = dataset.with_format("arrow").iter(batch_size=CHUNK)
        for place, row in _numbered(table.to_pylist() for table in tables):
            own = {"split": split} if split and row.get("split") is None else {}
            yield (f"split {split}, {place}" if split else place), {**row, **own}
