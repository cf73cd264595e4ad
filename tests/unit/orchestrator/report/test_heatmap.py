"""Maps: where each number is, which seed speaks for a place, and what is shown where there is no number."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from orchestrator.report.heatmap import HeatMap, Over, Scale, heat_maps, shown_token, value_range
from orchestrator.report.measured import measured
from orchestrator.status.cell_state import CellState
from orchestrator.store.metrics import Metric
from tests.fake_store import fake_grid, row
from workers.files.shard import SHARD_SCHEMA

TASK = {"n_total": 100, "task_n_correct": 90, "task_n_total": 100, "dummy_accuracy": 0.5}
CONTROLS = {"n_correct_none": 50, "n_correct_full": 50, "n_correct_random": 50, "n_only_cell": 0, "n_only_none": 0}


def map_of(n_correct: dict[tuple[int, int, int], int | None], **grid_fields: object) -> HeatMap:
    """The one map of cells (layer, position, seed) with these right answers of 100; None for not measured."""
    layers, positions, seeds = (sorted({place[axis] for place in n_correct}) for axis in range(3))
    grid = fake_grid(experiments=["e"], layers=layers, positions=positions, seeds=seeds)
    grid["key"] = list(zip(grid["layer"], grid["position"], grid["seed"], strict=True))
    grid = grid[grid["key"].isin(list(n_correct))].assign(**grid_fields)
    rows = [
        row(cell, n_correct=n_correct[cell["key"]], **TASK, **CONTROLS)
        for cell in grid.to_dict("records")
        if n_correct[cell["key"]] is not None
    ]
    return heat_maps(measured(pd.DataFrame(rows, columns=SHARD_SCHEMA.names), grid))[0]


def test_rows_are_layers_and_columns_are_positions() -> None:
    """The number of layer 5, position 9 is at row 1, column 2, whatever the order in the store."""
    item = map_of({(0, 7, 1): 51, (0, 8, 1): 52, (0, 9, 1): 53, (5, 7, 1): 54, (5, 8, 1): 55, (5, 9, 1): 56})
    assert item.values(Scale.RAW, Over.MAXIMUM).tolist() == [[0.51, 0.52, 0.53], [0.54, 0.55, 0.56]]
    assert (item.layers, item.columns) == ((0, 5), (7, 8, 9))


def test_maximum_mean_and_single_seeds() -> None:
    """Seeds 60 and 80 of 100: the highest is 0.8, the mean 0.7, and each seed can be asked for."""
    item = map_of({(0, 7, 1): 60, (0, 7, 2): 80})
    asked = [Over.MAXIMUM, Over.MEAN, 1, 2]
    assert [item.values(Scale.RAW, over).item() for over in asked] == pytest.approx([0.8, 0.7, 0.6, 0.8])
    assert item.values(Scale.NORMALISED, Over.MAXIMUM).item() == pytest.approx(0.75)
    assert item.values(Scale.EXCESS, Over.MEAN).item() == pytest.approx(0.2)


def test_an_unmeasured_seed_enters_no_mean() -> None:
    """One seed of two measured: the place is that seed's number, neither halved nor hidden."""
    item = map_of({(0, 7, 1): 60, (0, 7, 2): None}, state="running")
    assert item.values(Scale.RAW, Over.MEAN).item() == pytest.approx(0.6)
    assert item.states(Over.MEAN).item() == "done"
    assert item.states(2).item() == "running"
    assert math.isnan(item.values(Scale.RAW, 2).item())


def test_a_place_without_a_number_is_nan_with_its_foremost_state() -> None:
    """Among a place's seeds, the one that is running speaks before one that was skipped; the number is NaN, not 0."""
    states = ["running", "skipped", "done", "done"]
    item = map_of({(0, 7, 1): None, (0, 7, 2): None, (0, 8, 1): 50, (0, 8, 2): 50})
    item.cells["state"] = [
        states[(position - 7) * 2 + seed - 1] for position, seed in item.cells[["position", "seed"]].to_numpy()
    ]
    assert item.states(Over.MAXIMUM).tolist() == [["running", "done"]]
    assert np.isnan(item.values(Scale.RAW, Over.MAXIMUM)).tolist() == [[True, False]]


@pytest.mark.parametrize("state", list(CellState))
def test_no_state_is_cut(state: CellState) -> None:
    """Each state comes out of the map under its whole name, however long that is, for one seed and over all."""
    item = map_of({(0, 7, 1): None, (0, 7, 2): None}, state="missing")
    item = replace(item, cells=item.cells.assign(state=state.value))
    assert item.states(Over.MAXIMUM).tolist() == item.states(1).tolist() == [[state.value]]


def test_a_place_that_is_not_planned_has_no_state() -> None:
    """A hole of the grid is neither missing nor measured."""
    item = map_of({(0, 7, 1): 50, (1, 8, 1): 50})
    assert item.states(Over.MAXIMUM).tolist() == [["done", ""], ["", "done"]]


def test_the_raw_scale_is_never_stretched_over_noise() -> None:
    """Cells between 0.50 and 0.54 are shown from 0.5 to 1; one at 0.43 lowers the end to 0.4."""
    assert value_range([map_of({(0, 7, 1): 50, (0, 8, 1): 54})], Scale.RAW) == (0.5, 1.0)
    assert value_range([map_of({(0, 7, 1): 43})], Scale.RAW) == (0.4, 1.0)


def test_the_normalised_scale_shows_what_exceeds_it() -> None:
    """Below the majority label and above the task accuracy stay visible; otherwise the ends are 0 and 1."""
    assert value_range([map_of({(0, 7, 1): 70})], Scale.NORMALISED) == (0.0, 1.0)
    assert value_range([map_of({(0, 7, 1): 47, (0, 8, 1): 93})], Scale.NORMALISED) == pytest.approx((-0.1, 1.1))


def test_the_scale_over_controls_is_symmetric() -> None:
    """Its middle colour is no difference: 0.3 above makes 0.3 below; nothing measured makes a tenth."""
    assert value_range([map_of({(0, 7, 1): 79})], Scale.EXCESS) == pytest.approx((-0.3, 0.3))
    assert value_range([map_of({(0, 7, 1): None})], Scale.EXCESS) == (-0.1, 0.1)


@pytest.mark.parametrize(
    ("token", "shown"),
    [("\n", "\\n"), ("<0x0A>", "\\n"), (" dollars", "␣dollars"), ("##", "##"), ("digit", "digit"), ("  ", "␣␣")],
)
def test_tokens_are_readable(token: str, shown: str) -> None:
    """Line ends and leading blanks, which look like nothing, are written out."""
    assert shown_token(token) == shown


ENDS = [((-310.0, -20.0), (-3.1, 0.0)), ((5.0, 420.0), (0.0, 4.2)), ((0.0, 0.0), (0.0, 1.0))]


@pytest.mark.parametrize(("sums", "ends"), ENDS)
def test_a_metric_that_is_no_share_reaches_from_zero_to_the_farthest_cell(
    sums: tuple[float, float], ends: tuple[float, float]
) -> None:
    """Means of -3.1 to -0.2, of 0.05 to 4.2, and of 0 alone."""
    grid = fake_grid(experiments=["left_boundary"], layers=[0, 1], positions=[7], seeds=[1])
    rows = [row(cell, n_total=100, sum_kl=value) for cell, value in zip(grid.to_dict("records"), sums, strict=True)]
    maps = heat_maps(measured(pd.DataFrame(rows), grid, Metric.KL))
    assert value_range(maps, Scale.RAW) == pytest.approx(ends)
