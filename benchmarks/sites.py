"""Processor seconds of a cell inside a block: the suffix engine, hooks on the whole model, and pyvene, in one run.

    python benchmarks/sites.py                       # a Llama of d = 512, 12 layers and 8 heads, on the CPU
    python benchmarks/sites.py --setting tiny        # seconds only, to try the program

Interchanges and trainings (DAS, k = 8) at every head, and beside them the same layers and positions at `block_output`.
The suffix engine takes all cells of a line as one cohort. The reference (hooks on the whole unmodified model) and
pyvene take one cell at a time; their time depends on the layer alone, so they are measured at some layers and averaged
over the others by interpolation. The three take turns. `allowed` is what the count of operations allows: those of the
reference or pyvene over those of the suffix engine, as torch counts them on one batch.

Weights are random and prompts arbitrary: neither changes the work.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from engine import SETTINGS, Setting, machine, random_model, random_pairs
from stepping import make_engine, median_of, time_fit
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from workers.data.pairs import PairSet
from workers.engine.model import LanguageModel
from workers.engine.sites import width_of
from workers.files.place import Place
from workers.methods.alignment import LARGEST_GROUP
from workers.methods.base import Batch, rows_of, to_device

K: Final = 8  # dimensions of a DAS cell
N_COUNTED: Final = 2  # pairs on which operations are counted
PYVENES_NAMES: Final = {"head_output": "head_attention_value_output", "block_output": "block_output"}
OTHERS: Final = ("reference", "pyvene")
GOALS: Final = {  # by line and program: how many times faster, at least and hoped for
    ("interchange", "head_output"): {"reference": (15, 30), "pyvene": (15, 30)},
    ("das", "head_output"): {"pyvene": (15, 25)},
}
HEAD: Final = (
    f"{'cells':>34}{'against':>11}{'ms a cell':>11}{'ours':>8}{'times':>8}{'allowed':>9}{'share':>7}"
    "  must, aim   rounds\n"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of the table: cells of one method and site."""

    method: str
    site: str
    layers: tuple[int, ...]
    positions: tuple[int, ...]
    n_units: int
    measured: tuple[tuple[int, int], ...]  # layer and position of the cells that the others are measured on

    @property
    def places(self) -> list[Place]:
        """Every cell, by layer at each position, as a cohort has them."""
        return [
            self.place(layer, position, unit)
            for position in self.positions
            for layer in self.layers
            for unit in range(self.n_units)
        ]

    def place(self, layer: int, position: int, unit: int = 0) -> Place:
        """One cell."""
        return Place(layer=layer, position=position, site=self.site, unit=unit if self.site == "head_output" else None)

    @property
    def trains(self) -> bool:
        """Whether a cell is trained, or the source's vector taken over as it is."""
        return self.method == "das"


def main() -> int:
    """0; the table on standard output, the figures as JSON in `--out`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--setting", choices=("cpu", "tiny"), default="cpu")
    parser.add_argument("--rounds", type=int, default=2, help="how often the three take turns")
    parser.add_argument("--steps", type=int, default=1, help="measured batches of each turn")
    parser.add_argument("--pairs", type=int, default=8, help="pairs a batch")
    parser.add_argument("--out", type=Path, help="write the figures here")
    options = parser.parse_args()
    torch.set_num_threads(1)
    setting = replace(SETTINGS[options.setting], batch_size=options.pairs)
    model, pairs = random_model(setting), random_pairs(setting, options.steps + 1)
    sys.stdout.write(HEAD)
    figures = []
    for line in lines_of(setting):
        figures.append(measure(line, model, pairs, options))
        sys.stdout.write(shown(figures[-1]))
        sys.stdout.flush()
    if options.out:
        result = {"pairs": options.pairs, "sizes": dict(setting.sizes), "lines": figures} | machine()
        options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


def lines_of(setting: Setting) -> list[Line]:
    """The table's lines: both methods, at every head and at the blocks' outputs."""
    n_layers, n_heads = setting.sizes["num_hidden_layers"], setting.sizes["num_attention_heads"]
    positions = setting.positions[:: max(1, len(setting.positions) // 3)]
    layers = {"interchange": tuple(range(n_layers)), "das": setting.layers}
    first, last = setting.layers[0], setting.layers[-1]
    measured = {"interchange": ((first, positions[0]),), "das": ((first, positions[0]), (last, positions[-1]))}
    return [
        Line(
            method=method,
            site=site,
            layers=layers[method],
            positions=positions,
            n_units=n_units,
            measured=measured[method],
        )
        for method in ("interchange", "das")
        for site, n_units in (("head_output", n_heads), ("block_output", 1))
    ]


def measure(line: Line, model: LanguageModel, pairs: PairSet, options: argparse.Namespace) -> dict[str, Any]:
    """Processor seconds a cell and batch of each program, in each round, and the operations that they take."""
    cell_s: dict[str, list[float]] = {name: [] for name in (*OTHERS, "suffix")}
    for _ in range(options.rounds):
        for name in OTHERS:
            at_measured = [
                seconds(line, name, model, pairs, [line.place(*point)], options.pairs) for point in line.measured
            ]
            cell_s[name].append(over_layers(line, at_measured))
        cell_s["suffix"].append(seconds(line, "suffix", model, pairs, line.places, options.pairs) / len(line.places))
    part = rows_of(to_device(pairs, model.device), 0, N_COUNTED)
    share = options.pairs / N_COUNTED  # what is counted is proportional to the pairs
    counts = {
        name: share
        * over_layers(
            line, [operations(line, name, model, pairs, [line.place(*point)], part) for point in line.measured]
        )
        for name in OTHERS
    }
    ours = share * operations(line, "suffix", model, pairs, line.places, part) / len(line.places)
    return {
        "method": line.method,
        "site": line.site,
        "cells": len(line.places),
        "cell_s": cell_s,
        "operations": counts | {"suffix": ours},
        "times": {name: list(np.array(cell_s[name]) / np.array(cell_s["suffix"])) for name in OTHERS},
        "allowed": {name: count / ours for name, count in counts.items()},
    }


def over_layers(line: Line, values: Sequence[float]) -> float:
    """The mean over the line's layers, between those measured by interpolation."""
    return float(np.interp(line.layers, [layer for layer, _ in line.measured], values).mean())


