"""Sets of places: which cells a spec's `grid.places` means, what they are called, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import SpecError
from orchestrator.grid.expand import Grid, cell_fields, expand
from orchestrator.grid.file import cells_table, read_grid, write_grid
from orchestrator.spec.filters import CellFilter
from orchestrator.spec.schema import parse_spec
from tests.unit.orchestrator.specs import raw_spec, spec_of
from workers.files.job import Cell
from workers.files.place import Place, PlaceSet, span_label

HEADS = {"site": "head_output", "layer": 1, "units": [0, 2], "position": 80}
MOVERS = {"name": "movers", "at": [HEADS, {"layer": 2, "unit": 0, "position": "last"}]}


def grid_of(folder: Path, *places: Any, **grid: Any) -> Grid:
    """The small sweep's grid with these sets of places."""
    raw = raw_spec()
    return expand(spec_of(raw | {"grid": raw["grid"] | grid | {"places": list(places)}}, folder))


def sets_of(grid: Grid) -> list[PlaceSet]:
    return [cell.place for _, cell in grid.cells() if isinstance(cell.place, PlaceSet)]


@pytest.fixture
def examples(project: Path) -> Path:
    """Where the demo model is."""
    return project / "examples"


def head(layer: int, unit: int, position: int) -> Place:
    return Place(layer=layer, position=position, site="head_output", unit=unit)


def test_a_set_is_one_cell_over_layers_and_positions(examples: Path) -> None:
    """Two heads of layer 1 and one of layer 2, whose entry takes over the site; other cells and their keys stay."""
    grid = grid_of(examples, MOVERS)
    (found,) = sets_of(grid)
    assert found == PlaceSet(name="movers", points=(head(1, 0, 80), head(1, 2, 80), head(2, 0, 81)))
    before = {cell.key for _, cell in grid_of(examples).cells()}
    assert before < {cell.key for _, cell in grid.cells()}
    assert grid.n_cells == len(before) + 1


def test_points_without_a_position_follow_the_grids(examples: Path) -> None:
    """A cell for each position of the grid, which it is filtered by; a point that names one stays there."""
    heads = {name: value for name, value in HEADS.items() if name != "position"}
    grid = grid_of(examples, {"name": "pair", "at": [heads]}, {"name": "mixed", "at": [heads, {**HEADS, "layer": 3}]})
    found = [(place.name, place.position, {point.position for point in place.points}) for place in sets_of(grid)]
    assert found == [("pair", 80, {80}), ("pair", 81, {81}), ("mixed", 80, {80}), ("mixed", 81, {80, 81})]


def test_the_key_is_of_the_points_and_not_of_the_name(examples: Path) -> None:
    """Another name or another order is the same cell; another point or subspace is another."""
    turned = MOVERS | {"name": "turned", "at": [{"site": "head_output", "layer": 2, "unit": 0, "position": 81}, HEADS]}
    each = MOVERS | {"subspace": "each"}
    other = MOVERS | {"at": [HEADS]}
    keys = []
    for section in (MOVERS, turned, each, other):
        ((strand, cell),) = [(s, c) for s, c in grid_of(examples, section).cells() if isinstance(c.place, PlaceSet)]
        assert cell.key == Cell(stream=strand.stream, place=cell.place).key()
        keys.append(cell.key)
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3


def test_cells_file_keeps_sets(examples: Path, tmp_path: Path) -> None:
    """What is read back is the grid that was written; a set has a name and no layer, site or unit."""
    grid = grid_of(examples, MOVERS, methods=["interchange"])
    write_grid(grid, tmp_path / "cells.parquet")
    assert read_grid(tmp_path / "cells.parquet") == grid
    line = cells_table(grid).to_pylist()[-1]
    assert [line[name] for name in ("layer", "site", "unit", "position", "place")] == [None, None, None, None, "movers"]
    assert " + " in line["token"]


def test_filters_choose_sets_by_name(examples: Path) -> None:
    """`place=movers`, and `grid.exclude` of all single places."""
    fields = [cell_fields(strand, cell) for strand, cell in grid_of(examples, MOVERS).cells()]
    assert sum(CellFilter.from_options(["place=movers"]).matches(one) for one in fields) == 1
    only = grid_of(examples, MOVERS, exclude=[{"site": "block_output"}])
    assert only.n_cells == len(sets_of(only)) == 1


def test_a_resolved_spec_means_the_same_sets(examples: Path) -> None:
    """sweep.yaml writes the sets as their user did."""
    raw = raw_spec()
    spec = spec_of(raw | {"grid": raw["grid"] | {"places": [MOVERS | {"subspace": "each"}]}}, examples)
    again = parse_spec(spec.model_dump(mode="json", exclude_none=True), source="sweep.yaml", folder=examples)
    assert expand(again) == expand(spec)


