"""A search of a method's settings through Ray Tune, on real raylets."""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from cluster.process import ProcessId
from cluster.ray.search import Trial, read_trials
from cluster.testbed.machine import family, send
from cluster.testbed.ray import RayTestbed
from orchestrator import Sweep
from orchestrator.errors import SpecError
from orchestrator.search.tune import Range, tune
from workers.files.progress import AttemptState, Progress, read_progress

pytestmark = [pytest.mark.ray, pytest.mark.slow]

N_PAIRS = 2304  # per training: 36 steps of 64, measured after every fourth
NOTHING = 1e-8  # a learning rate at which an alignment stays what it was at the start
SPACE = {"rotation_lr": (2e-3, NOTHING), "boundary_penalty": Range(low=0.1, high=1.0, log=True)}
SEED = 11  # draws a good learning rate, another, NOTHING, and a good one


@pytest.fixture
def spec(demo_model: Path, bed: RayTestbed, tmp_path: Path) -> Path:
    """A sweep of four cells; a trial of it takes a node, so the first two have been measured when the third begins."""
    bed.up()
    raw = {
        "name": "tiny",
        "model": {"path": str(demo_model), "dtype": "float32"},
        "task": "price_tagging",
        "grid": {"experiments": ["left_boundary"], "layers": "1..2", "positions": "80..81"},
        "method": {"name": "boundless_das", "epochs": 2},
        "data": {"n_train": N_PAIRS // 2, "n_eval": 64, "n_test": 64},
        "gate": {"task_accuracy": 0.5},
        "run": {"checkpoint_every_s": 0.2},
        "cluster": {"nodes": 1, "gpus_per_node": 1, "gpu": "cpu"},
        "ray": {"address": bed.address, "cpus_per_job": bed.n_cpus},
    }
    path = tmp_path / "tiny.yaml"
    path.write_text(json.dumps(raw), encoding="utf-8")
    return path


def test_a_search_ends_with_a_spec_that_can_be_planned(spec: Path, tmp_path: Path) -> None:
    """Four trials on one cell. The one that learns nothing is stopped early, one that is killed half-way resumes from
    its checkpoint; the best one's settings, of those that were measured to the end, are in a spec that plans all
    four cells anew."""
    sweeps, folder = tmp_path / "sweeps", tmp_path / "sweeps" / "tiny-search-1"
    where = ["layer=2", "position=81"]
    with ThreadPoolExecutor(1) as pool:
        search = pool.submit(tune, spec, SPACE, where=where, n_trials=4, seed=SEED, sweeps=sweeps)
        killed = wait_for("a trial half-way", lambda: search.done() or half_way(folder))
        assert isinstance(killed, Trial), search.result()
        kill(folder, killed)
        tuned = search.result(timeout=240)
    assert [trial.state for trial in tuned.trials] == ["TERMINATED"] * 4
    assert {trial.rung for trial in tuned.trials} >= {9}
    assert all(0.0 <= value <= 1.0 for trial in tuned.trials for value in trial.values.values())
    (hopeless,) = (trial for trial in tuned.trials if trial.settings["rotation_lr"] == NOTHING)
    assert 1 <= hopeless.rung < 9
    assert [record.state for record in attempts_of(folder, hopeless)][-1] is AttemptState.INTERRUPTED
    (again,) = (trial for trial in tuned.trials if trial.name == killed.name)
    log = (folder / "trials" / again.name / "trial.log").read_text()
    assert "attempt 2" in log
    if again.rung == 9:  # else a better one has overtaken it meanwhile
        (seconds, pairs_a_s) = re.findall(r"in ([\d.]+) s; (\d+) pairs/s", log)[-1]
        assert float(seconds) * float(pairs_a_s) < 0.9 * N_PAIRS
    best = tuned.best
    assert best.value == max(trial.value for trial in tuned.trials if trial.rung == 9)
    assert best.settings["rotation_lr"] == 2e-3
    assert 0.1 <= best.settings["boundary_penalty"] <= 1.0
    assert list(tuned.frame()["rung"]) == [trial.rung for trial in tuned.trials]
    tuned.write_spec(tmp_path / "tuned.yaml")
    planned = Sweep.load(tmp_path / "tuned.yaml", sweeps=tmp_path / "tuned")
    assert planned.plan().n_to_run == 4
    (strand,) = planned.grid.strands
    assert {key: strand.stream.method[key] for key in best.settings} == best.settings


def test_a_search_ends_at_its_time_limit(spec: Path, tmp_path: Path) -> None:
    """A limit that is over before a trial can begin: the search ends, and says that nothing was found."""
    where = ["layer=2", "position=81"]
    tuned = tune(spec, SPACE, where=where, n_trials=1, time_limit_s=0.1, sweeps=tmp_path / "sweeps")
    with pytest.raises(SpecError, match="no trial was ever measured"):
        _ = tuned.best


def half_way(folder: Path) -> Trial | None:
    """A trial that runs and was measured three times."""
    return next((one for one in read_trials(folder) if one.state == "RUNNING" and 3 <= one.rung < 7), None)


def attempts_of(folder: Path, trial: Trial) -> list[Progress]:
    """What each attempt of a trial's worker wrote down of itself, the first one first."""
    paths = sorted((folder / "trials" / trial.name / "progress").glob("*.json"))
    return [record for path in paths if (record := read_progress(path))]


def kill(folder: Path, trial: Trial) -> None:
    """SIGKILL to the Ray process around a trial; its worker dies with it."""
    (first,) = attempts_of(folder, trial)
    (worker,) = (one for one in family() if one.identity.pid == first.pid)
    send(ProcessId.of(worker.parent), signal.SIGKILL)


def wait_for(what: str, look: Callable[[], Any], *, patience_s: float = 240.0) -> Any:
    """What `look` sees once it is true; fails the test where that takes too long."""
    end = time.monotonic() + patience_s
    while not (seen := look()):
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.1)
    return seen
