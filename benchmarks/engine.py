"""Seconds of a training step and cell: the suffix engine against the plain reference and against pyvene, in one run.

    python benchmarks/engine.py                      # on the CPU: a Llama of d = 512 and 12 layers
    python benchmarks/engine.py --setting gpu        # on a GPU: a Llama of 7B's sizes in bfloat16, and the floor
    python benchmarks/engine.py --setting tiny       # seconds only, to try the program

The suffix engine trains the paper's grid of one hypothesis as one cohort. pyvene and the reference take one cell at a
time; what they cost depends on the layer alone, so they are measured on cells spread over the grid and averaged over
its layers by interpolation. The three take turns, so that whatever else the machine does meets all of them. Weights are
random and prompts arbitrary: neither changes the work.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from stepping import (
    Point,
    StepClock,
    StepTime,
    block_outputs,
    largest_that_fits,
    median_of,
    time_fit,
    time_pyvene,
)
from transformers import AutoModelForCausalLM, LlamaConfig

from workers.data.pairs import PairSet
from workers.data.token_ids import Prompts
from workers.engine.model import LanguageModel, wrap_model

N_TOKENS: Final = 82
N_PREFIX: Final = 41
POSITIONS: Final = tuple(range(69, 82))


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A model's sizes, the grid's layers, and the cells that pyvene and the reference are measured on."""

    device: str
    dtype: str
    sizes: Mapping[str, int]
    layers: tuple[int, ...]
    positions: tuple[int, ...] = POSITIONS
    batch_size: int
    measured: tuple[Point, ...]

    @property
    def points(self) -> list[Point]:
        """Every cell of the grid."""
        return [(layer, position) for layer in self.layers for position in self.positions]


# The vocabulary's head is 2 % of the weights in each, as it is in LLaMA 7B.
SETTINGS: Final[Mapping[str, Setting]] = {
    "cpu": Setting(
        device="cpu",
        dtype="float32",
        sizes={
            "hidden_size": 512,
            "intermediate_size": 1376,
            "num_hidden_layers": 12,
            "num_attention_heads": 8,
            "vocab_size": 1500,
        },
        layers=(0, 2, 4, 6, 8, 10),
        batch_size=16,
        measured=((0, 69), (4, 73), (6, 77), (10, 81)),
    ),
    "gpu": Setting(
        device="cuda",
        dtype="bfloat16",
        sizes={
            "hidden_size": 4096,
            "intermediate_size": 11008,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "vocab_size": 32000,
        },
        layers=(0, 5, 10, 15, 20, 25, 30),
        batch_size=64,
        measured=((0, 69), (10, 72), (15, 75), (20, 78), (30, 81)),
    ),
    "tiny": Setting(
        device="cpu",
        dtype="float32",
        sizes={
            "hidden_size": 64,
            "intermediate_size": 172,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "vocab_size": 200,
        },
        layers=(0, 2),
        positions=(80, 81),
        batch_size=4,
        measured=((0, 80), (2, 81)),
    ),
}