def test_a_label_names_a_set() -> None:
    """As jobs, logs and Ray's tasks name it."""
    movers = PlaceSet(name="movers", points=(head(1, 0, 80),))
    assert span_label([movers]) == "movers"
    assert span_label([Place(layer=0, position=80), movers]) == "L0 p80 + movers"


@pytest.mark.parametrize(
    ("methods", "subspace", "why"),
    [
        ("interchange", "one", ""),
        ("difference_of_means", "one", "has no one subspace there"),
        ("difference_of_means", "each", ""),
        ({"name": "das", "k": 4}, "one", "what one takes over reaches the next; expected `subspace: each`"),
        ({"name": "das", "k": 4}, "each", ""),
        ({"name": "das", "k": 40}, "each", "40 dimensions do not fit into a vector of 16"),
        ("boundless_das", "one", "expected `subspace: each`"),
        ("linear_probe", "one", ""),
        ("linear_probe", "each", "has no subspace of each place of 'movers'; expected `subspace: one`"),
    ],
)
def test_a_method_without_a_meaning_is_inapplicable(examples: Path, methods: Any, subspace: str, why: str) -> None:
    """One subspace over layers, a probe of each: the cell is there with the reason, and nothing runs."""
    grid = grid_of(examples, MOVERS | {"subspace": subspace}, methods=[methods])
    ((strand, _),) = [(strand, cell) for strand, cell in grid.cells() if isinstance(cell.place, PlaceSet)]
    assert (why in strand.inapplicable) if why else not strand.inapplicable


def test_one_subspace_of_heads_of_a_layer_is_a_cell(examples: Path) -> None:
    """Heads of one layer at two positions do not reach each other."""
    pair = {"name": "pair", "at": [HEADS, HEADS | {"position": 81}]}
    assert {
        strand.inapplicable for strand, _ in grid_of(examples, pair, methods=[{"name": "das", "k": 4}]).cells()
    } == {""}


AT = "grid.places[0].at"


@pytest.mark.parametrize(
    ("places", "key", "message"),
    [
        ([MOVERS, MOVERS], "grid.places[1].name", "'movers' is there twice"),
        ([MOVERS, MOVERS | {"name": "others"}], "grid.places[1].at", "it has the points of 'movers'; keep one"),
        ([MOVERS | {"name": "query"}], "grid.places[0].name", "'query' is a site; give another name"),
        ([MOVERS | {"at": []}], AT, "expected at least one"),
        ([MOVERS | {"subspace": "all"}], "grid.places[0].subspace", "got 'all'"),
        ([MOVERS | {"at": [HEADS | {"units": [0, 7]}]}], f"{AT}[0].units", "got 7; the heads are 0..3"),
        ([MOVERS | {"at": [HEADS | {"layer": 9}]}], f"{AT}[0].layer", "got 9; the layers are 0..3"),
        ([MOVERS | {"at": [HEADS | {"position": "brackt"}]}], f"{AT}[0].position", "no token has this label"),
        ([MOVERS | {"at": [HEADS | {"position": 99}]}], f"{AT}[0].position", "got 99; the positions are 0..81"),
        ([MOVERS | {"at": [{"site": "head_ouput", "layer": 1}]}], f"{AT}[0].site", "did you mean `head_output`?"),
        (
            [MOVERS | {"at": [{"site": "head_output", "layer": 1, "position": 80}]}],
            f"{AT}[0]",
            "it has units; expected",
        ),
        ([MOVERS | {"at": [{"layer": 1, "unit": 0, "position": 80}]}], f"{AT}[0]", "has no units; leave `unit` out"),
        ([MOVERS | {"at": [{"site": "head_output", "unit": 1}]}], f"{AT}[0].layer", "missing; expected a layer"),
        ([MOVERS | {"at": [HEADS | {"unit": 1}]}], f"{AT}[0].units", "both this and `unit` are given"),
        ([MOVERS | {"at": [HEADS, HEADS | {"units": [2]}]}], f"{AT}[1]", "head_output unit 2, layer 1, position 80"),
        (
            [MOVERS | {"at": [{"layer": 1, "position": [81, "last"]}, {"layer": 1, "position": 81}]}],
            f"{AT}[1]",
            "two points",
        ),
        ([MOVERS | {"at": [HEADS | {"head": 3}]}], f"{AT}[0].head", "unknown; there are layer, position"),
        (["movers"], "grid.places[0]", "expected"),
    ],
)
def test_a_bad_set_is_refused_by_name(examples: Path, places: list[Any], key: str, message: str) -> None:
    """File, key, value and what is expected."""
    with pytest.raises(SpecError) as caught:
        grid_of(examples, *places)
    assert f"small.yaml: key `{key}" in str(caught.value)
    assert message in str(caught.value)