def seconds(
    line: Line, name: str, model: LanguageModel, pairs: PairSet, places: Sequence[Place], n_pairs: int
) -> float:
    """The median batch's processor seconds; the first does not count."""
    if line.trains and name != "pyvene":
        fitted = time_fit(model, pairs, places, name, batch_size=n_pairs, method="das", k=K)
        return median_of(fitted.clock.measured, "cpu_s")
    batches = to_device(pairs, model.device)
    parts = [rows_of(batches, start, start + n_pairs) for start in range(0, len(pairs), n_pairs)]
    step = stepper(line, name, model, pairs, places)
    spent = []
    for part in parts:
        before = time.process_time()
        step(part)
        spent.append(time.process_time() - before)
    return float(np.median(spent[1:]))


def operations(
    line: Line, name: str, model: LanguageModel, pairs: PairSet, places: Sequence[Place], part: Batch
) -> float:
    """Operations of one batch, as torch counts them: of a step without its optimizer."""
    step = stepper(line, name, model, pairs, places)
    with FlopCounterMode(display=False) as counter:
        step(part)
    return float(counter.get_total_flops())


def stepper(
    line: Line, name: str, model: LanguageModel, pairs: PairSet, places: Sequence[Place]
) -> Callable[[Batch], None]:
    """What runs one batch of these cells."""
    if name == "pyvene":
        return pyvenes_step(line, model, places[0])
    engine = make_engine(model, pairs, places, name)
    columns: dict[int, list[Place]] = {}
    for place in places:
        columns.setdefault(place.position, []).append(place)
    groups = [
        column[start : start + LARGEST_GROUP]
        for column in columns.values()
        for start in range(0, len(column), LARGEST_GROUP)
    ]
    shift_W = torch.zeros(width_of(model, places[0]), device=model.device, requires_grad=line.trains)

    def step(part: Batch) -> None:
        with torch.set_grad_enabled(line.trains):
            forward = engine.forward(part.base, part.source)
            for group in groups:
                logits_CMV = forward.intervene(group, lambda _base, source: source + shift_W)
                if line.trains:
                    loss_of(logits_CMV.flatten(0, 1), part.label_B.repeat(len(group))).backward()

    return step


def pyvenes_step(line: Line, model: LanguageModel, place: Place) -> Callable[[Batch], None]:
    """pyvene's step of one cell: the whole vector, or a rotation to k dimensions with its optimizer."""
    import pyvene  # prints on import

    options: Mapping[str, Any] = {"low_rank_dimension": K} if line.trains else {}
    units = ["pos"] if place.unit is None else ["h.pos"]
    config = pyvene.IntervenableConfig(
        model_type=type(model.model),
        representations=[
            pyvene.RepresentationConfig(place.layer, PYVENES_NAMES[place.site], *units, 1, **options),
        ],
        intervention_types=(pyvene.LowRankRotatedSpaceIntervention if line.trains else pyvene.VanillaIntervention),
    )
    intervenable = pyvene.IntervenableModel(config, model.model)
    intervention: Any = next(iter(intervenable.interventions.values())).to(model.device)
    optimizer = torch.optim.Adam(intervention.parameters(), lr=1e-3) if line.trains else None

    def step(part: Batch) -> None:
        n_pairs = len(part)
        at = [[place.position]] * n_pairs
        where = [at] if place.unit is None else [[[[place.unit]] * n_pairs, at]]
        with torch.set_grad_enabled(line.trains):
            _, output = intervenable(
                {"input_ids": part.base.ids_BT}, [{"input_ids": part.source.ids_BT}], {"sources->base": (where, where)}
            )
        if optimizer:
            loss_of(output.logits[:, -1], part.label_B).backward()
            optimizer.step()
            optimizer.zero_grad()

    return step


def loss_of(logits_NV: Tensor, label_N: Tensor) -> Tensor:
    """The cross-entropy, summed over cells."""
    return torch.nn.functional.cross_entropy(logits_NV.float(), label_N)


def shown(one: Mapping[str, Any]) -> str:
    """A line of the table against each of the others: the median of the rounds, and each round."""
    lines = []
    ours_ms = 1000 * float(np.median(one["cell_s"]["suffix"]))
    for name in OTHERS:
        times, allowed = float(np.median(one["times"][name])), one["allowed"][name]
        goal = GOALS.get((one["method"], one["site"]), {}).get(name)
        rounds = ", ".join(f"{value:.1f}" for value in one["times"][name])
        lines.append(
            f"{one['method'] + ', ' + one['site']:28}{one['cells']:>6}{name:>11}"
            f"{1000 * float(np.median(one['cell_s'][name])):>11.1f}{ours_ms:>8.2f}{times:>8.1f}{allowed:>9.1f}"
            f"{times / allowed:>7.0%}  {'{}, {}'.format(*goal) if goal else '':11} {rounds}\n"
        )
    return "".join(lines)


if __name__ == "__main__":
    sys.exit(main())
