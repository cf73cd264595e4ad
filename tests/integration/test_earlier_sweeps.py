"""Sweeps that an earlier version left behind, taken up again by this one with real workers."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pytest

from orchestrator import Sweep
from orchestrator.spec.text import to_yaml
from orchestrator.status.cell_state import CellState
from tests.earlier import copied

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def spec_of(folder: Path, name: str, model: Path, **changes: Any) -> Path:
    """The spec of an earlier version's sweep, on a model where it is now, with some sections replaced."""
    boundless = {"name": "boundless_das", "epochs": 1, "rotation_lr": 2e-3}
    spec = {
        "name": name,
        "model": {"path": str(model), "dtype": "float32"},
        "task": "price_tagging",
        "grid": {
            "experiments": ["left_boundary"],
            "layers": [0, 2],
            "positions": [80],
            "methods": [boundless, "interchange"],
        },
        "data": {"n_train": 64, "n_eval": 16, "n_test": 32},
        "settings": [{"name": "correct_examples", "keep": "correct"}],
        "gate": {"task_accuracy": 0.5},
        "local": {"workers": 1},
    }
    path = folder / f"{name}.yaml"
    path.write_text(to_yaml(spec | changes), encoding="utf-8")
    return path


def rows_of_job(rows: pd.DataFrame, job: str) -> pd.DataFrame:
    """The rows that a job wrote, in one order."""
    return rows[rows["job"] == job].sort_values(["cell_key", "setting"]).reset_index(drop=True)


def test_a_finished_sweep_is_grown_and_only_the_new_cells_run(tmp_path: Path, demo_model: Path) -> None:
    """One more position: four cells are planned and run, and the old rows are as they were, to the last bit."""
    before = Sweep.load(copied("schema_1/previous", tmp_path)).results()
    grid = {
        "experiments": ["left_boundary"],
        "layers": [0, 2],
        "positions": [80, 79],
        "methods": [{"name": "boundless_das", "epochs": 1, "rotation_lr": 2e-3}, "interchange"],
    }
    sweep = Sweep.load(spec_of(tmp_path, "previous", demo_model, grid=grid), sweeps=tmp_path)
    assert sweep.plan().n_to_run == 4
    status = sweep.run()
    assert status.is_done
    rows = sweep.results()
    pd.testing.assert_frame_equal(rows_of_job(rows, "r1-0001"), rows_of_job(before, "r1-0001"), check_exact=True)
    new = rows[rows["job"] != "r1-0001"]
    assert set(new["position"]) == {79}
    assert (len(before), len(new)) == (8, 8)
    assert set(rows["site"]) == {"block_output"}


def test_a_finished_sweep_is_grown_by_sites(tmp_path: Path, demo_model: Path) -> None:
    """Two more sites: only their cells are planned and run, the old rows are as they were, to the last bit, and a
    reader's query over all rows finds both."""
    before = Sweep.load(copied("schema_1/previous", tmp_path)).results()
    grid = {
        "experiments": ["left_boundary"],
        "layers": [0, 2],
        "positions": [80],
        "sites": ["block_output", {"head_output": [1]}, "mlp_output"],
        "methods": [{"name": "boundless_das", "epochs": 1, "rotation_lr": 2e-3}, "interchange"],
    }
    sweep = Sweep.load(spec_of(tmp_path, "previous", demo_model, grid=grid), sweeps=tmp_path)
    assert sweep.plan().n_to_run == 8
    assert sweep.run().is_done
    rows = sweep.results()
    pd.testing.assert_frame_equal(rows_of_job(rows, "r1-0001"), rows_of_job(before, "r1-0001"), check_exact=True)
    new = rows[rows["job"] != "r1-0001"]
    assert (len(before), len(new)) == (8, 16)
    assert set(zip(new["site"], new["unit"].fillna(-1), strict=True)) == {("head_output", 1), ("mlp_output", -1)}


def test_a_cancelled_training_resumes_from_its_checkpoint(tmp_path: Path, demo_model: Path) -> None:
    """Its checkpoint of 138 steps, written by the version before, is where the training resumes."""
    copied("schema_1/halfway", tmp_path)
    method = {"name": "boundless_das", "epochs": 300, "batch_size": 32, "eval_every": 0, "rotation_lr": 2e-3}
    grid = {"experiments": ["left_boundary"], "layers": [2], "positions": [80], "methods": [method, "interchange"]}
    sweep = Sweep.load(spec_of(tmp_path, "halfway", demo_model, grid=grid, settings=[]), sweeps=tmp_path)
    assert sweep.status().counts[CellState.MISSING] == 2
    assert sweep.resume().n_cells == 2
    *_, status = sweep.watch(poll_s=0.5)
    assert status.is_done
    assert "resumed at step 138 of 600" in (sweep.folder.logs / "r2-0001.log").read_text()
    assert not list(sweep.folder.checkpoints.iterdir())


def test_the_store_is_right_when_nobody_waits(tmp_path: Path, demo_model: Path) -> None:
    """After `submit` alone, no command looks on: once the last job has ended DuckDB finds every row in the store."""
    grid = {"experiments": ["left_boundary"], "layers": [0, 2], "positions": [80], "methods": ["interchange"]}
    spec = spec_of(tmp_path, "alone", demo_model, grid=grid, jobs={"target_h": 1e-6}, local={"workers": 2})
    receipt = Sweep.load(spec, sweeps=tmp_path).submit()
    assert receipt.submission is not None
    runs, deadline = tmp_path / "alone" / "cluster" / "local" / "runs", time.monotonic() + 300
    while sum('"ended": 0.0' not in path.read_text() for path in runs.glob("*.json")) < len(receipt.submission.jobs):
        assert time.monotonic() < deadline, "the jobs have not ended"
        time.sleep(0.2)
    with duckdb.connect() as connection:
        store = str(tmp_path / "alone" / "store" / "results.parquet")
        answer = connection.execute("SELECT count(*), count(DISTINCT cell_key) FROM read_parquet(?)", [store])
        assert answer.fetchone() == (4, 2)
