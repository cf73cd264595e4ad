"""Chains: the best places by validation pairs are run, the same on repetition, and the reason is recorded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import SpecError
from orchestrator.grid.expand import Grid, Strand, expand
from orchestrator.grid.file import read_grid, write_grid
from orchestrator.grid.model import GridModel
from orchestrator.status.chain import WAITS, chained
from orchestrator.status.coarse_to_fine import WAITS as COARSE_WAITS
from orchestrator.store.store import RowState
from tests.unit.orchestrator.plan.test_packing import SMALL
from tests.unit.orchestrator.specs import raw_spec, spec_of, strand_of
from workers.files.job import JobCell
from workers.methods.settings import method_label, method_settings

Rows = dict[tuple[str, str], RowState]


def row(n_correct: int | None, status: str = "done") -> RowState:
    return RowState(status=status, reason="", job="", task_accuracy=0.9, n_correct=n_correct, n_total=200)


def strand(method: str, *, seed: int = 42, after: str = "", best: int = 0, inapplicable: str = "") -> Strand:
    """Three layers by two positions of one method."""
    plain = strand_of(layers=range(3), positions=range(2), seed=seed)
    cells = tuple(replace(cell, key=f"{method} {cell.key}") for cell in plain.cells)
    stream = replace(plain.stream, method=method_settings(method, {}))
    return replace(plain, stream=stream, cells=cells, after=after, best=best, inapplicable=inapplicable)


def grid_of(*strands: Strand) -> Grid:
    return Grid(models=(GridModel(name="", info=SMALL),), strands=strands)


def key(method: str, layer: int, position: int, seed: int = 42) -> str:
    return f"{method} left_boundary-{seed}-{layer}-{position}"


def places(method: str, keys: set[str]) -> set[tuple[int, int]]:
    """(layer, position) of these cells of a method."""
    return {(int(one.split("-")[-2]), int(one.split("-")[-1])) for one in keys if one.startswith(f"{method} ")}


def rows(method: str, values: dict[tuple[int, int], int], seed: int = 42, setting: str = "validation") -> Rows:
    found = {(layer, at): 100 for layer in range(3) for at in range(2)} | values
    return {(key(method, *at, seed), setting): row(value) for at, value in found.items()}


def run_of(grid: Grid, index: Rows, out: dict[str, str] | None = None) -> tuple[set[str], list[str], dict[str, str]]:
    """The keys that are run when the cells with rows are settled; the notes; the reasons."""
    chain = chained(grid, out or {}, {cell for cell, _ in index}, index)
    return {cell.key for _, cell in grid.cells()} - set(chain.left_out), chain.notes, chain.left_out


def test_a_step_waits_for_every_cell_before_it() -> None:
    """One cell of the method before is missing: nothing is chosen yet."""
    grid = grid_of(strand("interchange"), strand("das", after="interchange", best=2))
    index = rows("interchange", {})
    del index[key("interchange", 2, 1), "validation"]
    run, notes, reasons = run_of(grid, index)
    assert (places("das", run), notes) == (set(), [])
    assert set(reasons.values()) == {WAITS}


def test_the_best_places_on_validation_pairs_are_run() -> None:
    """Test pairs have no say: there the order is another. The reason and the note name places and shares."""
    grid = grid_of(strand("interchange"), strand("das", after="interchange", best=2))
    index = rows("interchange", {(0, 1): 180, (2, 0): 190}) | rows("interchange", {(1, 0): 200}, setting="main")
    run, (note,), reasons = run_of(grid, index)
    assert places("das", run) == {(0, 1), (2, 0)}
    best = "the 2 best places of interchange on validation pairs: L2 p0 (0.950), L0 p1 (0.900)"
    assert note == f"das_k1 of left_boundary is run at {best}"
    assert set(reasons.values()) == {f"then: not among {best}"}


def test_seeds_count_together_and_equal_places_go_by_their_order() -> None:
    """One seed's peak is not enough; of equals the first position and layer."""
    grid = grid_of(
        strand("interchange", seed=1),
        strand("interchange", seed=2),
        *(strand("das", seed=seed, after="interchange", best=1) for seed in (7, 8, 9)),
    )
    index = rows("interchange", {(1, 1): 200, (2, 1): 150}, seed=1)
    index |= rows("interchange", {(1, 1): 0, (2, 1): 150}, seed=2)
    run, _, _ = run_of(grid, index)
    assert run >= {key("das", 2, 1, seed) for seed in (7, 8, 9)}
    assert places("das", run) == {(2, 1)}
    even, _, _ = run_of(grid, rows("interchange", {}, seed=1) | rows("interchange", {}, seed=2))
    assert places("das", even) == {(0, 0)}


