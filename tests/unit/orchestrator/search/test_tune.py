"""A search of a method's settings, without Ray: what is refused, and which trial is the best."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cluster.backend import ClusterUsageError
from cluster.ray.search import Range, Trial
from orchestrator.errors import SpecError
from orchestrator.search.tune import Tuned, tune
from tests.unit.orchestrator.conftest import LoadSweep

RAY = {"address": "http://127.0.0.1:1"}


@pytest.mark.parametrize(
    ("space", "where", "words"),
    [
        ({"rotation_rl": (1e-3,)}, [], "rotation_rl.*did you mean 'rotation_lr'"),
        ({"boundary_penalty": Range(low=-1.0, high=1.0)}, [], "boundary_penalty.*-1.0.*0 or more"),
        ({"rotation_lr": (1e-3,)}, ["layer=3"], "0 cells match"),
    ],
)
def test_what_cannot_be_searched_is_named(
    load: LoadSweep, tmp_path: Path, space: dict[str, Any], where: list[str], words: str
) -> None:
    """An unknown setting, an end of a range that the method refuses, no cell: told before anything is written."""
    load(ray=RAY)
    with pytest.raises(SpecError, match=words):
        tune(tmp_path / "small.yaml", space, where=where, sweeps=tmp_path / "sweeps")
    assert not (tmp_path / "sweeps").exists()


def test_without_an_address_the_key_is_named(load: LoadSweep, tmp_path: Path) -> None:
    """The cluster is the one of the spec's `ray:` block, never one that is found."""
    load()
    with pytest.raises(ClusterUsageError, match=r"ray\.address"):
        tune(tmp_path / "small.yaml", {"rotation_lr": (1e-3,)}, sweeps=tmp_path / "sweeps")


def test_without_ray_nothing_is_left_behind(load: LoadSweep, tmp_path: Path) -> None:
    """Where nothing listens the search is refused at once, and its folder is not made."""
    load(ray=RAY)
    with pytest.raises(ClusterUsageError, match="ray start --head"):
        tune(tmp_path / "small.yaml", {"rotation_lr": (1e-3,)}, sweeps=tmp_path / "sweeps")
    assert list((tmp_path / "sweeps").glob("*")) == []


@pytest.mark.parametrize(("low", "high", "log"), [(1.0, 1.0, False), (2.0, 1.0, False), (0.0, 1.0, True)])
def test_an_empty_range_is_refused(low: float, high: float, log: bool) -> None:
    """Nothing lies between its ends, or no logarithm."""
    with pytest.raises(ClusterUsageError, match="low"):
        Range(low=low, high=high, log=log)


def trial(name: str, values: dict[int, float]) -> Trial:
    """A trial that ended."""
    return Trial(name=name, settings={"rotation_lr": 1e-3}, state="TERMINATED", values=values, error="")


def test_the_best_trial_is_one_that_came_furthest(load: LoadSweep, tmp_path: Path) -> None:
    """A value at an early rung is no promise; a quick trial that skipped rungs came as far as one that did not."""
    trials = (
        trial("stopped", {1: 0.99}),
        trial("slow", {1: 0.5, 3: 0.6, 9: 0.8}),
        trial("quick", {2: 0.5, 9: 0.9}),
        trial("never", {}),
    )
    tuned = Tuned(load(ray=RAY).spec, tmp_path, trials)
    assert tuned.best.name == "quick"
    assert list(tuned.frame()["rung"]) == [1, 9, 9, 0]
    assert list(tuned.frame()["iia"])[:3] == [0.99, 0.8, 0.9]
