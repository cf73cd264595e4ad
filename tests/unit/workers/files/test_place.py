"""The place of a cell: the axes that it describes, and what follows from them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from itertools import permutations
from pathlib import Path

import pyarrow as pa
import pytest

from orchestrator.grid.expand import expand
from orchestrator.grid.file import write_grid
from orchestrator.spec.schema import parse_spec
from workers.files.cell_identity import cell_identity
from workers.files.job import Cohort
from workers.files.place import AXES, PLACE_COLUMNS, Place
from workers.files.shard import SHARD_SCHEMA, shard_bytes

PROJECT = Path(__file__).parents[4]
DEMO_MODEL = PROJECT / "examples" / "demo-model"
PACKAGES = ("orchestrator", "workers", "cluster", "values")
FIELD = "    unit: int | None = field(default=None, metadata=_SINCE_2)\n"
NEW_FIELD = '    side: int | None = field(default=None, metadata={"since": 9})\n'
SPEC = {
    "name": "s",
    "model": str(DEMO_MODEL),
    "task": "price_tagging",
    "grid": {"experiments": "left_boundary", "layers": [0, 1], "positions": 80},
}
# Run with the axis `side`: `keys` are those of before, and the files in this folder were written before.
READ = """
import json
import sys
from dataclasses import replace
from pathlib import Path
from orchestrator.grid.expand import cell_fields, expand
from orchestrator.grid.file import read_grid, write_grid
from orchestrator.spec.filters import CellFilter
from orchestrator.spec.schema import parse_spec
from workers.files.job import JOB_SCHEMA_VERSION
from workers.files.shard import SHARD_SCHEMA_VERSION, read_shard
raw, keys = json.loads(sys.argv[1])
grid = expand(parse_spec(raw, source="s.yaml", folder=Path(".")))
assert [cell.key for _, cell in grid.cells()] == keys
assert read_grid(Path("cells.parquet")).strands == grid.strands
assert read_shard(Path("shard.parquet"))["side"].null_count == 2
assert (JOB_SCHEMA_VERSION, SHARD_SCHEMA_VERSION) == (9, 9)
(strand,) = grid.strands
cells = tuple(replace(cell, place=replace(cell.place, side=at)) for at, cell in enumerate(strand.cells))
turned = replace(grid, strands=(replace(strand, cells=cells),))
write_grid(turned, Path("turned.parquet"))
assert read_grid(Path("turned.parquet")).strands == turned.strands
chosen = CellFilter.from_options(["side=1..5"])
assert [chosen.matches(cell_fields(*pair)) for pair in turned.cells()] == [False, True]
print("all is well")
"""


@pytest.fixture
def changed(tmp_path: Path) -> Path:
    """The project's packages with one more axis in `Place`, and no other change."""
    for name in PACKAGES:
        shutil.copytree(PROJECT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    file = tmp_path / "workers" / "files" / "place.py"
    text = file.read_text(encoding="utf-8")
    assert FIELD in text
    file.write_text(text.replace(FIELD, FIELD + NEW_FIELD), encoding="utf-8")
    return tmp_path


def write_files(folder: Path) -> list[str]:
    """The keys of the spec's two cells, whose cells.parquet and shard are now in `folder`."""
    grid = expand(parse_spec(SPEC, source="s.yaml", folder=folder))
    write_grid(grid, folder / "cells.parquet")
    (strand,) = grid.strands
    cohort = Cohort(experiment="e", stream=strand.stream, cells=strand.cells)
    run = {"sweep": "s", "model": "m", "job": "j", "attempt": 1}
    rows = [cell_identity(cohort, cell, "main", ["v"], method="m") | run for cell in strand.cells]
    (folder / "shard.parquet").write_bytes(shard_bytes(pa.Table.from_pylist(rows, schema=SHARD_SCHEMA), {}))
    return [cell.key for cell in strand.cells]


def test_a_new_axis_is_one_field(changed: Path, tmp_path: Path) -> None:
    """A field more in `Place`: keys stay, files of before are read, files of now hold it, and filters know it."""
    keys = write_files(tmp_path)
    assert len(set(keys)) == 2
    command = [sys.executable, "-W", "error", "-c", READ, json.dumps([SPEC, keys])]
    environment = {**os.environ, "PYTHONPATH": str(changed)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "all is well\n"), done.stderr


def test_what_the_axes_are() -> None:
    """Names, types and versions are those of the fields."""
    found = [(axis.name, axis.is_number, axis.is_optional, axis.since) for axis in AXES]
    assert found == [
        ("layer", True, False, 1),
        ("position", True, False, 1),
        ("site", False, False, 2),
        ("unit", True, True, 2),
    ]
    assert PLACE_COLUMNS == ("layer", "site", "unit", "place", "position")


def test_rank_sorts_by_position_layer_site_and_unit() -> None:
    """A site's own cell comes before its units, whatever order the cells came in."""
    ordered = [
        Place(layer=5, position=1),
        Place(layer=0, position=2, site="query"),
        Place(layer=0, position=2, site="query", unit=0),
        Place(layer=1, position=2, site="key", unit=3),
    ]
    assert all(sorted(mixed, key=lambda place: place.rank) == ordered for mixed in permutations(ordered))
