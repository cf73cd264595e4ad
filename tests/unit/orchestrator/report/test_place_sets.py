"""Reports of sets of places: they have a line beside the sites, and no map."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli.ending import ending
from orchestrator.errors import SpecError
from orchestrator.report.page import page_content, payload, render
from orchestrator.sweep import Sweep
from tests.unit.orchestrator.conftest import LoadSweep
from tests.unit.orchestrator.fake_cluster import World, finish, jobs_of, write_shard

FOLLOWING = {"name": "two_heads", "at": [{"site": "head_output", "layer": 1, "units": [0, 2]}]}
FIXED: dict[str, Any] = {"name": "over", "at": [{"layer": 0, "position": 80}, {"layer": 2, "position": 81}]}
GRID = {"experiments": ["left_boundary"], "layers": [0, 1], "positions": "80..81", "places": [FOLLOWING, FIXED]}


def measured(load: LoadSweep, world: World, *, without: str = "", name: str = "small", **grid: Any) -> Sweep:
    """The small sweep with two sets, every cell with 70 of 100 right, but for those of the set `without`."""
    changes = {"name": name, "grid": GRID | grid, "method": "interchange"}
    load(**changes).submit()
    for job in jobs_of(load(**changes)):
        finish(world, job)
        keys = [cell.key for one in job.cohorts for cell in one.cells if cell.place.columns()["place"] != without]
        write_shard(job, keys, metric="iia", n_correct_none=61, n_correct_full=70)
    return load(**changes)


def test_a_set_has_a_line_of_its_own(load: LoadSweep, world: World) -> None:
    """Its name in place of a site; a position where its points follow the grid's, else none, and never a layer."""
    table = measured(load, world).summary().set_index("site")
    assert table["n_measured"].to_dict() == {"block_output": 4, "two_heads": 2, "over": 1}
    assert table["layer"].isna().to_dict() == {"block_output": False, "two_heads": True, "over": True}
    assert table.loc["two_heads", "position"] == 80
    assert table["position"].isna().to_dict() == {"block_output": False, "two_heads": False, "over": True}


def test_the_end_of_a_run_says_where_only_what_there_is(load: LoadSweep, world: World) -> None:
    """`at p80` of a set at the grid's positions, and nothing where each point has its own."""
    sweep = measured(load, world)
    said = ending(sweep, sweep.status(), wall_s=3.0, was_stopped=False)
    assert "left_boundary: best IIA 0.700 at L0 p80 (" in said
    assert "left_boundary, two_heads: best IIA 0.700 at p80 (" in said
    assert "left_boundary, over: best IIA 0.700 (" in said


def test_the_page_names_sets_and_draws_the_sites_alone(load: LoadSweep, world: World) -> None:
    """One map; in the tables each set with its position, its tokens, and its seed as a whole number, although another
    one is not measured."""
    sweep = measured(load, world, without="over")
    content = page_content(sweep.results(), sweep.cells(), title="sets")
    assert [one["site"] for one in payload(content)["maps"]] == ["block_output"]
    page = render(content)
    assert "two heads" in page
    assert "position 80 <code>" in page
    assert "seed 42.0" not in page


def test_sets_alone_have_a_page_and_no_figure(load: LoadSweep, world: World, tmp_path: Path) -> None:
    """A grid of sets only: the report is written, and a figure is refused with the reason."""
    sweep = measured(load, world, exclude=[{"site": "block_output"}])
    assert "two heads" in sweep.report(tmp_path / "report").read_text(encoding="utf-8")
    for draw in (lambda: sweep.figures(tmp_path / "paper"), lambda: sweep.heatmap()):
        with pytest.raises(SpecError, match="a set of places has no layers, so that it has no map"):
            draw()


def test_sets_of_one_name_are_compared_where_their_points_are_the_same(load: LoadSweep, world: World) -> None:
    """Another sweep's set of that name with another layer is another cell: nothing is subtracted."""
    one = measured(load, world)
    world.tokens.clear()
    others = [FOLLOWING, FIXED | {"at": [FIXED["at"][0], {"layer": 1, "position": 81}]}]
    other = measured(load, world, name="other", places=others)
    maps = one.compare(other)[0].maps.set_index("site")
    counts = maps[["n_both", "n_a", "n_b"]].apply(tuple, axis=1).to_dict()
    assert counts == {"block_output": (4, 0, 0), "two_heads": (2, 0, 0), "over": (0, 1, 1)}
