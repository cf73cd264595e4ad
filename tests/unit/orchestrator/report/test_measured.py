"""Store and grid joined: numbers where something was measured, states where not, and never the one for the other."""

import math

import pandas as pd
import pyarrow as pa
import pytest
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from orchestrator.report.measured import measured, planned_from, unplanned
from orchestrator.store.metrics import Metric
from tests.fake_store import fake_grid, fake_rows, row
from tests.unit.orchestrator.conftest import LoadSweep
from tests.unit.orchestrator.fake_cluster import World
from workers.files.shard import SHARD_SCHEMA

COUNTS = {
    "n_correct": 80,
    "n_total": 100,
    "n_correct_none": 60,
    "n_correct_full": 90,
    "n_correct_random": 65,
    "n_only_cell": 25,
    "n_only_none": 5,
    "task_n_correct": 900,
    "task_n_total": 1000,
    "dummy_accuracy": 0.5,
}


def small_grid(**fields: object) -> pd.DataFrame:
    """Two layers by three positions of one experiment."""
    return fake_grid(
        experiments=["left_boundary"], **{"layers": [0, 1], "positions": [7, 8, 9], "seeds": [1], **fields}
    )


def store(*rows: dict[str, object]) -> pd.DataFrame:
    """A store of these rows, as Parquet gives it to pandas."""
    return pa.Table.from_pylist(list(rows), schema=SHARD_SCHEMA).to_pandas()


def test_numbers_come_from_the_counts() -> None:
    """80 of 100, dummy 0.5, task 0.9: 0.8 raw, 0.75 normalised, 0.15 above the better of the two null controls."""
    grid = small_grid()
    line = measured(store(row(grid.iloc[0], **COUNTS, iia=0.123)), grid).iloc[0]
    assert (line["value"], line["task"], line["none"], line["full"], line["random"]) == (0.8, 0.9, 0.6, 0.9, 0.65)
    assert line["normalised"] == pytest.approx(0.75)
    assert line["none_normalised"] == pytest.approx(0.25)
    assert line["full_normalised"] == pytest.approx(1.0)
    assert line["excess"] == pytest.approx(0.15)
    assert (line["low"], line["high"]) == pytest.approx((0.7112, 0.8666), abs=5e-5)


def test_cells_without_a_row_keep_state_and_reason_and_have_no_number() -> None:
    """Running, failed, waiting, skipped, left out and missing stay what they are, with NaN and not 0."""
    grid = small_grid()
    states = ["done", "running", "failed", "waiting", "skipped", "left_out"]
    grid["state"], grid["reason"] = states, ["", "", "diverged", "", "gate", "coarse to fine"]
    lines = measured(store(row(grid.iloc[0], **COUNTS)), grid)
    assert lines["state"].tolist() == states
    assert lines["reason"].tolist() == ["", "", "diverged", "", "gate", "coarse to fine"]
    assert lines["value"].notna().tolist() == [True] + [False] * 5


def test_a_cell_that_is_done_without_a_row_is_missing() -> None:
    """What the grid calls done counts only with its row: a torn shard leaves a hole, not a number."""
    grid = small_grid()
    lines = measured(store(row(grid.iloc[0], **COUNTS)), grid)
    assert lines["state"].tolist() == ["done"] + ["missing"] * 5


def test_a_cell_that_its_method_has_no_meaning_for_is_drawn_as_skipped() -> None:
    """By its row, and on a setting that it has no row of by its state; the reason stays."""
    grid = small_grid()
    grid["state"], grid["reason"] = ["done"] * 5 + ["inapplicable"], [""] * 5 + ["k: got 99"]
    rows = [row(grid.iloc[0], **COUNTS), row(grid.iloc[0], **COUNTS, setting="frogs")]
    rows.append(row(grid.iloc[5]) | {"status": "skipped", "reason": "k: got 99"})
    lines = measured(store(*rows), grid)
    lines = lines[lines["cell_key"] == grid.iloc[5]["cell_key"]]
    assert lines[["setting", "state", "reason"]].values.tolist() == [
        ["main", "skipped", "k: got 99"],
        ["frogs", "skipped", "k: got 99"],
    ]


