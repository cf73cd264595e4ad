"""Two sweeps compared: which cells are paired, what is subtracted, and what is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from orchestrator.report.comparison import Comparison, Side, compare, spec_differences
from orchestrator.report.comparison_page import payload, render_comparison, write_comparison
from orchestrator.store.metrics import Metric
from orchestrator.store.statistics import share_difference
from tests.fake_store import fake_grid, row
from tests.unit.orchestrator.conftest import LoadSweep, Run
from tests.unit.orchestrator.fake_cluster import World, jobs_of, write_shard
from workers.files.shard import SHARD_SCHEMA

Counts = dict[tuple[int, int, int], int]  # right answers of 100, by layer, position and seed


def side(name: str, counts: Counts, *, fingerprint: str = "f", grid: pd.DataFrame | None = None, **row_: Any) -> Side:
    """A sweep of one map with these right answers of 100 pairs; what has none is missing."""
    if grid is None:
        parts = [sorted({key[axis] for key in counts}) for axis in range(3)]
        grid = fake_grid(experiments=["left"], layers=parts[0], positions=parts[1], seeds=parts[2])
    at = [(cell["layer"], cell["position"], cell["seed"]) for cell in grid.to_dict("records")]
    grid = grid.assign(state=["done" if place in counts else "missing" for place in at])
    rows = [
        row(cell, n_total=100, n_correct=counts[place], model_fingerprint=fingerprint, **row_)
        for cell, place in zip(grid.to_dict("records"), at, strict=True)
        if place in counts
    ]
    return Side(name=name, spec={"name": name}, rows=pd.DataFrame(rows, columns=SHARD_SCHEMA.names), cells=grid)


def only_map(found: Comparison) -> dict[str, Any]:
    """The one map of a comparison."""
    (line,) = found.maps.to_dict("records")
    return line


def test_cells_of_both_are_subtracted() -> None:
    """The second sweep's share less the first one's, with the interval of two shares; the mean over the map."""
    found = compare(side("x", {(0, 1, 7): 50, (0, 2, 7): 60}), side("y", {(0, 1, 7): 80, (0, 2, 7): 62}))
    assert found.cells["difference"].tolist() == pytest.approx([0.30, 0.02])
    first = found.cells.iloc[0]
    assert (first["difference_low"], first["difference_high"]) == share_difference((50, 100), (80, 100))
    line = only_map(found)
    assert (line["mean_a"], line["mean_b"], line["difference"]) == pytest.approx((0.55, 0.71, 0.16))
    assert line["difference_low"] == pytest.approx(found.cells["difference_low"].mean())
    assert (line["n_both"], line["best_a"], line["best_b"]) == (2, 0.60, 0.80)


def test_a_cell_differs_where_all_intervals_together_say_so() -> None:
    """With one cell in the map 65 and 80 of 100 differ; as one of forty they do not."""
    one = compare(side("x", {(0, 0, 7): 65}), side("y", {(0, 0, 7): 80}))
    assert only_map(one)["n_differ"] == 1
    flat = {(0, position, 7): 65 for position in range(40)}
    many = compare(side("x", flat), side("y", flat | {(0, 0, 7): 80}))
    assert only_map(many)["n_differ"] == 0


def test_cells_of_one_sweep_are_counted_and_enter_nothing() -> None:
    """Another seed, another place and a cell that is not measured are in one sweep alone."""
    grid = fake_grid(experiments=["left"], layers=[0], positions=[1, 2, 3], seeds=[7])
    first = side("x", {(0, 1, 7): 50, (0, 2, 7): 99}, grid=grid)
    second = side("y", {(0, 1, 7): 50, (0, 3, 7): 98}, grid=grid)
    line = only_map(compare(first, second))
    assert (line["n_both"], line["n_a"], line["n_b"], line["n_planned_both"]) == (1, 1, 1, 3)
    assert (line["mean_a"], line["difference"]) == (0.50, 0.0)
    other_seed = only_map(compare(first, side("z", {(0, 1, 8): 50})))
    assert (other_seed["n_both"], other_seed["n_a"], other_seed["n_b"]) == (0, 2, 1)


def test_another_token_at_a_position_is_another_place() -> None:
    """Where two prompts differ, equal positions are not the same place."""
    first, second = (side(name, {(0, 0, 7): 50}) for name in "xy")
    second.cells["token"] = " else"
    assert only_map(compare(first, second))["n_both"] == 0


def test_two_models_are_not_subtracted() -> None:
    """Two checkpoints have no differences, and each its own colour scale; the page says which they are."""
    first, second = side("x", {(0, 1, 7): 20}), side("y", {(0, 1, 7): 90}, fingerprint="g")
    found = compare(first, second)
    assert not found.is_one_model
    assert found.cells["difference"].isna().all()
    scales = payload(found)["scales"]["iia"]
    assert (scales["a"], scales["b"]) == ([0.2, 1.0], [0.5, 1.0])
    page = render_comparison(found)
    assert "Two sweeps of two models" in page
    assert "Mean difference</th>" not in page
    assert payload(compare(first, first))["scales"]["iia"]["a"] == [0.2, 1.0]


def test_two_metrics_are_not_subtracted() -> None:
    """A method that is a probe in one sweep and an intervention in the other is two maps."""
    found = compare(side("x", {(0, 1, 7): 20}), side("y", {(0, 1, 7): 90}, metric="decoding"))
    assert found.maps[["metric", "n_a", "n_b", "n_both"]].to_numpy().tolist() == [
        ["iia", 1, 0, 0],
        ["decoding", 0, 1, 0],
    ]


def test_means_have_welchs_interval() -> None:
    """With a metric that is a mean, equal numbers in both give an interval around 0 that is wider than either's."""
    sums = {"sum_kl": 50.0, "sum_kl_sq": 30.0}
    found = compare(side("x", {(0, 1, 7): 5}, **sums), side("y", {(0, 1, 7): 5}, **sums), metric=Metric.KL)
    cell = found.cells.iloc[0]
    assert cell["difference"] == 0.0
    half = (cell["high_a"] - cell["low_a"]) / 2
    assert cell["difference_high"] == pytest.approx(half * 2**0.5, rel=0.01)