def test_a_step_may_follow_a_step() -> None:
    """It chooses among the places where the step before it was run, once these are done."""
    grid = grid_of(
        strand("interchange"),
        strand("das", after="interchange", best=2),
        strand("boundless_das", after="das_k1", best=1),
    )
    first = rows("interchange", {(0, 1): 180, (2, 0): 190})
    run, _, reasons = run_of(grid, first)
    assert places("boundless_das", run) == set()
    assert reasons[key("boundless_das", 0, 1)] == WAITS
    second = {(key("das", layer, at), "validation"): row(n) for layer, at, n in ((0, 1, 150), (2, 0, 140))}
    assert places("boundless_das", run_of(grid, first | second)[0]) == {(0, 1)}


def test_cells_that_coarse_to_fine_left_out_are_not_waited_for() -> None:
    """Once it is through; while it waits, so does the chain."""
    grid = grid_of(strand("interchange"), strand("das", after="interchange", best=1))
    index = rows("interchange", {(0, 1): 180})
    del index[key("interchange", 2, 1), "validation"]
    assert places("das", run_of(grid, index, {key("interchange", 2, 1): COARSE_WAITS})[0]) == set()
    assert places("das", run_of(grid, index, {key("interchange", 2, 1): "coarse to fine: ..."})[0]) == {(0, 1)}


def test_where_nothing_was_measured_nothing_is_run() -> None:
    """Skipped, diverged or inapplicable: the reason says so."""
    skipped = {(name, "main"): row(None, "skipped") for name, _ in rows("interchange", {})}
    for grid, index in (
        (grid_of(strand("interchange"), strand("das", after="interchange", best=1)), skipped),
        (grid_of(strand("interchange", inapplicable="no"), strand("das", after="interchange", best=1)), {}),
    ):
        run, notes, reasons = run_of(grid, index)
        assert (places("das", run), notes) == (set(), [])
        assert reasons[key("das", 0, 0)] == "then: no place of interchange was measured on validation pairs"


def sweep(folder: Path, **changes: Any) -> Grid:
    raw = raw_spec(method="interchange", model={"path": str(folder), "dtype": "float32"}, **changes)
    return expand(spec_of(raw, folder))


def test_the_spec_names_steps_seeds_and_places(demo_model: Path, tmp_path: Path) -> None:
    """A step's strands come behind the grid's, know what they follow, and are in the file of cells."""
    grid = sweep(
        demo_model,
        then=[
            {"method": {"name": "das", "k": [1, 2]}, "best": 2, "seeds": [1, 2]},
            {"method": "boundless_das", "after": "das_k2"},
        ],
    )
    found = [(method_label(one.stream.method), one.stream.seed, one.after, one.best) for one in grid.strands]
    assert found == [
        ("interchange", 42, "", 0),
        ("das_k1", 1, "interchange", 2),
        ("das_k1", 2, "interchange", 2),
        ("das_k2", 1, "interchange", 2),
        ("das_k2", 2, "interchange", 2),
        ("boundless_das", 42, "das_k2", 1),
    ]
    write_grid(grid, tmp_path / "cells.parquet")
    assert read_grid(tmp_path / "cells.parquet").strands == grid.strands
    assert isinstance(grid.strands[0].cells[0], JobCell)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"then": [{"method": "das", "after": "pca"}]}, "key `then[0].after`: got 'pca'; expected the method at whose"),
        ({"then": [{"method": "das"}, {"method": "pca"}]}, "key `then[1].after`: got ''; expected the method at whose"),
        ({"then": [{"method": "interchange"}]}, "key `then[0].method.name`: 'interchange' is run before"),
        ({"then": [{"method": "dass"}]}, "key `then[0].method.name`: got 'dass'; did you mean 'das'?"),
        ({"then": [{"method": "das", "best": 0}]}, "then[0].best"),
        ({"then": [{"method": "das"}], "settings": [{"name": "validation"}]}, "settings[0].name"),
    ],
)
def test_what_is_wrong_with_a_chain_is_named(demo_model: Path, changes: dict[str, Any], message: str) -> None:
    """Key, value, and what is expected."""
    with pytest.raises(SpecError) as caught:
        sweep(demo_model, **changes)
    assert message in str(caught.value)