def main() -> int:
    """0; the table on standard output, the figures as JSON in `--out`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--setting", choices=SETTINGS, default="cpu")
    parser.add_argument("--rounds", type=int, default=2, help="how often the three take turns")
    parser.add_argument("--steps", type=int, default=2, help="measured steps of each cell and round")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="write the figures here")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    setting = SETTINGS[options.setting]
    model = random_model(setting)
    pairs = random_pairs(setting, options.steps + 1)
    rounds = [one_round(setting, model, pairs) for _ in range(options.rounds)]
    result = summary(setting, rounds) | {"threads": options.threads} | machine()
    if setting.device == "cuda":
        result |= against_floor(setting, result["suffix"]["cohort_wall_s"])
    sys.stdout.write(table(setting, result))
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


def random_model(setting: Setting) -> LanguageModel:
    """A Llama of these sizes with random weights."""
    torch.manual_seed(0)
    config = LlamaConfig(**setting.sizes, max_position_embeddings=128)
    with torch.device(setting.device):
        model = AutoModelForCausalLM.from_config(
            config, dtype=getattr(torch, setting.dtype), attn_implementation="sdpa"
        )
    return wrap_model(model)


def random_pairs(setting: Setting, n_steps: int) -> PairSet:
    """Arbitrary prompts of 82 tokens, the first 41 of which are the same in all."""
    rng, n_pairs = np.random.default_rng(0), n_steps * setting.batch_size
    base_BT, source_BT = rng.integers(3, setting.sizes["vocab_size"], (2, n_pairs, N_TOKENS))
    base_BT[:, :N_PREFIX] = source_BT[:, :N_PREFIX] = base_BT[0, :N_PREFIX]
    return PairSet(
        base=Prompts.of_rows(base_BT),
        source=Prompts.of_rows(source_BT),
        label_B=rng.integers(3, 5, n_pairs),
        variable_B=np.zeros(n_pairs, dtype=np.int64),
        value_B=np.zeros(n_pairs),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One turn of the three: steps of each measured cell by pyvene and the reference, and of the whole cohort."""

    pyvene: Mapping[Point, list[StepTime]]
    reference: Mapping[Point, list[StepTime]]
    suffix: StepClock
    micro_batches: Mapping[str, int]


def one_round(setting: Setting, model: LanguageModel, pairs: PairSet) -> Round:
    """Each measured cell by pyvene and by the reference, then the cohort by the suffix engine."""
    size = setting.batch_size
    singles: dict[str, dict[Point, list[StepTime]]] = {"pyvene": {}, "reference": {}}
    micro_batches: dict[str, int] = {}
    for point in setting.measured:
        clock, micro_batches["pyvene"] = largest_that_fits(
            lambda part, at=point: time_pyvene(model, pairs, at, batch_size=size, micro_batch=part), size
        )
        singles["pyvene"][point] = clock.measured
        places = block_outputs([point])
        clock, micro_batches["reference"] = largest_that_fits(
            lambda part, at=places: time_fit(model, pairs, at, "reference", batch_size=size, micro_batch=part).clock,
            size,
        )
        singles["reference"][point] = clock.measured
    places = block_outputs(setting.points)
    suffix, micro_batches["suffix"] = largest_that_fits(
        lambda part: time_fit(model, pairs, places, "suffix", batch_size=size, micro_batch=part).clock, size
    )
    return Round(**singles, suffix=suffix, micro_batches=micro_batches)


def over_the_grid(setting: Setting, by_point: Mapping[Point, Sequence[StepTime]], what: str) -> float:
    """The mean step over the grid's layers, between measured layers by interpolation."""
    layers = [layer for layer, _ in by_point]
    seconds = [median_of(steps, what) for steps in by_point.values()]
    return float(np.interp(setting.layers, layers, seconds).mean())


def summary(setting: Setting, rounds: Sequence[Round]) -> dict[str, Any]:
    """Seconds a cell and step of each of the three, and the ratios, of each round and their median."""
    n_cells = len(setting.points)
    result: dict[str, Any] = {"cells": n_cells, "batch_size": setting.batch_size, "sizes": dict(setting.sizes)}
    for name in ("pyvene", "reference"):
        found = [getattr(one, name) for one in rounds]
        result[name] = {what: [over_the_grid(setting, each, what) for each in found] for what in ("wall_s", "cpu_s")}
        result[name]["by_cell_cpu_s"] = {
            f"layer {layer}, position {position}": median_of(steps, "cpu_s")
            for (layer, position), steps in found[-1].items()
        }
    cohorts = {what: [median_of(one.suffix.measured, what) for one in rounds] for what in ("wall_s", "cpu_s")}
    result["suffix"] = {what: [seconds / n_cells for seconds in found] for what, found in cohorts.items()}
    result["suffix"]["cohort_wall_s"] = float(np.median(cohorts["wall_s"]))
    phases = rounds[-1].suffix.phases_s
    result["suffix"]["shares"] = {name: round(spent / sum(phases.values()), 3) for name, spent in phases.items()}
    for name in ("pyvene", "reference"):
        for what in ("wall_s", "cpu_s"):
            ratios = np.array(result[name][what]) / np.array(result["suffix"][what])
            result[name][f"times_{what}"] = [round(float(ratio), 2) for ratio in ratios]
    result["micro_batches"] = dict(rounds[-1].micro_batches)
    return result


