"""The benchmark of the engine: that it runs, and that its floor counts what is really computed."""

from __future__ import annotations

import dataclasses
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from workers.engine.suffix import SuffixEngine
from workers.methods.base import to_device

pytestmark = pytest.mark.slow


def test_the_three_take_turns(project: Path, tmp_path: Path) -> None:
    """On a tiny model: seconds and ratios of each, for every round."""
    out = tmp_path / "figures.json"
    command = [sys.executable, "benchmarks/engine.py", "--setting", "tiny", "--steps", "1", "--out", str(out)]
    subprocess.run(command, cwd=project, check=True, capture_output=True)
    figures = json.loads(out.read_text())
    assert figures["cells"] == 4
    for name in ("pyvene", "reference"):
        assert len(figures[name]["times_cpu_s"]) == 2
        assert all(ratio > 0 for ratio in figures[name]["times_cpu_s"])


def test_the_floor_counts_what_the_engine_computes(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Operations of one shared forward and the tails of six cells, as torch counts them: the formula's and some per
    cent more, for the products of queries, keys and values."""
    monkeypatch.syspath_prepend(str(project / "benchmarks"))
    benchmark = importlib.import_module("engine")
    setting = dataclasses.replace(
        benchmark.SETTINGS["cpu"], layers=(0, 6, 10), positions=(76, 81), batch_size=2, measured=()
    )
    model, pairs = benchmark.random_model(setting), benchmark.random_pairs(setting, 1)
    batch = to_device(pairs, torch.device("cpu"))
    engine = SuffixEngine(model, layers=setting.layers, prefix_P=batch.base.ids_BT[0, : benchmark.N_PREFIX])
    shift = torch.zeros(setting.sizes["hidden_size"], requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        forward = engine.forward(batch.base, batch.source)
        for position in setting.positions:
            forward.intervene(position, list(setting.layers), lambda base, source: base + shift).sum().backward()
    assert 1.0 <= counter.get_total_flops() / benchmark.n_operations(setting) <= 1.06
