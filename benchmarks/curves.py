"""What curves cost a training: the share of its processor time that goes into recording loss and IIA.

    python benchmarks/curves.py                # a Llama of d = 512 and 12 layers, six cells, 60 steps of 16 pairs
    python benchmarks/curves.py --steps 10     # seconds only, to try the program

Validation and the keeping of losses are timed inside the training itself: both are measured under the same load.
"""

from __future__ import annotations

import argparse
import time

import torch
from engine import SETTINGS, random_model, random_pairs
from stepping import time_fit

from workers.methods.curve import Curves

POINTS = [(layer, position) for position in (75, 81) for layer in (2, 6, 10)]


def main() -> None:
    """Print the share, with what it is made of."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=60)
    n_steps = parser.parse_args().steps
    torch.set_num_threads(1)
    setting = SETTINGS["cpu"]
    kept_s = 0.0
    plain = Curves.add_losses

    def timed(self: Curves, step: int, losses: list[torch.Tensor]) -> None:
        nonlocal kept_s
        started = time.process_time()
        plain(self, step, losses)
        kept_s += time.process_time() - started

    Curves.add_losses = timed  # type: ignore[method-assign, assignment]
    model = random_model(setting)
    pairs = random_pairs(setting, n_steps)
    fitted = time_fit(model, pairs, POINTS, "suffix", batch_size=setting.batch_size)
    validation_s = fitted.clock.phases_s["validation"]
    total_s = sum(step.cpu_s for step in fitted.clock.steps)
    (curve, *_) = fitted.columns[0].curves
    curves_s = validation_s + kept_s
    print(f"{n_steps} steps of {len(POINTS)} cells: {total_s:.2f} processor seconds")
    print(
        f"IIA at {len(curve.iia_step)} steps on {curve.iia_n_total} pairs: {validation_s:.3f} s; losses: {kept_s:.3f} s"
    )
    print(f"curves: {curves_s / (total_s - curves_s):.2%} of a step")


if __name__ == "__main__":
    main()
