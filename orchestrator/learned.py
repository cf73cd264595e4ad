"""What a sweep's cells have learned: one alignment by what its cell is, and the index of all of them."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from orchestrator.errors import SpecError, SweepNotFound
from orchestrator.grid.expand import Grid, cell_fields
from orchestrator.spec.filters import CellFilter
from workers.alignments.learned import AlignmentError, LearnedAlignment, load_alignment
from workers.files.alignments import alignment_path
from workers.files.folder import SweepFolder, replace_file
from workers.files.job import MAIN_SETTING

__all__ = ["find_alignment", "load_alignment", "write_index"]

INDEX: Final = "index.parquet"
_ASKED: Final = ("model", "experiment", "layer", "position", "token", "seed", "method", "site", "unit")
_INDEXED: Final = (
    *("cell_key", "experiment", "hypothesis", "variables", "layer", "site", "unit", "place", "position", "token"),
    *("seed", "model", "method", "method_settings", "subspace_dim", "boundary", "n_correct", "n_total", "iia"),
)


def find_alignment(folder: SweepFolder, grid: Grid, wanted: Mapping[str, Any]) -> LearnedAlignment:
    """The alignment of the one cell that `wanted` names: values of `_ASKED`, None where it is silent.

    Raises: SpecError (no cell, or several), SweepNotFound (the cell has left no alignment yet).
    """
    asked = {name: value for name, value in wanted.items() if value is not None}
    cells = [(cell, cell_fields(strand, cell)) for strand, cell in grid.cells()]
    chosen = CellFilter()
    if asked:
        try:
            chosen = CellFilter.from_mapping(asked, fields=_ASKED)
        except ValueError as error:
            raise SpecError(f"alignment: {error}") from error
        chosen.check_values((fields for _, fields in cells), option="alignment")
    matching = [(cell, fields) for cell, fields in cells if chosen.matches(fields)]
    if not matching:
        raise SpecError(f"alignment: no cell of this sweep has all of {_said(asked)}")
    if len(matching) > 1:
        raise SpecError(f"alignment: {len(matching)} cells have {_said(asked) or 'no condition'}; {_apart(matching)}")
    cell, fields = matching[0]
    path = alignment_path(folder.alignments, cell.key)
    if not path.is_file():
        why = "it is not done, its method learns nothing, or `run.save_alignments` is `none`"
        raise SweepNotFound(f"alignment: {path}: missing; {fields['experiment']} {_said(asked)}: {why}")
    try:
        return load_alignment(path)
    except AlignmentError as error:
        raise SpecError(f"alignment: {error}") from error


def with_alignment(folder: SweepFolder, grid: Grid) -> set[str]:
    """The keys of the cells whose alignment can be loaded: they have a file, and their method ends in directions."""
    there = {path.stem: path for path in folder.alignments.glob("*/*.safetensors")}
    by_method: dict[str, list[str]] = {}
    for strand, cell in grid.cells():
        if cell.key in there:
            by_method.setdefault(str(strand.stream.method["name"]), []).append(cell.key)
    found: set[str] = set()
    for keys in by_method.values():
        with contextlib.suppress(OSError, AlignmentError):  # one file speaks for its method
            load_alignment(there[keys[0]])
            found |= set(keys)
    return found


def write_index(folder: SweepFolder, rows: pa.Table) -> None:
    """Write `alignments/index.parquet`: a line for each row whose cell has left a file, with its path. Raises: OSError.

    It is for people, pandas and DuckDB; nothing here reads it.
    """
    there = {path.stem: str(path.relative_to(folder.root)) for path in folder.alignments.glob("*/*.safetensors")}
    main = rows.filter(pc.and_(pc.equal(rows["setting"], MAIN_SETTING), pc.equal(rows["status"], "done")))
    files = pa.array([there.get(key) for key in main["cell_key"].to_pylist()], type=pa.string())
    index = main.select(list(_INDEXED)).append_column("file", files)
    index = index.filter(pc.is_valid(index["file"])).replace_schema_metadata(None)
    if index.num_rows == 0:
        return
    buffer = io.BytesIO()
    pq.write_table(index, buffer, compression="zstd")
    replace_file(folder.alignments / INDEX, buffer.getvalue())


def _said(asked: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in asked.items())


def _apart(matching: list[tuple[Any, dict[str, Any]]]) -> str:
    """What tells the cells apart: the names to give, with the values that there are."""
    parts: list[str] = []
    for name in _ASKED:
        values = sorted({fields[name] for _, fields in matching if fields[name] is not None}, key=str)
        if len(values) > 1 and not (name == "token" and any(part.startswith("position=") for part in parts)):
            shown = ", ".join(map(repr, values[:8])) + (", ..." if len(values) > 8 else "")
            parts.append(f"{name}= ({shown})")
    return f"give also {' or '.join(parts)}"
