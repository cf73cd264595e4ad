"""A store and a grid as a sweep leaves them, with planted accuracies, for tests of what reads them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd

from workers.files.job import MAIN_SETTING, content_key
from workers.files.place import BLOCK_OUTPUT
from workers.files.shard import SHARD_SCHEMA

TOKENS = ["\n", "digit", ".", "digit", "digit", " dollars", "\n", "\n", "##", "#", " Response", ":", "\n"]
POSITIONS = list(range(69, 82))
EXPERIMENTS = ["left_boundary", "left_and_right_boundary", "midpoint_distance", "bracket_identity"]
STRENGTH = {"left_boundary": 0.34, "left_and_right_boundary": 0.30, "midpoint_distance": 0.05, "bracket_identity": 0.03}
N_TEST = 1000
STARTED = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)


def planted_rate(experiment: str, layer_share: float, position: int) -> float:
    """The accuracy that a cell is drawn from: a diagonal that climbs from the amount to the last token."""
    path = 72 + 9 * layer_share
    near = np.exp(-(((position - path) / 2.2) ** 2)) + 0.35 * np.exp(-(((position - 81) / 0.8) ** 2)) * layer_share
    return float(0.52 + STRENGTH.get(experiment, 0.3) * min(1.0, near))


def fake_grid(
    *,
    experiments: Sequence[str] = EXPERIMENTS,
    layers: Sequence[int] = (0, 5, 10, 15, 20, 25, 30),
    positions: Sequence[int] = POSITIONS,
    seeds: Sequence[int] = (42, 66, 77),
    methods: Sequence[str] = ("boundless_das",),
    tokens: Sequence[str] = TOKENS,
    sites: Sequence[tuple[str, Sequence[int | None]]] = (("block_output", (None,)),),
) -> pd.DataFrame:
    """Every planned cell, all of them done."""
    lines = []
    n_inside = sum(len(units) for _, units in sites)
    for experiment in experiments:
        for method in methods:
            for seed in seeds:
                for layer in layers:
                    for index, (position, site, unit) in enumerate(
                        (position, site, unit) for position in positions for site, units in sites for unit in units
                    ):
                        place = {"experiment": experiment, "layer": layer, "position": position, "seed": seed}
                        inside = [] if site == BLOCK_OUTPUT else [site, unit]
                        lines.append(
                            place
                            | {
                                "cell_key": content_key([*place.values(), method, *inside]),
                                "site": site,
                                "unit": unit,
                                "place": None,
                                "points": None,
                                "hypothesis": experiment,
                                "token": tokens[index // n_inside % len(tokens)],
                                "method": method,
                                "state": "done",
                                "reason": "",
                                "job": f"{experiment.replace('_', '-')}-L{layer}-s{seed}",
                            }
                        )
    return pd.DataFrame(lines)


def row(cell: Mapping[str, Any], **fields: Any) -> dict[str, Any]:
    """A store row of a cell: every column of the schema, done with the counts given, empty otherwise."""
    names = (
        "cell_key",
        "experiment",
        "hypothesis",
        "layer",
        "site",
        "unit",
        "position",
        "token",
        "seed",
        "method",
        "job",
    )
    known = {name: cell[name] for name in names} | {
        "sweep": "fake",
        "model": "examples/demo-model",
        "model_revision": "",
        "model_fingerprint": "9f1c" * 16,
        "task": "price_tagging",
        "engine": "suffix",
        "setting": MAIN_SETTING,
        "status": "done",
        "metric": "iia",
        "attempt": 1,
        "host": "node01",
        "backend": "local",
        "git_sha": "d20e66b",
        "versions": json.dumps({"causalsweep": "0.1.0", "python": "3.11.9", "torch": "2.13.0"}),
        "started": STARTED,
        "ended": STARTED + timedelta(minutes=90),
    }
    return dict.fromkeys(SHARD_SCHEMA.names) | known | fields


def fake_rows(
    grid: pd.DataFrame, *, settings: Mapping[str, float] | None = None, metrics: Mapping[str, str] | None = None
) -> pd.DataFrame:
    """A row for each done cell of `grid` and each setting (its value scales the planted effect), drawn from it."""
    random = np.random.default_rng(7)
    deepest = max(1, int(grid["layer"].max()))
    lines = []
    for cell in grid[grid["state"] == "done"].to_dict("records"):
        metric = (metrics or {}).get(cell["method"], "iia")
        rate = planted_rate(cell["experiment"], cell["layer"] / deepest, cell["position"])
        for setting, scale in ({MAIN_SETTING: 1.0} | dict(settings or {})).items():
            rate_here = 0.52 + (rate - 0.52) * scale
            counts = _counts(random, rate_here, cell["layer"])
            if metric != "iia":  # a reading has none of the controls of interventions
                counts |= dict.fromkeys(name for name in counts if name.startswith(("n_correct_", "n_only_")))
            lines.append(row(cell, setting=setting, metric=metric, **counts))
    return pd.DataFrame(lines, columns=SHARD_SCHEMA.names)


def _counts(random: np.random.Generator, rate: float, layer: int) -> dict[str, Any]:
    right_none = random.random(N_TEST) < 0.55
    stays = random.random(N_TEST) < 0.3  # pairs on which the intervention leaves the answer as it was
    drawn = random.random(N_TEST) < (rate - 0.3 * 0.55) / 0.7
    right = np.where(stays, right_none, drawn)
    n_correct = int(right.sum())
    task, dummy = 852, 0.5079
    return {
        "n_correct": n_correct,
        "n_total": N_TEST,
        "iia": n_correct / N_TEST,
        "n_correct_none": int(right_none.sum()),
        "n_correct_full": int(random.binomial(N_TEST, 0.53 + 0.5 * (rate - 0.52))),
        "n_correct_random": int(random.binomial(N_TEST, 0.54)),
        "n_only_cell": int((right & ~right_none).sum()),
        "n_only_none": int((~right & right_none).sum()),
        "task_n_correct": task,
        "task_n_total": 1000,
        "task_accuracy": task / 1000,
        "dummy_accuracy": dummy,
        "iia_normalized": (n_correct / N_TEST - dummy) / (task / 1000 - dummy),
        "subspace_dim": int(random.integers(8, 900)),
        "loss": float(random.uniform(0.2, 0.7)),
        "steps": 939,
        "gpu_seconds": float(40 + 3 * (31 - layer) + random.uniform(0, 4)),
        "gpu_name": "NVIDIA A100-SXM4-80GB",
    }
