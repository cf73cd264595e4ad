"""Reports of several sites; and those of a store with one, which are what they were before there were sites."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from orchestrator.cli.layouts import summary_views
from orchestrator.cli.tables import table
from orchestrator.report import summary, write_report
from orchestrator.report.heatmap import Axis, HeatMap, Over, Scale, heat_maps, site_maps
from orchestrator.report.measured import measured
from orchestrator.report.page import page_content, payload, render
from tests.fake_store import fake_grid, fake_rows, row
from workers.files.metrics import CLASS_SCORES

HEADS = ("block_output", (None,)), ("head_output", (0, 1, 2))
BEFORE = Path(__file__).parents[3] / "data" / "reports" / "summary_before_sites.json"


def with_sites(**fields: Any) -> pd.DataFrame:
    """Two layers by two positions at the block's output and at three heads."""
    axes = {"experiments": ["left_boundary"], "layers": [0, 1], "positions": [80, 81], "seeds": [1]} | fields
    return fake_grid(**axes, sites=HEADS)


def planted(grid: pd.DataFrame, best: dict[str, Any]) -> pd.DataFrame:
    """500 of 1,000 right everywhere but in one cell, which has 900."""
    lines = []
    for cell in grid.to_dict("records"):
        is_best = all(cell[name] == value for name, value in best.items())
        n_correct = 900 if is_best else 500
        controls = {"n_correct_none": 500, "n_correct_full": n_correct, "n_correct_random": 500}
        paired = {"n_only_cell": n_correct - 500, "n_only_none": 0}
        task = {"task_n_correct": 950, "task_n_total": 1000, "dummy_accuracy": 0.5}
        lines.append(row(cell, n_correct=n_correct, n_total=1000, iia=n_correct / 1000, **controls, **paired, **task))
    return pd.DataFrame(lines)


BEST = {"site": "head_output", "unit": 2, "layer": 1, "position": 80}


def maps_of(grid: pd.DataFrame, rows: pd.DataFrame) -> dict[tuple[str, str], HeatMap]:
    """By site and the position of a map of units."""
    return {(item.site, item.at): item for item in heat_maps(measured(rows, grid))}


def test_a_summary_without_sites_is_what_it_was() -> None:
    """Every column that there was before has the same numbers; the file was written by the version before."""
    grid = fake_grid(
        experiments=["left_boundary", "midpoint_distance"],
        layers=(0, 15, 30),
        positions=(78, 79, 80, 81),
        seeds=(42, 66),
        methods=("boundless_das", "linear_probe"),
    )
    rows = fake_rows(grid, settings={"frogs": 0.9}, metrics={"linear_probe": "decoding"})
    found = summary(rows, grid)
    before = json.loads(BEFORE.read_text(encoding="utf-8"))
    assert list(found.columns.drop(["site", "unit", "model", *CLASS_SCORES])) == list(before[0])
    for line, expected in zip(found.to_dict("records"), before, strict=True):
        assert line["site"] == "block_output"
        for name, value in expected.items():
            here = None if isinstance(line[name], float) and math.isnan(line[name]) else line[name]
            assert here == (pytest.approx(value, rel=1e-12) if isinstance(value, float) else value), name


def test_each_site_has_a_map_and_each_position_one_of_heads() -> None:
    """Layers x positions for both sites, and layers x heads at each of two positions."""
    grid = with_sites()
    maps = maps_of(grid, planted(grid, BEST))
    assert list(maps) == [
        ("block_output", ""),
        ("head_output", ""),
        ("head_output", "80 \\n"),
        ("head_output", "81 digit"),
    ]
    heads = maps["head_output", "80 \\n"]
    assert (heads.axis, heads.columns, heads.column_name) == (Axis.UNIT, (0, 1, 2), "head")
    np.testing.assert_array_equal(heads.values(Scale.RAW, Over.MAXIMUM), [[0.5, 0.5, 0.5], [0.5, 0.5, 0.9]])
    assert heads.better(Over.MAXIMUM).tolist() == [[False, False, False], [False, False, True]]


