"""A sweep of eight cells on a fake cluster, in a folder of its own."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster import registry
from orchestrator import cli
from orchestrator.spec.text import to_yaml
from orchestrator.sweep import Sweep
from tests.unit.orchestrator.fake_cluster import World, _Fake
from tests.unit.orchestrator.specs import raw_spec

LoadSweep = Callable[..., Sweep]
Run = Callable[..., int]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    """The fake scheduler, in place of every backend."""
    world = World()
    monkeypatch.setattr(_Fake, "world", world)
    names = dict.fromkeys(registry.BACKENDS, "tests.unit.orchestrator.fake_cluster:FakeScheduler")
    names["local"] = "tests.unit.orchestrator.fake_cluster:FakeCluster"
    monkeypatch.setattr(registry, "BACKENDS", names)
    return world


@pytest.fixture
def load(tmp_path: Path, demo_model: Path) -> LoadSweep:
    """Loads the small sweep from a spec file, with some sections replaced: 2 experiments x 2 layers x 2 positions."""

    def loaded(**changes: Any) -> Sweep:
        grid = {"experiments": ["left_boundary", "bracket_identity"], "layers": [0, 1], "positions": "80..81"}
        model = {"path": str(demo_model), "dtype": "float32"}
        path = tmp_path / "small.yaml"
        path.write_text(to_yaml(raw_spec(model=model, grid=grid) | changes), encoding="utf-8")
        return Sweep.load(path, sweeps=tmp_path / "sweeps")

    return loaded


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs `causalsweep` in this process and gives its exit code."""

    def called(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["causalsweep", *arguments])
        try:
            cli.main()
        except SystemExit as end:
            return int(end.code or 0)
        return 0

    return called


@pytest.fixture
def beside_spec(load: LoadSweep, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The small sweep's spec file, `small.yaml`, lies in the present folder."""
    load()
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def document(run: Run, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Runs a command with --json and gives what it printed."""

    def called(*arguments: str) -> Any:
        capsys.readouterr()
        run(*arguments, "--json")
        return json.loads(capsys.readouterr().out)

    return called
