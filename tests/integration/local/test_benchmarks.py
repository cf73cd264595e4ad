"""The benchmarks of the engine: that they run, and that they count what is really computed."""

from __future__ import annotations

import dataclasses
import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.unit.workers.tiny import at
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


def test_cells_inside_a_block_are_compared(project: Path, tmp_path: Path) -> None:
    """On a tiny model: each method and site against the reference and pyvene, with what the operations allow."""
    out = tmp_path / "figures.json"
    command = [sys.executable, "benchmarks/sites.py", "--setting", "tiny", "--rounds", "1", "--out", str(out)]
    subprocess.run(command, cwd=project, check=True, capture_output=True)
    lines = {(line["method"], line["site"]): line for line in json.loads(out.read_text())["lines"]}
    assert [line["cells"] for line in lines.values()] == [32, 8, 16, 4]
    for line in lines.values():
        assert all(ratio > 0 for ratios in line["times"].values() for ratio in ratios)
    heads, blocks = (lines["interchange", site]["allowed"] for site in ("head_output", "block_output"))
    assert heads["reference"] > blocks["reference"] > 1  # more cells share a forward; each saves most of the layers
    assert heads["pyvene"] == pytest.approx(heads["reference"], rel=0.05)  # both run the whole model


@pytest.fixture
def some_cells(project: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Six cells of the CPU's setting, two pairs a step."""
    monkeypatch.syspath_prepend(str(project / "benchmarks"))
    cpu = importlib.import_module("engine").SETTINGS["cpu"]
    return dataclasses.replace(cpu, layers=(0, 6, 10), positions=(76, 81), batch_size=2, measured=())


def test_the_floor_counts_what_the_engine_computes(some_cells: Any) -> None:
    """Operations of one shared forward and the tails of six cells, as torch counts them: the formula's and some per
    cent more, for the products of queries, keys and values."""
    benchmark = importlib.import_module("engine")
    model, pairs = benchmark.random_model(some_cells), benchmark.random_pairs(some_cells, 1)
    batch = to_device(pairs, torch.device("cpu"))
    engine = SuffixEngine(model, places=at(0, *some_cells.layers), prefix_P=batch.base.ids_BT[0, : benchmark.N_PREFIX])
    shift = torch.zeros(some_cells.sizes["hidden_size"], requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        forward = engine.forward(batch.base, batch.source)
        for position in some_cells.positions:
            forward.intervene(at(position, *some_cells.layers), lambda base, source: base + shift).sum().backward()
    assert 1.0 <= counter.get_total_flops() / benchmark.n_operations(some_cells) <= 1.06


def test_the_roofline_counts_a_steps_products_and_what_they_move(some_cells: Any) -> None:
    """The linear layers' operations are the formula's; no kernel counts for less than its bytes or its launch."""
    benchmark, roofline = importlib.import_module("engine"), importlib.import_module("roofline")
    counter = roofline.Counter(flops=1e12, bytes_s=1e12, launch_s=1e-6)
    roofline.count_step(some_cells, counter)
    linear = sum(cost.n_operations for (_, name), cost in counter.costs.items() if name == "mm")
    assert linear == pytest.approx(benchmark.n_operations(some_cells), rel=0.02)
    for cost in counter.costs.values():
        assert cost.seconds >= max(cost.kernels * 1e-6, cost.n_bytes / 1e12, cost.n_operations / 1e12) * (1 - 1e-9)
