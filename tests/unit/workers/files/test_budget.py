"""The budget of a sweep, and the hours that its attempts have used."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from workers.files.budget import Budget, Meter, read_budget, why_reached, write_budget
from workers.files.folder import SweepFolder
from workers.files.progress import AttemptState, Progress
from workers.job import budget as watching
from workers.job.budget import BudgetSpent, BudgetWatch


@pytest.fixture
def folder(tmp_path: Path) -> SweepFolder:
    """A sweep's folder."""
    folder = SweepFolder(tmp_path)
    folder.make()
    return folder


def attempt(folder: SweepFolder, job: str, number: int, seconds: float, *, n_gpus: int = 1, over: bool = True) -> None:
    """An attempt that has used its GPUs for so long."""
    folder.job_file(job).write_text(json.dumps({"n_gpus": n_gpus}))
    progress = Progress(
        job=job,
        attempt=number,
        state=AttemptState.FAILED if over else AttemptState.RUNNING,
        host="node1",
        pid=1,
        backend="slurm",
        scheduler_job_id="",
        gpu_name="A",
        gpu_uuid="",
        started=1000.0,
        updated=1000.0 + seconds,
        ended=1000.0 + seconds if over else 0.0,
    )
    (folder.progress / f"{folder.attempt_name(job, number)}.json").write_text(progress.to_json())


def test_hours_of_all_attempts_and_gpus_are_added(folder: SweepFolder) -> None:
    """2 x 1 h on 4 GPUs and half an hour that still runs; a claimed attempt has used nothing."""
    attempt(folder, "r1-0001", 1, 3600, n_gpus=4)
    attempt(folder, "r1-0001", 2, 3600, n_gpus=4)
    attempt(folder, "r2-0001", 1, 1800, over=False)
    (folder.progress / "r2-0002-0001.json").touch()
    meter = Meter(folder)
    assert meter.spent_h() == 8.5
    attempt(folder, "r2-0001", 1, 3600, over=False)
    assert meter.spent_h() == 9.0


def test_the_budget_is_reached_when_it_is_spent(folder: SweepFolder) -> None:
    """To the hour; without a budget never."""
    assert read_budget(folder) is None
    write_budget(folder, Budget(gpu_hours=8.5, from_spec=8.5))
    budget = read_budget(folder)
    assert budget == Budget(gpu_hours=8.5, from_spec=8.5)
    assert why_reached(budget, 8.49) == ""
    assert "8.5 GPU-hours is spent (8.50 so far)" in why_reached(budget, 8.5)
    assert why_reached(Budget(gpu_hours=None), 1e9) == why_reached(None, 1e9) == ""


def test_a_job_begins_nothing_once_it_is_spent(folder: SweepFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked again for each group of cells: a limit counts that was lowered while the job runs."""
    monkeypatch.setattr(watching, "_EVERY_S", 0.0)
    attempt(folder, "r1-0001", 1, 3600)
    watch = BudgetWatch(folder)
    watch.check()
    write_budget(folder, Budget(gpu_hours=1.5))
    watch.check()
    write_budget(folder, Budget(gpu_hours=1.0))
    with pytest.raises(BudgetSpent, match="--gpu-hours"):
        watch.check()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 99}'])
def test_a_budget_that_cannot_be_read_is_no_licence(folder: SweepFolder, text: str) -> None:
    """Nothing begins, and the file is named."""
    folder.budget.write_text(text)
    with pytest.raises(BudgetSpent, match=r"budget\.json"):
        BudgetWatch(folder).check()
