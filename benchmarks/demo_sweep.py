"""The demo sweep, fast against reference: processor seconds from single steps of both, and the clock of a real run.

    python benchmarks/demo_sweep.py             # steps of both engines, then the sweep itself with the fast one
    python benchmarks/demo_sweep.py --steps-only
    python benchmarks/demo_sweep.py --full      # and the sweep with the reference engine: hours

For each hypothesis the fast engine's cohort (four layers by thirteen positions) and the reference's single cells, one a
layer, take some steps and an evaluation by turns. The whole is steps x seconds + evaluation, over two workers.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import torch
from stepping import Fitted, Point, block_outputs, median_of, time_fit

from orchestrator import Sweep
from workers.data.layout import read_layout
from workers.data.pairs import PairSet, make_pairs
from workers.data.tokenizer import Tokenizer
from workers.engine.model import LanguageModel, load_model
from workers.job.evaluate import count_right
from workers.methods.base import to_device
from workers.tasks import load_task

EXAMPLES: Final = Path(__file__).parents[1] / "examples"
N_WORKERS: Final = 2
REFERENCE_POSITION: Final = 75  # the reference's cost does not depend on it
N_REFERENCE_TEST: Final = 128  # test pairs for the reference's evaluation


@dataclass(frozen=True, slots=True, kw_only=True)
class Demo:
    """What the demo's spec asks for."""

    model: LanguageModel
    experiments: tuple[str, ...]
    points: tuple[Point, ...]
    n_steps: int
    n_train: int
    n_test: int
    batch_size: int

    @classmethod
    def read(cls) -> Demo:
        """The sweep of examples/demo.yaml."""
        sweep = Sweep.load(EXAMPLES / "demo.yaml", sweeps=Path("nowhere"))
        strands = sweep.grid.strands
        method, data = strands[0].stream.method, strands[0].stream.data
        n_batches = -(-int(data["n_train"]) // int(method["batch_size"]))
        return cls(
            model=load_model(Path(sweep.spec.model.path), dtype="float32", device=torch.device("cpu")),
            experiments=tuple(strand.experiment for strand in strands),
            points=tuple((cell.place.layer, cell.place.position) for cell in strands[0].cells),
            n_steps=int(method["epochs"]) * n_batches,
            n_train=int(data["n_train"]),
            n_test=int(data["n_test"]),
            batch_size=int(method["batch_size"]),
        )

    def pairs(self, experiment: str, n_pairs: int) -> PairSet:
        """Pairs of the experiment."""
        task, tokenizer = load_task({"name": "price_tagging"}), Tokenizer.load(EXAMPLES / "demo-model")
        layout = read_layout(task, tokenizer)
        return make_pairs(
            task, task.hypotheses[experiment], tokenizer, layout, n_pairs=n_pairs, split="benchmark", seed=1
        )


def main() -> int:
    """0; the figures as JSON on standard output."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=4, help="measured steps of each engine and hypothesis")
    parser.add_argument("--steps-only", action="store_true", help="do not run the sweep")
    parser.add_argument("--full", action="store_true", help="run it with the reference engine too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    result = cpu_seconds(Demo.read(), options.steps)
    if not options.steps_only:
        result["fast_sweep_wall_s"] = sweep_wall_s("suffix")
    if options.full:
        result["reference_sweep_wall_s"] = sweep_wall_s("reference")
    sys.stdout.write(json.dumps(result, indent=1) + "\n")
    return 0


def cpu_seconds(demo: Demo, steps: int) -> dict[str, Any]:
    """Processor seconds of the whole sweep with either engine, from `steps` measured steps of each, and their ratio."""
    totals = dict.fromkeys(("fast", "reference"), N_WORKERS * start_up_cpu_s())
    by_experiment = {}
    for experiment in demo.experiments:
        data_s = cpu_s_of(lambda name=experiment: demo.pairs(name, demo.n_train + demo.n_test))
        pairs = demo.pairs(experiment, (steps + 1) * demo.batch_size)
        test = demo.pairs(experiment, demo.n_test)
        fast = cohort_cpu_s(demo, pairs, test, demo.points, "suffix")
        layers = sorted({layer for layer, _ in demo.points})
        cells = [
            cohort_cpu_s(demo, pairs, test.take(slice(0, N_REFERENCE_TEST)), [(layer, REFERENCE_POSITION)], "reference")
            for layer in layers
        ]
        reference = sum(cells) / len(cells) * len(demo.points)
        totals["fast"] += data_s + fast
        totals["reference"] += data_s + reference
        by_experiment[experiment] = {"fast_cpu_s": round(fast, 1), "reference_cpu_s": round(reference, 1)}
    return {
        "cells": len(demo.points) * len(demo.experiments),
        "steps": demo.n_steps,
        "fast_cpu_s": round(totals["fast"], 1),
        "reference_cpu_s": round(totals["reference"], 1),
        "ratio": round(totals["reference"] / totals["fast"], 1),
        "fast_wall_on_two_idle_cores_s": round(totals["fast"] / N_WORKERS, 1),
        "reference_wall_on_two_idle_cores_s": round(totals["reference"] / N_WORKERS, 1),
        "by_experiment": by_experiment,
    }


def cohort_cpu_s(demo: Demo, pairs: PairSet, test: PairSet, points: Sequence[Point], engine: str) -> float:
    """Processor seconds of these cells' whole training and evaluation."""
    n_variables = int(pairs.variable_B.max()) + 1
    fitted = time_fit(
        demo.model,
        pairs,
        block_outputs(points),
        engine,
        batch_size=demo.batch_size,
        variables=tuple("PQ"[:n_variables]),
    )
    evaluation_s = cpu_s_of(lambda: evaluate(fitted, test))
    return demo.n_steps * median_of(fitted.clock.measured, "cpu_s") + evaluation_s * demo.n_test / len(test)


def evaluate(fitted: Fitted, test: PairSet) -> None:
    """IIA and controls of every cell on `test`."""
    count_right(fitted.engine, fitted.columns, to_device(test, torch.device("cpu")), micro_batch=64)


def cpu_s_of(run: Any) -> float:
    """Processor seconds of a call."""
    before = time.process_time()
    run()
    return time.process_time() - before


def start_up_cpu_s() -> float:
    """Processor seconds of a worker before it begins: imports, and loading the model."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", "import workers.job.run"], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def sweep_wall_s(engine: str) -> float:
    """Seconds of the whole demo sweep, from planning to the last row, on two workers."""
    started = time.perf_counter()
    with TemporaryDirectory() as folder:
        overrides = [f"engine={engine}", f"local.workers={N_WORKERS}"]
        sweep = Sweep.load(EXAMPLES / "demo.yaml", overrides=overrides, sweeps=Path(folder))
        sweep.run()
        assert sweep.check().is_done
    return round(time.perf_counter() - started, 1)


if __name__ == "__main__":
    sys.exit(main())
