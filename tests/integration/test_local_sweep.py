"""A real sweep on this machine: real workers, the demo checkpoint, and what a kill at any moment costs: nothing."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest

from orchestrator import Sweep
from orchestrator.spec.text import to_yaml
from orchestrator.status.states import CellState
from tests.rows import assert_same_science
from workers.files.progress import read_progress

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

COMMAND = [sys.executable, "-m", "orchestrator"]
ONE_CELL = {"experiments": ["left_boundary"], "layers": [2], "positions": 80}


def write_spec(folder: Path, model: Path, **changes: Any) -> Path:
    """A sweep of 8 cells: two hypotheses, two layers, two positions; some seconds of training."""
    spec = {
        "name": "tiny",
        "model": {"path": str(model), "dtype": "float32"},
        "task": "price_tagging",
        "grid": {"experiments": ["left_boundary", "bracket_identity"], "layers": [1, 3], "positions": "80..81"},
        "data": {"n_train": 1280, "n_eval": 64, "n_test": 128},
        "gate": {"task_accuracy": 0.5},
        "run": {"checkpoint_every_s": 1.0, "heartbeat_s": 0.5},
        "local": {"workers": 2},
    }
    path = folder / "tiny.yaml"
    path.write_text(to_yaml(spec | changes), encoding="utf-8")
    return path


def causalsweep(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command, run to its end in `folder`."""
    return subprocess.run([*COMMAND, *arguments], cwd=folder, capture_output=True, text=True, timeout=1000)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, demo_model: Path) -> Path:
    """A folder in which the sweep ran through from the command line."""
    folder = tmp_path_factory.mktemp("undisturbed")
    write_spec(folder, demo_model)
    ended = causalsweep(folder, "run", "tiny.yaml")
    assert ended.returncode == 0, ended.stderr
    assert "all 8 cells done" in ended.stdout
    return folder


@pytest.fixture
def expected(undisturbed: Path) -> pd.DataFrame:
    """The rows of the undisturbed run."""
    return Sweep.load("tiny", sweeps=undisturbed / "sweeps").results()


def worker_pids(folder: Path) -> list[int]:
    """The workers of the sweep in `folder` that run now, from their command lines."""
    lines = {process.pid: process.info["cmdline"] or () for process in psutil.process_iter(["cmdline"])}
    return [
        pid
        for pid, words in lines.items()
        if "workers" in words and any(word.startswith(str(folder)) for word in words)
    ]


@contextlib.contextmanager
def started(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A command that is killed at the end, if it still runs."""
    process = subprocess.Popen(
        [*COMMAND, *arguments], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_for(condition: Callable[[], bool], what: str, limit_s: float = 300.0) -> None:
    """Returns when `condition` holds."""
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.1)


def steps_done(folder: Path) -> int:
    """Cell-steps that all attempts of the sweep have made so far."""
    records = [read_progress(path) for path in (folder / "sweeps" / "tiny" / "progress").glob("*.json")]
    return sum(record.steps_done for record in records if record)


def test_every_cell_once_with_its_measures(expected: pd.DataFrame) -> None:
    """One row a cell, all measured, with controls and the model's own accuracy."""
    assert len(expected) == expected["cell_key"].nunique() == 8
    assert set(expected["status"]) == {"done"}
    assert (expected[["n_total", "n_correct_none", "n_correct_full", "task_n_total"]] > 0).all().all()


def test_second_run_gives_the_same_rows(expected: pd.DataFrame, tmp_path: Path, demo_model: Path) -> None:
    """Cut into other jobs, for three workers instead of two, the rows are the same."""
    write_spec(tmp_path, demo_model, local={"workers": 3})
    ended = causalsweep(tmp_path, "run", "tiny.yaml", "--json")
    assert ended.returncode == 0, ended.stderr
    status = json.loads(ended.stdout)
    assert len(status["jobs"]) != 2
    assert_same_science(Sweep.load("tiny", sweeps=tmp_path / "sweeps").results(), expected)


def test_nothing_is_left_to_do(undisturbed: Path) -> None:
    """`check` says 0, `submit` finds nothing, `report` draws the page, `summary` prints
    the table, `status --json` is the whole truth."""
    assert causalsweep(undisturbed, "check", "tiny").returncode == 0
    assert "nothing to run" in causalsweep(undisturbed, "submit", "tiny.yaml").stdout
    assert Path(causalsweep(undisturbed, "report", "tiny").stdout.strip()).stat().st_size > 0
    assert "left_boundary" in causalsweep(undisturbed, "summary", "tiny").stdout
    lines = json.loads(causalsweep(undisturbed, "summary", "tiny", "--json").stdout)
    assert [(line["experiment"], line["n_measured"]) for line in lines] == [
        ("left_boundary", 4),
        ("bracket_identity", 4),
    ]
    status = json.loads(causalsweep(undisturbed, "status", "tiny", "--json").stdout)
    assert (status["is_done"], status["cells"]["done"]) == (True, 8)


@pytest.mark.parametrize("seed", [1, 2])
def test_killed_and_resumed_gives_the_same_rows(
    expected: pd.DataFrame, tmp_path: Path, demo_model: Path, seed: int
) -> None:
    """SIGKILL of workers and command line at random moments; after `resume` every cell once, every row the same."""
    write_spec(tmp_path, demo_model)
    rng = random.Random(seed)
    n_kills = 0
    for command in ("run", "resume", "resume"):
        with started(tmp_path, command, "tiny.yaml" if command == "run" else "tiny") as process:
            before = steps_done(tmp_path)
            wait_for(lambda before=before: steps_done(tmp_path) > before, "training to begin")  # type: ignore[misc]
            time.sleep(rng.uniform(0, 1.5))
            for pid in worker_pids(tmp_path):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    n_kills += 1
            process.kill()
    assert n_kills > 0
    causalsweep(tmp_path, "resume", "tiny")
    ended = causalsweep(tmp_path, "run", "tiny.yaml")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert_same_science(Sweep.load("tiny", sweeps=tmp_path / "sweeps").results(), expected)


def test_ctrl_c_stops_with_checkpoints_and_resume_goes_on(
    expected: pd.DataFrame, tmp_path: Path, demo_model: Path
) -> None:
    """One Ctrl-C: the workers checkpoint and stop, the command ends with 1; `run` again continues from there."""
    write_spec(tmp_path, demo_model)
    with started(tmp_path, "run", "tiny.yaml") as process:
        wait_for(lambda: steps_done(tmp_path) > 0, "training to begin")
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=300)
    assert process.returncode == 1, output
    assert worker_pids(tmp_path) == []
    folder = Sweep.load("tiny", sweeps=tmp_path / "sweeps").folder
    assert list(folder.checkpoints.glob("*.safetensors"))
    assert causalsweep(tmp_path, "run", "tiny.yaml").returncode == 0
    sweep = Sweep.load("tiny", sweeps=tmp_path / "sweeps")
    again = [attempt.progress for job in sweep.status().jobs if job.submission == 2 for attempt in job.attempts]
    assert again
    assert_same_science(sweep.results(), expected)