def test_specs_are_compared_key_by_key() -> None:
    """Nested keys are dotted; a key that one spec lacks is empty there; the name does not count."""
    first = {"name": "x", "data": {"n_train": 64, "keep": "all"}, "grid": {"layers": [0, 1]}}
    second = {"name": "y", "data": {"n_train": 128, "keep": "all"}, "then": [1]}
    assert spec_differences(first, second) == [
        ("data.n_train", "64", "128"),
        ("grid.layers", "[0, 1]", ""),
        ("then", "", "[1]"),
    ]


def test_heads_are_compared_head_by_head() -> None:
    """A site with units has a map of layers by units for each position."""
    grid = fake_grid(experiments=["left"], layers=[0], positions=[1], seeds=[7], sites=[("head_output", (0, 1))])
    rows = [row(cell, n_total=100, n_correct=50 + 20 * cell["unit"]) for cell in grid.to_dict("records")]
    one = Side(name="x", spec={}, rows=pd.DataFrame(rows, columns=SHARD_SCHEMA.names), cells=grid)
    (drawn,) = payload(compare(one, one))["maps"]
    assert (drawn["column_name"], drawn["columns"], drawn["a"]) == ("head", [0, 1], [[0.5, 0.7]])
    assert drawn["difference"] == [[0.0, 0.0]]


def test_a_set_of_places_has_a_line_and_no_map() -> None:
    """It has neither layer nor column; its numbers are in the table."""
    grid = fake_grid(experiments=["left"], layers=[0], positions=[1], seeds=[7])
    rows = pd.DataFrame([row(cell, n_total=100, n_correct=50) for cell in grid.to_dict("records")])
    grid = grid.assign(place="early", layer=float("nan"), position=float("nan"))
    one = Side(name="x", spec={}, rows=rows.reindex(columns=SHARD_SCHEMA.names), cells=grid)
    found = compare(one, one)
    assert (only_map(found)["site"], only_map(found)["difference"]) == ("early", 0.0)
    assert payload(found)["maps"] == []


def test_the_page_escapes_what_users_wrote(tmp_path: Path) -> None:
    """Names and tokens go into the page as text; the cells are beside it as CSV."""
    found = compare(side("<b>x", {(0, 1, 7): 20}), side("y", {(0, 1, 7): 30}))
    text = write_comparison(found, tmp_path).read_text(encoding="utf-8")
    assert "<b>x" not in text
    assert "&lt;b&gt;x" in text
    assert pd.read_csv(tmp_path / "cells.csv")["difference"].tolist() == pytest.approx([0.1])


def test_report_of_two_sweeps(
    load: LoadSweep, world: World, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """`report A B --json` has maps, cells and the keys that differ; a sweep and itself are refused."""
    monkeypatch.chdir(tmp_path)
    for name in ("one", "two"):
        sweep = load(name=name)
        sweep.submit()
        for job in jobs_of(sweep):
            write_shard(job)
    capsys.readouterr()
    assert run("report", "one", "two", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert [line["n_both"] for line in document["maps"]] == [4, 4]
    assert len(document["cells"]) == 8
    assert document["specs"] == []
    assert Path(document["path"]) == tmp_path / "sweeps/one/report/vs-two/index.html"
    assert run("report", "one", "one") == 2
    assert "expected two" in capsys.readouterr().err
    assert run("report", "one", "two", "--figure") == 2
