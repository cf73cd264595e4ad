"""What a job publishes for a cluster's dashboard."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from workers.files.job import Cohort, Job, JobCell, Stream
from workers.files.place import Place
from workers.files.progress import ENV_METRICS_FILE, AttemptState, Progress
from workers.job.gauges import MetricsFile

CELLS = tuple(JobCell(key=f"k{index}", place=Place(layer=index // 2, position=80), token="x") for index in range(4))
STREAM = Stream(model={}, task={}, hypothesis="left_boundary", seed=42, data={}, method={}, engine="suffix")
COHORT = Cohort(experiment="left", stream=STREAM, cells=CELLS)
JOB = Job(
    job="j",
    sweep="s",
    folder="/nowhere",
    label="",
    model_path="",
    model_revision="",
    gate_task_accuracy=0.0,
    cohorts=(COHORT,),
)
PROGRESS = Progress(
    job="j",
    attempt=1,
    state=AttemptState.RUNNING,
    host="",
    pid=1,
    backend="",
    scheduler_job_id="",
    gpu_name="",
    gpu_uuid="",
    started=0.0,
    updated=0.0,
    running_cells=("k1",),
    pairs_per_s=640.0,
)


def row(key: str, status: str = "done", iia: float | None = 0.5, setting: str = "main") -> dict[str, Any]:
    """A row as a cohort hands it over."""
    return {"cell_key": key, "status": status, "iia": iia, "setting": setting, "metric": "iia"}


def by_name_and_layer(readings: list[dict[str, Any]]) -> dict[tuple[str, str], float]:
    """The values, by name and layer."""
    return {(one["name"], one["tags"].get("layer", "")): one["value"] for one in readings}


def test_cells_are_counted_by_layer_and_state() -> None:
    """k0 done earlier, k1 running, k2 done with 0.9, k3 failed: layer 0 has 1 done and 1 running, layer 1 one each."""
    metrics = MetricsFile(JOB)
    metrics.begin([replace(COHORT, cells=CELLS[1:])])
    metrics.count([row("k2", iia=0.9), row("k2", iia=0.1, setting="other"), row("k3", "failed", None)])
    seen = by_name_and_layer(metrics.readings(PROGRESS))
    assert (seen["cells_done", "0"], seen["cells_running", "0"], seen["cells_failed", "0"]) == (1, 1, 0)
    assert (seen["cells_done", "1"], seen["cells_running", "1"], seen["cells_failed", "1"]) == (1, 0, 1)
    assert seen["best_iia", "1"] == 0.9
    assert ("best_iia", "0") not in seen
    assert seen["pairs_per_s", ""] == 640.0


def test_readings_carry_the_experiment_as_hypothesis() -> None:
    """The tags name the experiment, and how jobs are added up is said."""
    readings = MetricsFile(JOB).readings(PROGRESS)
    assert {one["tags"]["hypothesis"] for one in readings if one["tags"]} == {"left"}
    assert {one["name"]: one["combine"] for one in readings}["cells_running"] == "now"


def test_sites_of_a_layer_are_told_apart() -> None:
    """A head's best IIA is not that of the block's output at the same layer; every count has the same tags."""
    head = JobCell(key="head", place=Place(layer=1, position=80, site="head_output", unit=2), token="x")
    metrics = MetricsFile(replace(JOB, cohorts=(replace(COHORT, cells=(*CELLS, head)),)))
    metrics.count([row("k2", iia=0.9), row("head", iia=0.6)])
    readings = metrics.readings(PROGRESS)
    best = {(one["tags"]["layer"], one["tags"]["site"]): one["value"] for one in readings if one["name"] == "best_iia"}
    assert best == {("1", "block_output"): 0.9, ("1", "head_output"): 0.6}
    assert {tuple(one["tags"]) for one in readings if one["tags"]} == {("hypothesis", "layer", "site")}


def test_the_file_is_written_where_the_backend_wants_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The file that the environment names holds the readings; without a name nothing is written."""
    MetricsFile(JOB).write(PROGRESS)
    monkeypatch.setenv(ENV_METRICS_FILE, str(tmp_path / "j.json"))
    metrics = MetricsFile(JOB)
    metrics.write(PROGRESS)
    assert json.loads((tmp_path / "j.json").read_text()) == metrics.readings(PROGRESS)
    assert [path.name for path in tmp_path.iterdir()] == ["j.json"]


def test_a_file_that_cannot_be_written_does_no_harm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A missing folder is no error: the numbers are for watching only."""
    monkeypatch.setenv(ENV_METRICS_FILE, str(tmp_path / "gone" / "j.json"))
    MetricsFile(JOB).write(PROGRESS)
    assert list(tmp_path.iterdir()) == []