def test_ctrl_c_twice_stops_at_once(tmp_path: Path, demo_model: Path) -> None:
    """Workers that hang do not listen to the first Ctrl-C; the second one kills them, and nothing holds the cell."""
    write_spec(tmp_path, demo_model, grid=ONE_CELL)
    with started(tmp_path, "run", "tiny.yaml") as process:
        wait_for(lambda: steps_done(tmp_path) > 0, "training to begin")
        for pid in worker_pids(tmp_path):
            os.kill(pid, signal.SIGSTOP)
        process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=2)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 1, output
    assert worker_pids(tmp_path) == []
    assert Sweep.load("tiny", sweeps=tmp_path / "sweeps").status().counts == {CellState.MISSING: 1}


def test_the_command_line_may_die(tmp_path: Path, demo_model: Path) -> None:
    """SIGKILL of the command line alone: the workers run on, and the sweep is done."""
    write_spec(tmp_path, demo_model, grid=ONE_CELL)
    with started(tmp_path, "run", "tiny.yaml") as process:
        wait_for(lambda: bool(worker_pids(tmp_path)), "a worker")
        process.kill()
    sweep = Sweep.load("tiny", sweeps=tmp_path / "sweeps")
    wait_for(lambda: sweep.status().is_quiet, "the workers")
    assert sweep.status().counts == {CellState.DONE: 1}


def test_grown_grid_trains_the_new_cells_only(undisturbed: Path, demo_model: Path) -> None:
    """A position more: only its cells are run, and the old rows stay as they were."""
    before = Sweep.load("tiny", sweeps=undisturbed / "sweeps").results()
    grid = {"experiments": ["left_boundary", "bracket_identity"], "layers": [1, 3], "positions": "79..81"}
    write_spec(undisturbed, demo_model, grid=grid)
    assert causalsweep(undisturbed, "run", "tiny.yaml").returncode == 0
    after = Sweep.load("tiny", sweeps=undisturbed / "sweeps").results()
    assert len(after) == 12
    old = after[after["cell_key"].isin(before["cell_key"])].reset_index(drop=True)
    pd.testing.assert_frame_equal(old, before, check_exact=True)


def test_model_that_fails_the_gate_is_skipped(tmp_path: Path, demo_model: Path) -> None:
    """Below the gate the cells are recorded as skipped with the reason; `check` does not call that done."""
    write_spec(tmp_path, demo_model, gate={"task_accuracy": 1.0})
    assert causalsweep(tmp_path, "run", "tiny.yaml").returncode == 1
    checked = causalsweep(tmp_path, "check", "tiny")
    assert checked.returncode == 1
    assert "8 cells skipped, for instance: task accuracy" in checked.stdout