def test_a_reading_without_a_number_is_no_iia(load: LoadSweep, world: World) -> None:
    """The plan says what a method measures, where none of its cells has anything to run, and its rows are silent."""
    sweep = load(method={"name": "sparse_probe", "k": 65})
    sweep.submit()
    assert set(sweep.results()["status"]) == {"skipped"}
    assert set(sweep.summary()["metric"]) == {"decoding"}
    assert sweep.summary(metric=Metric.KL).empty


def test_a_row_that_failed_says_so_even_with_counts_in_it() -> None:
    """The row's status and reason win over the grid's, and counts of a failed row are no measurement."""
    grid = small_grid()
    failed = row(grid.iloc[0], **COUNTS) | {"status": "failed", "reason": "loss is not finite"}
    line = measured(store(failed), grid).iloc[0]
    assert (line["state"], line["reason"]) == ("failed", "loss is not finite")
    assert math.isnan(line["value"])
    assert math.isnan(line["normalised"])


def test_a_measured_cell_counts_whatever_runs_again() -> None:
    """A cell with a row is done although a job has it in flight once more."""
    grid = small_grid()
    grid["state"] = "running"
    assert measured(store(row(grid.iloc[0], **COUNTS)), grid)["state"].iloc[0] == "done"


def test_settings_have_their_own_lines() -> None:
    """A setting seen on some cells of an experiment is expected of all, and not of experiments without it."""
    grid = fake_grid(experiments=["left_boundary", "bracket_identity"], layers=[0], positions=[7, 8], seeds=[1])
    rows = [row(cell, **COUNTS) for _, cell in grid.iterrows()] + [row(grid.iloc[0], **COUNTS, setting="context")]
    lines = measured(store(*rows), grid)
    context = lines[lines["setting"] == "context"]
    assert context["experiment"].tolist() == ["left_boundary"] * 2
    assert context["state"].tolist() == ["done", "missing"]
    assert (lines[lines["setting"] == "main"]["state"] == "done").all()


def test_names_are_the_grids() -> None:
    """A row that another sweep measured under another name appears under the name that this grid gives its cell."""
    grid = small_grid()
    line = measured(store(row(grid.iloc[0], **COUNTS, experiment="other", method="other")), grid).iloc[0]
    assert (line["experiment"], line["method"], line["value"]) == ("left_boundary", "boundless_das", 0.8)


def test_rows_of_unplanned_cells_are_counted_and_not_shown() -> None:
    """A grid that shrank leaves rows behind: they are in no map, and the page can say how many."""
    grid = small_grid()
    rows = store(*(row(cell, **COUNTS) for _, cell in grid.iterrows()))
    assert unplanned(rows, grid.iloc[:4]) == 2
    assert len(measured(rows, grid.iloc[:4])) == 4


def test_the_paired_test_is_corrected_over_the_map() -> None:
    """One strong cell among six: its p is the sign test's of 25 against 5, times six by Holm; equal cells stay at 1."""
    grid = small_grid()
    even = COUNTS | {"n_only_cell": 15, "n_only_none": 15}
    rows = [row(cell, **(COUNTS if index == 2 else even)) for index, cell in grid.iterrows()]
    lines = measured(store(*rows), grid)
    p = 2 * sum(math.comb(30, k) for k in range(6)) / 2**30
    assert lines["p"].iloc[2] == pytest.approx(p)
    assert lines["p_holm"].iloc[2] == pytest.approx(6 * p)
    assert lines["better"].tolist() == [False, False, True, False, False, False]


def test_a_whole_map_has_statsmodels_p_values() -> None:
    """Each cell's exact test, and Holm's and Hochberg's adjustment over the six of the map."""
    grid = small_grid()
    pairs = [(25, 5), (18, 9), (12, 12), (3, 14), (30, 1), (16, 7)]
    counts = [COUNTS | {"n_only_cell": cell, "n_only_none": none} for cell, none in pairs]
    lines = measured(store(*(row(cell, **counts[index]) for index, cell in grid.iterrows())), grid)
    p = [mcnemar([[0, cell], [none, 0]], exact=True).pvalue for cell, none in pairs]
    assert lines["p"].tolist() == pytest.approx(p)
    assert lines["p_holm"].tolist() == pytest.approx(multipletests(p, method="holm")[1])
    assert lines["q"].tolist() == pytest.approx(multipletests(p, method="fdr_bh")[1])


