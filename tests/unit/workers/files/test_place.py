"""The place of a cell: the axes that it describes, and what follows from them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from itertools import permutations
from pathlib import Path

import pytest

from workers.files.place import AXES, PLACE_COLUMNS, Place

PROJECT = Path(__file__).parents[4]
DEMO_MODEL = PROJECT / "examples" / "demo-model"
PACKAGES = ("orchestrator", "workers", "cluster", "values")
FIELD = "    unit: int | None = field(default=None, metadata=_SINCE_2)\n"
NEW_FIELD = '    side: int | None = field(default=None, metadata={"since": 9})\n'
EXPAND = """
import sys
from pathlib import Path
from orchestrator.grid.expand import expand
from orchestrator.spec.schema import parse_spec
grid = {"experiments": "left_boundary", "layers": [0, 1], "positions": 80}
raw = {"name": "s", "model": sys.argv[1], "task": "price_tagging", "grid": grid}
grid = expand(parse_spec(raw, source="s.yaml", folder=Path(".")))
"""
WRITE = (
    EXPAND
    + """
import pyarrow as pa
from orchestrator.grid.file import write_grid
from workers.files.cell_identity import cell_identity
from workers.files.folder import replace_file
from workers.files.job import Cohort
from workers.files.shard import SHARD_SCHEMA, shard_bytes
write_grid(grid, Path("cells.parquet"))
rows = [
    cell_identity(Cohort(experiment="e", stream=s.stream, cells=s.cells), c, "main", ["v"], method="m")
    | {"sweep": "s", "model": "m", "job": "j", "attempt": 1}
    for s, c in grid.cells()
]
replace_file(Path("shard.parquet"), shard_bytes(pa.Table.from_pylist(rows, schema=SHARD_SCHEMA), {}))
print(*(cell.key for _, cell in grid.cells()))
"""
)
READ = (
    EXPAND
    + """
from dataclasses import replace
from orchestrator.grid.expand import cell_fields
from orchestrator.grid.file import read_grid, write_grid
from orchestrator.spec.filters import CellFilter
from workers.files.job import JOB_SCHEMA_VERSION
from workers.files.shard import SHARD_SCHEMA_VERSION, read_shard
earlier = read_grid(Path("cells.parquet"))
assert earlier.strands == grid.strands
assert read_shard(Path("shard.parquet"))["side"].null_count == 2
assert (JOB_SCHEMA_VERSION, SHARD_SCHEMA_VERSION) == (9, 9)
(strand,) = grid.strands
cells = tuple(replace(cell, place=replace(cell.place, side=at)) for at, cell in enumerate(strand.cells))
turned = replace(grid, strands=(replace(strand, cells=cells),))
write_grid(turned, Path("turned.parquet"))
assert read_grid(Path("turned.parquet")).strands == turned.strands
chosen = CellFilter.from_options(["side=1..5"])
assert [chosen.matches(cell_fields(*pair)) for pair in turned.cells()] == [False, True]
print(*(cell.key for _, cell in grid.cells()))
"""
)


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


def answer(script: str, source: Path, folder: Path) -> str:
    """What the script prints with the packages of `source`."""
    command = [sys.executable, "-W", "error", "-c", script, str(DEMO_MODEL)]
    environment = {**os.environ, "PYTHONPATH": str(source)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_new_axis_is_one_field(changed: Path, tmp_path: Path) -> None:
    """A field more in `Place`: keys stay, files of before are read, files of now hold it, and filters know it."""
    before = answer(WRITE, PROJECT, tmp_path)
    assert len(before.split()) == 2
    assert answer(READ, changed, tmp_path) == before


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