def against_floor(setting: Setting, cohort_s: float) -> dict[str, Any]:
    """The seconds that the cohort's shared forward and tails would take at the rate of a large matrix product, and
    what share of the measured step that is."""
    size = setting.sizes["hidden_size"]
    left, right = (torch.randn(8192, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    for _ in range(10):
        left @ right.T
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(50):
        left @ right.T
    end.record()
    torch.cuda.synchronize()
    flops = 50 * 2 * 8192 * 8192 * size / (start.elapsed_time(end) / 1000)
    floor_s = n_operations(setting) / flops
    return {"matmul_tflops": round(flops / 1e12, 1), "floor_s": floor_s, "share_of_floor": round(floor_s / cohort_s, 3)}


def n_operations(setting: Setting) -> float:
    """Operations of one step's shared forward and tails: 2 a weight and token forward, as many for the gradient, for
    the weights are frozen. The products of queries, keys and values with each other (0.3 %) are left out."""
    sizes, n_layers = setting.sizes, setting.sizes["num_hidden_layers"]
    attention, hidden = 4 * sizes["hidden_size"] ** 2, sizes["hidden_size"]
    block, keys_values = attention + 3 * hidden * sizes["intermediate_size"], 2 * hidden**2
    head = hidden * sizes["vocab_size"]
    shared = (N_TOKENS - N_PREFIX) * (n_layers + max(setting.layers) + 1) * block + head
    tails = 0
    for layer, position in setting.points:
        n_tokens, n_blocks = N_TOKENS - position, n_layers - 1 - layer
        if n_blocks:  # the last block: keys and values of every token, the rest for the last one
            tails += (n_blocks - 1) * n_tokens * block + n_tokens * keys_values + block - keys_values
        tails += head
    return 2.0 * setting.batch_size * (shared + 2 * tails)


def machine() -> dict[str, Any]:
    """What this was measured on."""
    processor = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    return {
        "processor": processor[0] if processor else platform.machine(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "",
        "torch": torch.__version__,
        "load": Path("/proc/loadavg").read_text().split()[0],
        "at": datetime.now(UTC).isoformat(timespec="minutes"),
    }


def table(setting: Setting, result: Mapping[str, Any]) -> str:
    """The figures for people."""
    what = "wall_s" if setting.device == "cuda" else "cpu_s"
    lines = [
        f"{result['cells']} cells, {setting.batch_size} pairs a step, {result['threads']} thread(s), {setting.device}"
    ]
    lines.append(f"{'':12}{'ms a cell and step':>20}{'times slower':>16}{'by the clock':>16}")
    for name in ("pyvene", "reference", "suffix"):
        found = result[name]
        times = (np.median(found[f"times_{key}"]) if name != "suffix" else 1.0 for key in (what, "wall_s"))
        row = "".join(f"{value:16.1f}" for value in times)
        lines.append(f"{name:12}{1000 * float(np.median(found[what])):20.2f}{row}")
    lines.append("suffix, by phase: " + ", ".join(f"{k} {v:.0%}" for k, v in result["suffix"]["shares"].items()))
    if "floor_s" in result:
        lines.append(
            f"floor {result['floor_s']:.3f} s of {result['suffix']['cohort_wall_s']:.3f} s a step: "
            f"{result['share_of_floor']:.0%}, at {result['matmul_tflops']} TFLOP/s"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
