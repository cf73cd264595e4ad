"""Processor seconds of a training step at the blocks' outputs: this checkout's suffix engine against an older one's.

    git worktree add /tmp/older COMMIT
    python benchmarks/older.py /tmp/older

Each takes its turn in a process of its own, with that checkout's code, model and benchmark.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Final

PROJECT: Final = Path(__file__).parents[1]
STEPS: Final = """
import json, sys
import engine, stepping
import torch
torch.set_num_threads(1)
setting = engine.SETTINGS["cpu"]
points = [(layer, position) for layer in setting.layers for position in (69, 75, 81)]
model, pairs = engine.random_model(setting), engine.random_pairs(setting, 4)
places = stepping.block_outputs(points) if hasattr(stepping, "block_outputs") else points
clock = stepping.time_fit(model, pairs, places, "suffix", batch_size=setting.batch_size)
clock = getattr(clock, "clock", clock)
print(json.dumps([step.cpu_s for step in clock.measured]))
"""


def main() -> int:
    """0; the ratio of each round on standard output."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("older", type=Path, help="the older checkout")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    ratios = []
    for _ in range(options.rounds):
        older_s, ours_s = (step_s(checkout.resolve()) for checkout in (options.older, PROJECT))
        ratios.append(ours_s / older_s)
        sys.stdout.write(f"older {older_s:.3f} s, this one {ours_s:.3f} s: {ratios[-1]:.3f} times as long\n")
    sys.stdout.write(f"median {statistics.median(ratios):.3f}\n")
    return 0


def step_s(checkout: Path) -> float:
    """The median step's processor seconds in this checkout: 18 cells, 16 pairs."""
    paths = os.pathsep.join([str(checkout), str(checkout / "benchmarks")])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    found = subprocess.run(
        [sys.executable, "-c", STEPS], cwd=checkout, env=environment, check=True, capture_output=True, text=True
    )
    return statistics.median(json.loads(found.stdout.splitlines()[-1]))


if __name__ == "__main__":
    sys.exit(main())