def test_the_best_head_stands_for_a_place() -> None:
    """On the map of positions; also for one seed and for the mean over seeds."""
    grid = with_sites(seeds=[1, 2])
    item = maps_of(grid, planted(grid, BEST | {"seed": 1}))["head_output", ""]
    np.testing.assert_array_equal(item.values(Scale.RAW, Over.MAXIMUM), [[0.5, 0.5], [0.9, 0.5]])
    np.testing.assert_array_equal(item.values(Scale.RAW, 2), [[0.5, 0.5], [0.5, 0.5]])
    np.testing.assert_allclose(item.values(Scale.RAW, Over.MEAN), [[0.5, 0.5], [0.7, 0.5]])


def test_the_summary_has_a_line_a_site_and_names_the_head() -> None:
    """The highest cell with its head, the number of places with all heads."""
    grid = with_sites()
    table = summary(planted(grid, BEST), grid).set_index("site")
    assert table.loc["head_output", ["maximum", "layer", "unit", "position", "n_places"]].tolist() == [
        0.9,
        1,
        2,
        80,
        12,
    ]
    assert table.loc["block_output", ["maximum", "n_places"]].tolist() == [0.5, 4]
    assert np.isnan(table.loc["block_output", "unit"])


def test_a_site_is_a_family_of_tests() -> None:
    """Holm corrects over all 12 heads and places of a site, and not over those of another."""
    grid = with_sites()
    lines = measured(planted(grid, BEST), grid)
    ratio = lines["p_holm"] / lines["p"]
    assert ratio[lines["value"] == 0.9].tolist() == pytest.approx([12.0])


def test_two_cells_of_one_head_are_refused() -> None:
    """They would be one place of one map."""
    grid = with_sites()
    again = grid[grid["unit"] == 1].assign(cell_key="other")
    with pytest.raises(ValueError, match="cells share experiment, method, layer, site, unit, position and seed"):
        measured(planted(grid, BEST), pd.concat([grid, again]))


@pytest.mark.parametrize(("site", "shown"), [("head_output", "L1 h2 p80"), ("mlp_neurons", "L1 n2 p80")])
def test_the_terminal_tells_heads_from_neurons(site: str, shown: str) -> None:
    """The place of the highest cell in the table: `h2` is a head and `n2` a neuron."""
    axes = {"experiments": ["left_boundary"], "layers": [0, 1], "positions": [80, 81], "seeds": [1]}
    grid = fake_grid(**axes, sites=[("block_output", (None,)), (site, (0, 1, 2))])
    views = summary_views(summary(planted(grid, BEST | {"site": site}), grid))
    lines = [line for _, frame, layout in views for line in table(frame, width=200, layout=layout)]
    assert any(shown in line for line in lines)


def test_the_page_tells_of_sites_and_heads() -> None:
    """A record of the best head on the map of positions, a section of sites, and nothing of it where there is one."""
    grid = with_sites()
    content = page_content(planted(grid, BEST), grid, title="t")
    data = payload(content)
    heads = next(item for item in data["maps"] if item["site"] == "head_output" and item["at"] == "")
    (record,) = heads["cells"][1][0]
    assert record[data["record"].index("unit")] == 2
    assert "<section id='sites'>" in render(content)
    assert "layer 1, head 2" in render(content)
    plain = fake_grid(experiments=["left_boundary"], layers=[0], positions=[80], seeds=[1])
    assert "<section id='sites'>" not in render(page_content(fake_rows(plain), plain, title="t"))


def test_the_report_has_a_picture_a_site_and_one_of_all(tmp_path: Path) -> None:
    """Names of pictures at the block's output are what they were."""
    grid = with_sites()
    write_report(planted(grid, BEST), grid, tmp_path, title="t")
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    assert {
        "iia_boundless_das_main_raw_maximum.png",
        "iia_boundless_das_main_head_output_raw_maximum.png",
        "iia_boundless_das_main_head_output_p0080_raw_maximum.png",
        "sites_boundless_das.png",
    } <= names


def test_cells_are_counted_once() -> None:
    """A head's cell is on two maps; the tiles and tables count 16 cells."""
    grid = with_sites()
    maps = heat_maps(measured(planted(grid, BEST), grid))
    assert sum(len(item.cells) for item in site_maps(maps)) == 16
    assert "16 <small>of 16</small>" in render(page_content(planted(grid, BEST), grid, title="t"))
