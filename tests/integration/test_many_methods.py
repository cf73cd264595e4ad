"""One sweep of a method with several values of a setting, one of which cannot be: run, checked, and drawn."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator import Sweep
from orchestrator.spec.text import to_yaml

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, demo_model: Path) -> Path:
    """DAS of 1 and 4 dimensions, and of 40 for each of two variables: more than the hidden state's 64."""
    folder = tmp_path_factory.mktemp("methods")
    spec = {
        "name": "methods",
        "model": {"path": str(demo_model), "dtype": "float32"},
        "task": "price_tagging",
        "grid": {"experiments": "left_and_right_boundary", "layers": 2, "positions": 81},
        "method": {"name": "das", "k": [1, 4, 40], "epochs": 1},
        "data": {"n_train": 128, "n_eval": 8, "n_test": 64},
    }
    (folder / "methods.yaml").write_text(to_yaml(spec), encoding="utf-8")
    ended = causalsweep(folder, "run", "methods.yaml")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "methods: 2 done, 1 inapplicable; in" in ended.stdout
    return folder


def causalsweep(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command, run to its end in `folder`."""
    command = [sys.executable, "-m", "orchestrator", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=500)


def test_methods_of_one_name_are_told_apart_in_the_results(folder: Path) -> None:
    """By their labels, and a filter finds each; their keys and widths differ."""
    rows = Sweep.load("methods", sweeps=folder / "sweeps").results()
    found = {row["method"]: (row["status"], row["subspace_dim"]) for row in rows.to_dict("records")}
    assert (found["das_k1"], found["das_k4"]) == (("done", 2), ("done", 8))
    assert found["das_k40"][0] == "skipped"
    assert rows["cell_key"].nunique() == len(rows) == 3
    chosen = json.loads(causalsweep(folder, "results", "methods", "--where", "method=das_k4", "--json").stdout)
    assert [row["method"] for row in chosen] == ["das_k4"]


def test_a_cell_that_cannot_be_does_not_keep_the_sweep_from_being_done(folder: Path) -> None:
    """`check` succeeds and says why one cell has no number; nothing is left to submit."""
    checked = causalsweep(folder, "check", "methods")
    assert checked.returncode == 0
    assert "2 of 3 cells done" in checked.stdout
    assert "1 cell inapplicable, for instance: k: 2 x 40 dimensions do not fit" in checked.stdout
    assert "nothing to run" in causalsweep(folder, "resume", "methods").stdout


def test_each_has_a_map_of_its_own_in_the_report(folder: Path) -> None:
    """Pictures, and the page's maps and table, by label."""
    assert causalsweep(folder, "report", "methods").returncode == 0
    report = folder / "sweeps" / "methods" / "report"
    names = ["das_k1", "das_k4", "das_k40"]
    for name in names:
        assert (report / "figures" / f"iia_{name}_main_raw_maximum.png").exists()
    page = (report / "index.html").read_text(encoding="utf-8")
    assert sorted(set(re.findall(r'"method": ?"(\w+)"', page))) == names
    assert "k: 2 x 40 dimensions do not fit" in page