def test_being_worse_than_no_intervention_is_not_better() -> None:
    """A significant difference the other way round marks nothing."""
    grid = small_grid()
    worse = COUNTS | {"n_only_cell": 5, "n_only_none": 45}
    lines = measured(store(row(grid.iloc[0], **worse)), grid)
    assert lines["p_holm"].iloc[0] < 0.001
    assert not lines["better"].iloc[0]


def test_a_probe_is_on_no_scale_of_interventions() -> None:
    """Decoding accuracy has no normalised value, none of their controls and no test, but a null of its own."""
    grid = small_grid(methods=["linear_probe"])
    line = measured(store(row(grid.iloc[0], **COUNTS, metric="decoding")), grid).iloc[0]
    assert (line["metric"], line["value"]) == ("decoding", 0.8)
    assert line[["normalised", "none", "full", "p"]].isna().all()
    assert line["excess"] == pytest.approx(0.8 - line["random"])


def test_a_mean_has_its_own_null_and_an_interval_by_its_standard_error() -> None:
    """KL 1, 2, 3, 2 nats: mean 2, standard error sqrt(2 / 3 / 4), Student with 3 degrees of freedom; its null is 5, and
    3 lower is better."""
    grid = small_grid(methods=["logit_lens"])
    sums = {"sum_kl": 8.0, "sum_kl_sq": 18.0, "sum_kl_random": 20.0}
    line = measured(store(row(grid.iloc[0], **sums, n_total=4, n_correct=1, metric="lens_kl")), grid).iloc[0]
    assert (line["value"], line["random"], line["excess"]) == (2.0, 5.0, 3.0)
    reach = 3.182446 * (2 / 3 / 4) ** 0.5
    assert (line["low"], line["high"]) == (pytest.approx(2 - reach), pytest.approx(2 + reach))


def test_an_empty_store_leaves_every_cell_as_the_grid_has_it() -> None:
    """Before the first shard there are states and no numbers."""
    grid = small_grid()
    grid["state"] = "waiting"
    lines = measured(store(), grid)
    assert set(lines["state"]) == {"waiting"}
    assert lines["value"].isna().all()


def test_a_store_alone_is_its_own_grid() -> None:
    """Without a sweep the cells of the rows are all there is, in the rows' order."""
    grid = small_grid()
    rows = fake_rows(grid, settings={"context": 0.5})
    assert planned_from(rows)["cell_key"].tolist() == grid["cell_key"].tolist()


def test_two_cells_in_one_place_are_refused() -> None:
    """Methods that differ in settings alone must not be mixed in one map."""
    grid = small_grid()
    twice = pd.concat([grid, grid.assign(cell_key=grid["cell_key"] + "x")])
    with pytest.raises(ValueError, match="6 cells share experiment, method, layer, site, unit, position and seed"):
        measured(store(), twice)


def test_another_metric_has_its_own_numbers_and_no_test() -> None:
    """Means of the sums, above the better null control; no scale, dummy or p; a cell without sums is no number."""
    grid = small_grid()
    sums = {"sum_logit_diff": 250.0, "sum_logit_diff_sq": 1000.0, "sum_logit_diff_none": -50.0}
    sums |= {"sum_logit_diff_full": 300.0, "sum_logit_diff_random": 20.0}
    rows = store(row(grid.iloc[0], **COUNTS, **sums), row(grid.iloc[1], **COUNTS))
    lines = measured(rows, grid, Metric.LOGIT_DIFF)
    first, second = lines.iloc[0], lines.iloc[1]
    assert (first["metric"], first["value"], first["none"], first["full"]) == ("logit_diff", 2.5, -0.5, 3.0)
    assert first["excess"] == pytest.approx(2.3)
    assert first["low"] < 2.5 < first["high"]
    assert first[["normalised", "none_normalised", "dummy", "p", "p_holm", "q"]].isna().all()
    assert not first["better"]
    assert (second["state"], second["reason"]) == ("missing", "its row has no logit difference")
    assert math.isnan(second["value"])


def test_a_probe_has_no_other_metric_than_its_own() -> None:
    """Its cells are left out of the maps of a metric of interventions."""
    grid = small_grid(layers=[0], positions=[7], methods=["das", "linear_probe"])
    rows = fake_rows(grid, metrics={"linear_probe": "decoding"})
    assert measured(rows, grid)["metric"].tolist() == ["iia", "decoding"]
    assert measured(rows, grid, Metric.KL)["method"].tolist() == ["das"]
