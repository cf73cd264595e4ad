"""The paper's summary table as data."""

import json
import math

import numpy as np
import pandas as pd
import pytest

from orchestrator.report import summary
from tests.fake_store import EXPERIMENTS, fake_grid, fake_rows, row
from workers.files.shard import SHARD_SCHEMA

NUMBERS = {
    "n_total": 100,
    "task_n_correct": 90,
    "task_n_total": 100,
    "dummy_accuracy": 0.5,
    "n_correct_none": 50,
    "n_correct_full": 55,
    "n_correct_random": 52,
    "n_only_cell": 40,
    "n_only_none": 4,
}


def table_of(n_correct: dict[str, list[int]], *, setting: str = "main", **options: object) -> pd.DataFrame:
    """The summary of experiments whose places, side by side in one layer, have these right answers of 100."""
    positions = range(len(next(iter(n_correct.values()))))
    grid = fake_grid(experiments=list(n_correct), layers=[3], positions=positions, seeds=[1])
    rows = [
        row(cell, n_correct=n_correct[cell["experiment"]][cell["position"]], setting=setting, **NUMBERS)
        for cell in grid.to_dict("records")
    ]
    return summary(pd.DataFrame(rows, columns=SHARD_SCHEMA.names), **options).set_index("experiment")


def test_the_columns_of_the_papers_table() -> None:
    """Places 50 60 70 of 100: maximum 0.7, mean 0.6, variance (0.01 + 0 + 0.01) / 3, times 100."""
    line = table_of({"left": [50, 60, 70]}).loc["left"]
    assert line["maximum"] == 0.7
    assert line["mean"] == pytest.approx(0.6)
    assert line["variance_x100"] == pytest.approx(2 / 3)
    assert (line["task"], line["task_n_correct"], line["task_n_total"]) == (0.9, 90, 100)
    assert line["normalised"] == pytest.approx(0.5)
    assert (line["layer"], line["position"], line["seed"], line["n_correct"]) == (3, 2, 1, 70)
    assert (line["none"], line["full"], line["random"]) == (0.5, 0.55, 0.52)
    assert (line["n_measured"], line["n_places"], line["n_better"], line["n_tested"]) == (3, 3, 3, 3)


def test_correlation_is_with_the_first_experiment() -> None:
    """A map that is a line in the first one's has r = 1, its mirror image -1; the first one has none with itself."""
    table = table_of({"left": [50, 60, 70], "half": [50, 55, 60], "mirror": [70, 60, 50]})
    assert table.loc["half", "correlation"] == pytest.approx(1.0)
    assert table.loc["mirror", "correlation"] == pytest.approx(-1.0)
    assert math.isnan(table.loc["left", "correlation"])
    assert table["correlation_n"].tolist() == [0, 3, 3]


def test_baselines_can_be_named() -> None:
    """An experiment can be compared with another than the first; an unknown name is refused."""
    values = {"left": [50, 60, 70], "both": [70, 50, 60], "shifted": [72, 52, 62]}
    table = table_of(values, baselines={"shifted": "both"})
    assert table.loc["shifted", "baseline"] == "both"
    assert table.loc["shifted", "correlation"] == pytest.approx(1.0)
    with pytest.raises(ValueError, match="got 'nobody'; expected one of left, both, shifted"):
        table_of(values, baselines={"shifted": "nobody"})


def test_a_setting_is_compared_with_its_own_map_and_the_baseline() -> None:
    """Noise of its own and the same planted places: both correlations are there, over all places."""
    grid = fake_grid(experiments=EXPERIMENTS[:2], layers=[0, 10, 20, 30], seeds=[1])
    table = summary(fake_rows(grid, settings={"context": 0.9}), grid)
    context = table[table["setting"] == "context"]
    assert (context[["correlation", "correlation_own"]] > 0.9).all(axis=None)
    assert context["correlation_own_n"].tolist() == [52, 52]
    assert table[table["setting"] == "main"]["correlation_own"].isna().all()


