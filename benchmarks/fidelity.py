"""Whole trainings of both engines, cell by cell: do they find the same alignments?

Trains the same cells of the demo three times (suffix engine, reference engine with torch's own parametrisation of the
rotation, and the reference with another seed) and compares the IIA. The engines take the same gradients; they differ in
how the rotation moves, so they may end apart as two seeds of the reference do, and not more.

    python benchmarks/fidelity.py --out docs/fidelity.png            # all 208 cells: hours
    python benchmarks/fidelity.py --layers 1,2 --positions 75,81
    python benchmarks/fidelity.py --seed-positions 75,81             # the other seed at these positions alone
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd

from orchestrator import Sweep

SPEC = Path(__file__).parents[1] / "examples" / "demo.yaml"
POINT = ["experiment", "layer", "position"]
RUNS = {"suffix": ("suffix", 42), "reference": ("reference", 42), "other_seed": ("reference", 66)}


def main() -> int:
    """0 when the engines differ no more than two seeds of the reference do, else 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", default="0,1,2,3")
    parser.add_argument("--positions", default="69..81")
    parser.add_argument("--seed-positions", help="positions of the other seed's cells (default: the same)")
    parser.add_argument("--sweeps", type=Path, help="keep the three sweeps here, and continue them")
    parser.add_argument("--out", type=Path, help="draw the scatter into this PNG")
    options = parser.parse_args()
    with TemporaryDirectory() as temporary:
        sweeps = options.sweeps or Path(temporary)
        positions = {"other_seed": options.seed_positions or options.positions}
        runs = {
            name: iia_of(name, *run, options.layers, positions.get(name, options.positions), sweeps)
            for name, run in RUNS.items()
        }
    table = pd.concat(runs, axis=1).reset_index()
    result = compare(table)
    sys.stdout.write(table.to_string(index=False) + "\n" + json.dumps(result, indent=1) + "\n")
    if options.out:
        draw(table, result, options.out)
    return 0 if result["mean_difference_engines_there"] <= result["mean_difference_seeds"] else 1


def iia_of(name: str, engine: str, seed: int, layers: str, positions: str, sweeps: Path) -> pd.Series:
    """The IIA of every cell, by point, of a sweep with this engine and seed."""
    overrides = [
        f"name=fidelity-{name}",
        f"engine={engine}",
        f"grid.seeds=[{seed}]",
        f"grid.layers=[{layers}]",
        f"grid.positions={positions if '..' in positions else '[' + positions + ']'}",
        "settings=[]",
    ]
    sweep = Sweep.load(SPEC, overrides=overrides, sweeps=sweeps)
    sweep.run()
    return sweep.results().set_index(POINT)["iia"]


def compare(table: pd.DataFrame) -> dict[str, Any]:
    """Differences of the engines, and of the seeds where both were trained, and the correlation of the two maps."""
    engines = (table["suffix"] - table["reference"]).abs()
    seeds = (table["reference"] - table["other_seed"]).abs().dropna()
    return {
        "cells": len(table),
        "mean_difference_engines": float(engines.mean()),
        "largest_difference_engines": float(engines.max()),
        "correlation": float(table["suffix"].corr(table["reference"])),
        "correlation_by_map": correlations(table, "suffix"),
        "cells_of_both_seeds": len(seeds),
        "mean_difference_engines_there": float(engines[seeds.index].mean()),
        "mean_difference_seeds": float(seeds.mean()),
        "largest_difference_seeds": float(seeds.max()),
        "correlation_of_seeds_by_map": correlations(table, "other_seed"),
    }


def correlations(table: pd.DataFrame, column: str) -> dict[str, float]:
    """The correlation of each experiment's map with the reference engine's, over the cells that both have."""
    maps = table.groupby("experiment", sort=False)
    return {str(name): round(float(part[column].corr(part["reference"])), 4) for name, part in maps}


def draw(table: pd.DataFrame, result: dict[str, Any], path: Path) -> None:
    """The scatter of the two engines, the seeds' beside it."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 4.4), sharex=True, sharey=True, layout="constrained")
    for axis, column, label in zip(
        axes, ("suffix", "other_seed"), ("suffix engine", "reference, other seed"), strict=True
    ):
        for experiment, part in table.groupby("experiment", sort=False):
            axis.scatter(part["reference"], part[column], s=16, label=experiment, alpha=0.8)
        axis.axline((0.5, 0.5), slope=1, color="0.6", linewidth=0.8)
        axis.set(xlabel="IIA, reference engine", ylabel=f"IIA, {label}")
    axes[0].legend(fontsize=8, frameon=False)
    axes[0].set_title(f"{result['cells']} cells, mean difference {result['mean_difference_engines']:.4f}")
    axes[1].set_title(f"{result['cells_of_both_seeds']} cells, mean difference {result['mean_difference_seeds']:.4f}")
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    sys.exit(main())
