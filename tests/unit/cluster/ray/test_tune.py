"""A trial of a search where Ray is not needed: what it reports of a command that is over."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.ray.tune import CommandTrial


def ended_trial(folder: Path, *, code: int, readings: dict[str, float]) -> CommandTrial:
    """A trial of nine rungs whose command ended with `code` and published these readings last."""
    trial: Any = CommandTrial.__new__(CommandTrial)
    trial._metric, trial._n_rungs, trial._rung, trial._value = "iia", 9, 0, None
    trial._published, trial._log = folder / "metrics.json", folder / "trial.log"
    trial._published.write_text(json.dumps([{"name": name, "value": value} for name, value in readings.items()]))
    trial._log.write_text("the end\n")
    trial._command = SimpleNamespace(exit_code=lambda: code)
    return trial


def test_a_command_that_ends_reports_its_last_measure(tmp_path: Path) -> None:
    """Whatever rung it was at, it is at the last one."""
    trial = ended_trial(tmp_path, code=0, readings={"iia": 0.75, "steps_done": 7, "steps_total": 9})
    assert trial.step() == {"iia": 0.75, "rung": 9, "done": True}


def test_one_started_again_behind_its_last_measurement_ends_with_that(tmp_path: Path) -> None:
    """Killed after the last measurement and before its end, it measures nothing anew: its last report counts."""
    trial = ended_trial(tmp_path, code=0, readings={"steps_done": 9, "steps_total": 9})
    trial.load_checkpoint({"rung": 8, "value": 0.5})
    assert trial.save_checkpoint("") == {"rung": 8, "value": 0.5}
    assert trial.step() == {"iia": 0.5, "rung": 9, "done": True}


@pytest.mark.parametrize("code", [0, 1])
def test_one_that_never_measured_anything_has_failed(tmp_path: Path, code: int) -> None:
    """Its exit code and the end of its log are named."""
    with pytest.raises(RuntimeError, match=f"exit code {code}; .*trial.log ends:\\nthe end"):
        ended_trial(tmp_path, code=code, readings={}).step()
