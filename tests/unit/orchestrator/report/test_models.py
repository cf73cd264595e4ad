"""Reports of several models: never two models in one map, one number each in the summary, and as before with one."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from orchestrator.cli.layouts import results_view, summary_views
from orchestrator.report import summary, write_report
from orchestrator.report.comparison import Side, compare
from orchestrator.report.heatmap import heat_maps
from orchestrator.report.measured import measured
from orchestrator.report.model_curves import curves, draw_models, model_lines
from orchestrator.report.page import page_content, payload
from orchestrator.report.paper import write_figures
from tests.fake_store import fake_grid, fake_rows

MODELS = ("step 1/a", "step-1-a", "step2")


def of_models(*models: str, experiments: tuple[str, ...] = ("left_boundary", "midpoint_distance")) -> pd.DataFrame:
    """A small grid once for each model, with keys of their own."""
    one = fake_grid(experiments=experiments, layers=(0, 5), positions=[80, 81], seeds=(42,))
    return pd.concat(
        [one.assign(model=model, cell_key=one["cell_key"] + f"-{at}") for at, model in enumerate(models)],
        ignore_index=True,
    )


def test_a_map_has_cells_of_one_model() -> None:
    """As many maps as models and experiments, in the order of the grid; a family of tests is one map."""
    grid = of_models(*MODELS)
    maps = heat_maps(measured(fake_rows(grid), grid))
    assert [item.model for item in maps] == [model for model in MODELS for _ in range(2)]
    for item in maps:
        assert len(item.cells) == 4
        assert set(item.cells["model"]) == {item.model}


def test_one_model_is_not_named() -> None:
    """Maps, summary and page are as before the axis, whatever the one model is called."""
    grid = of_models("/models/demo")
    rows = fake_rows(grid)
    assert {item.model for item in heat_maps(measured(rows, grid))} == {""}
    named, plain = summary(rows, grid), summary(rows, grid.drop(columns="model"))
    pd.testing.assert_frame_equal(named, plain)
    assert "/models/demo" not in str(payload(page_content(rows, grid, title="t"))["maps"])


def test_the_summary_has_a_line_a_model_and_correlates_within_it() -> None:
    """The baseline of a map is the map of the same model."""
    grid = of_models("a", "b")
    rows = fake_rows(grid)
    found = summary(rows, grid)
    assert found["model"].tolist() == ["a", "a", "b", "b"]
    alone = summary(rows[rows["cell_key"].str.endswith("-1")], grid[grid["model"] == "b"])
    columns = [name for name in found.columns if name != "model"]
    assert found[found["model"] == "b"].reset_index(drop=True)[columns].equals(alone[columns])


def test_tables_for_people_name_the_model_where_there_are_several() -> None:
    """And only there."""
    for models, is_named in (("a",), False), (("a", "b"), True):
        grid = of_models(*models)
        rows = fake_rows(grid)
        (_, frame, _) = next(iter(summary_views(summary(rows, grid))))
        assert ("model" in frame.columns) is is_named
    rows = fake_rows(of_models("a", "b")).assign(iia_none=0.5, iia_random=0.5, iia_full=0.5, reading=None, null=None)
    assert "model" in results_view(rows.assign(model=["a", "b"] * (len(rows) // 2)))[0].columns


def test_each_model_has_pictures_of_its_own(tmp_path: Path) -> None:
    """Two names that one file name would stand for get two."""
    grid = of_models(*MODELS)
    rows = fake_rows(grid)
    write_report(rows, grid, tmp_path, title="models")
    names = {path.name for path in (tmp_path / "figures").glob("iia_*_main_raw_maximum.png")}
    assert names == {
        "iia_step-1-a-0_boundless_das_main_raw_maximum.png",
        "iia_step-1-a-1_boundless_das_main_raw_maximum.png",
        "iia_step2_boundless_das_main_raw_maximum.png",
    }
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "step 1/a, boundless das" in page


def test_a_curve_has_the_best_of_each_model_in_the_order_of_the_spec() -> None:
    """With the interval and the controls of that one cell; a model without a measurement has no point."""
    grid = of_models("late", "early", "open")
    rows = fake_rows(grid)
    rows = rows[~rows["cell_key"].str.endswith("-2")]
    table = summary(rows, grid.assign(state=grid["cell_key"].str.endswith("-2").map({True: "missing", False: "done"})))
    found = {curve["name"]: curve for curve in curves(table)}
    assert list(found) == ["left boundary", "midpoint distance"]
    for name, curve in found.items():
        assert curve["models"] == ["late", "early", "open"]
        lines = table[table["experiment"] == name.replace(" ", "_")].set_index("model")
        for column in ("maximum", "low", "high", "none", "random"):
            assert curve[column][:2] == [round(lines.loc[model, column], 4) for model in ("late", "early")]
            assert curve[column][2] is None


def test_the_page_and_the_figures_have_the_curve_where_there_are_several_models(tmp_path: Path) -> None:
    """And neither where there is one."""
    for models, there in ((MODELS, True), (("a",), False)):
        grid = of_models(*models)
        folder = tmp_path / str(len(models))
        write_report(fake_rows(grid), grid, folder, title="models")
        page = (folder / "index.html").read_text(encoding="utf-8")
        assert ("<section id='models'>" in page) is there
        assert (folder / "figures" / "models_iia_boundless_das.pdf").exists() is there
        assert ("boundless das, models side by side" in page) is there


def test_a_figure_has_a_panel_an_experiment_and_a_tick_a_model() -> None:
    """Each of several sites has a line."""
    grid = of_models("a", "b")
    lines = model_lines(summary(fake_rows(grid), grid))
    panels = draw_models(pd.concat([lines, lines.assign(site="mlp_output")])).axes
    assert [axes.get_title(loc="left") for axes in panels] == ["left boundary", "midpoint distance"]
    assert [tick.get_text() for tick in panels[0].get_xticklabels()] == ["a", "b"]
    assert len(panels[0].containers) == 2


def test_a_papers_figures_are_of_one_model_each(tmp_path: Path) -> None:
    """A row of panels has the experiments of one model."""
    grid = of_models("a", "b")
    paths = write_figures(heat_maps(measured(fake_rows(grid), grid)), tmp_path, width_in=5.5, formats=["png"])
    assert sorted(path.name for path in paths) == [
        "all_a_boundless_das.png",
        "all_b_boundless_das.png",
        *(f"{name}_{model}_boundless_das.png" for name in ("left_boundary", "midpoint_distance") for model in "ab"),
    ]


def test_a_store_without_its_sweep_tells_models_apart() -> None:
    """Revisions of one model by their revision, else by the fingerprint."""
    rows = fake_rows(of_models("x", "y"))
    is_first = rows["cell_key"].str.endswith("-0")
    prints = rows["cell_key"].map(lambda key: "f1" if key.endswith("-0") else "f2")
    revised = rows.assign(
        model="Lab/m", model_fingerprint=prints, model_revision=is_first.map({True: "c1", False: "c2"})
    )
    assert set(summary(revised)["model"]) == {"Lab/m@c1", "Lab/m@c2"}
    assert set(summary(revised.assign(model_revision=""))["model"]) == {"Lab/m@f1", "Lab/m@f2"}


@pytest.mark.parametrize("is_same", [True, False])
def test_models_of_one_name_are_compared_where_they_are_one(is_same: bool) -> None:
    """Two sweeps: a name that means another checkpoint in the other is another model."""
    grid = of_models("a", "b")
    rows = fake_rows(grid)
    first = rows["cell_key"].map(lambda key: "f1" if key.endswith("-0") else "f2")
    other = first if is_same else first.map({"f1": "f2", "f2": "f1"})
    sides = [
        Side(name=n, spec={}, rows=rows.assign(model_fingerprint=f), cells=grid)
        for n, f in (("A", first), ("B", other))
    ]
    assert compare(*sides).is_one_model is is_same
