"""What a notebook shows: short texts and small tables, and the example notebook from its first cell to its last."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from orchestrator import cli
from tests.unit.orchestrator.conftest import LoadSweep
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


def test_report_draws_for_a_paper(
    finished: LoadSweep, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`report --figure` prints the files; a width without a unit is named."""

    def run(*words: str) -> int:
        monkeypatch.setattr(sys, "argv", ["causalsweep", "report", "small", "--figure", *words])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return int(str(end.value.code or 0))

    assert run("--width", "14cm", "--format", "svg", "--experiment", "left_boundary") == 0
    (path,) = capsys.readouterr().out.split()
    assert path.endswith("report/paper/left_boundary_boundless_das.svg")
    assert Path(path).is_file()
    assert run("--width", "14") == 2
    assert "--width: got '14'; expected a length such as 5.5in, 14cm or 400pt" in capsys.readouterr().err