def test_unmeasured_cells_enter_no_number() -> None:
    """With half of the map unmeasured, mean, variance and correlation are those of the other half alone."""
    grid = fake_grid(layers=[0, 10, 20, 30], seeds=[1, 2])
    rows = fake_rows(grid)
    kept = grid["layer"] >= 20
    whole = summary(rows[rows["layer"] >= 20], grid[kept])
    holes = summary(rows[rows["layer"] >= 20], grid.assign(state=np.where(kept, "done", "failed")))
    numbers = ["maximum", "mean", "variance_x100", "seeds_sd", "correlation", "n_measured", "n_better"]
    pd.testing.assert_frame_equal(whole[numbers], holes[numbers])
    assert holes["n_places"].tolist() == [52] * 4


def test_spread_over_seeds_is_the_mean_of_the_places() -> None:
    """Seeds 0.5 and 0.6 in one place and 0.7 twice in the other: (0.0707 + 0) / 2."""
    grid = fake_grid(experiments=["left"], layers=[3], positions=[0, 1], seeds=[1, 2])
    n_correct = {(0, 1): 50, (0, 2): 60, (1, 1): 70, (1, 2): 70}
    cells = grid.to_dict("records")
    rows = [row(cell, n_correct=n_correct[cell["position"], cell["seed"]], **NUMBERS) for cell in cells]
    assert summary(pd.DataFrame(rows), grid)["seeds_sd"].item() == pytest.approx(math.sqrt(0.005) / 2)


def test_probes_stand_on_lines_of_their_own() -> None:
    """Decoding is told apart by its metric, is compared with no IIA map, and has no normalised value."""
    grid = fake_grid(experiments=EXPERIMENTS[:2], layers=[0, 30], seeds=[1], methods=["boundless_das", "linear_probe"])
    table = summary(fake_rows(grid, metrics={"linear_probe": "decoding"}), grid)
    assert table["metric"].tolist() == ["iia", "decoding"] * 2
    probes = table[table["metric"] == "decoding"]
    assert probes["normalised"].isna().all()
    assert (probes["n_tested"] == 0).all()


def test_a_sweep_without_results_has_lines_without_numbers() -> None:
    """Nothing measured: one line an experiment, counts of 0 measured, and no number."""
    grid = fake_grid(layers=[0], seeds=[1])
    table = summary(fake_rows(grid).iloc[:0], grid.assign(state="waiting"))
    assert table["n_measured"].tolist() == [0] * 4
    assert table[["maximum", "mean", "variance_x100", "correlation"]].isna().all(axis=None)
    assert summary(fake_rows(grid).iloc[:0]).empty


def test_a_site_at_which_a_method_has_nothing_to_run_has_no_line() -> None:
    """Where it has something elsewhere; a method that has nothing anywhere keeps its lines."""
    sites = (("block_output", (None,)), ("mlp_output", (None,)))
    grid = fake_grid(experiments=EXPERIMENTS[:1], layers=[0], seeds=[1], methods=["das", "pca"], sites=sites)
    nothing = (grid["site"] == "mlp_output") | (grid["method"] == "pca")
    grid["state"] = grid["state"].mask(nothing, "left_out")
    table = summary(fake_rows(grid), grid)
    assert list(zip(table["method"], table["site"], strict=True)) == [
        ("das", "block_output"),
        ("pca", "block_output"),
        ("pca", "mlp_output"),
    ]


def test_the_summary_is_plain_json() -> None:
    """The command line can print it: pandas turns every column into JSON values, absent numbers into null."""
    grid = fake_grid(layers=[0, 30], seeds=[1])
    lines = json.loads(summary(fake_rows(grid), grid).to_json(orient="records"))
    assert [line["experiment"] for line in lines] == EXPERIMENTS
    assert lines[0]["correlation"] is None
    assert 0.5 < lines[0]["maximum"] < 1
