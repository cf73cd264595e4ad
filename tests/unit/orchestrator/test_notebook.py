"""What a notebook shows: short texts and small tables, and the example notebook from its first cell to its last."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import SpecError
from tests.unit.orchestrator.conftest import LoadSweep, Run
from tests.unit.orchestrator.fake_cluster import World, finish, jobs_of, write_shard

NOTEBOOK = Path(__file__).parents[3] / "examples" / "notebook.ipynb"


@pytest.fixture
def finished(load: LoadSweep, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LoadSweep:
    """The small sweep, done, in the present folder."""
    load().submit()
    for job in jobs_of(load()):
        finish(world, job)
        write_shard(job, metric="iia", n_correct_none=61, n_correct_full=73, n_correct_random=58)
    monkeypatch.chdir(tmp_path)
    return load


def test_texts_are_short_and_have_counts(finished: LoadSweep) -> None:
    """Sweep, plan and status say how many cells there are, in a line or a table, and no key."""
    sweep = finished()
    keys = [cell.key for _, cell in sweep.grid.cells()]
    for shown in (sweep, sweep.status(), sweep.plan(on="local")):
        assert len(repr(shown)) < 200
        assert "8" in repr(shown)
        html = shown._repr_html_()
        assert "<td>8" in html
        assert not any(key in html or key in repr(shown) for key in keys)


def test_the_example_notebook_runs(finished: LoadSweep) -> None:
    """Each code cell, with the small sweep in place of the demo."""
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    found: dict[str, Any] = {}
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert len(code) >= 5
    for source in code:
        exec(compile(source.replace('"demo"', '"small"'), "cell", "exec"), found)
    assert found["axes"].get_title(loc="left") == "left boundary"
    assert found["page"]._repr_html_().startswith("<iframe srcdoc=")
    assert str(found["page"]).endswith("index.html")


def test_report_draws_for_a_paper(finished: LoadSweep, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """`report --figure` prints the files, of another metric too; a width without a unit is named."""
    figure = ("report", "small", "--figure", "--experiment", "left_boundary", "--format", "svg")
    assert run(*figure, "--metric", "flips") == 0
    assert capsys.readouterr().out.endswith("report/paper/left_boundary_boundless_das_flips.svg\n")
    assert run(*figure, "--width", "14cm") == 0
    (path,) = capsys.readouterr().out.split()
    assert path.endswith("report/paper/left_boundary_boundless_das.svg")
    assert Path(path).is_file()
    assert run(*figure, "--width", "14") == 2
    assert "--width: got '14'; expected a length such as 5.5in, 14cm or 400pt" in capsys.readouterr().err


def test_an_option_of_figures_without_them_is_named(
    finished: LoadSweep, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    """The page has no width and no format: nothing is taken without a word."""
    assert run("report", "small", "--width", "14cm", "--experiment", "left_boundary") == 2
    assert "--width, --experiment: for the figures of a paper only; add --figure" in capsys.readouterr().err


def test_a_map_that_is_not_named_is_not_guessed(finished: LoadSweep) -> None:
    """With two experiments none is drawn silently: the error says which there are."""
    with pytest.raises(SpecError, match=r"2 maps fit; give also experiment= \('left_boundary', 'bracket_identity'\)"):
        finished().heatmap()
    assert finished().heatmap("bracket_identity").get_title(loc="left") == "bracket identity"
    with pytest.raises(SpecError, match="site: got 'mlp_output'"):
        finished().heatmap("bracket_identity", site="mlp_output")
