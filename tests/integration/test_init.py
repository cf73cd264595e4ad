"""From `init` to results, with a model and a task that are not the demo's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.sweep import Sweep

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PROJECT = Path(__file__).parents[2]


def test_what_init_writes_runs(tmp_path: Path) -> None:
    """The three commands that it says, on fewer pairs: the arithmetic model solves its task, so its cells are done; the
    example task, which it cannot read, runs too where the gate lets it."""
    model = PROJECT / "examples" / "arithmetic-model"

    def run(*words: str) -> str:
        command = [sys.executable, "-m", "orchestrator", *words]
        return subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout

    said = run("init", str(model), "--task", "arithmetic", "--name", "sums")
    commands = [line.split()[1:] for line in said.splitlines() if line.startswith("  causalsweep")]
    assert [words[0] for words in commands] == ["prompt", "plan", "run"]
    small = ["--set", "data.n_train=64", "--set", "data.n_test=20", "--set", "grid.layers=[0]"]
    for words in commands:
        run(*words, *(small if words[0] == "run" else []))
    assert set(Sweep.load(tmp_path / "sweeps" / "sums").results()["status"]) == {"done"}
    run("init", str(model), "--name", "new")
    run("run", "new.yaml", *small, "--set", "gate.task_accuracy=0")
    assert set(Sweep.load(tmp_path / "sweeps" / "new").results()["status"]) == {"done"}
