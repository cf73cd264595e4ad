"""An untrained model holds no variable: no intervention finds one above its controls, corrected for their number."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch

from orchestrator.store.statistics import wilson_interval
from tests.unit.workers.autoencoders import random_arrays, save_saelens
from tests.unit.workers.methods.test_on_activations import planted_pairs
from tests.unit.workers.methods.test_sae import planned
from tests.unit.workers.planted import D, planted_model
from tests.unit.workers.tiny import at, make_cohort, make_context
from workers.engine.model import wrap_model
from workers.engine.suffix import SuffixEngine
from workers.files.folder import SweepFolder
from workers.job.evaluate import count_right
from workers.methods.base import to_device
from workers.methods.settings import METHODS, method_label

POINTS: Final = [(layer, position) for position in (2, 4) for layer in (0, 1)]
SHORT: Final = {"epochs": 8, "batch_size": 64}
OPTIONS: Final[list[tuple[str, dict[str, Any]]]] = [
    ("interchange", {}),
    ("boundless_das", SHORT),
    ("das", {"rotation_lr": 3e-2, **SHORT}),
    ("difference_of_means", {}),
    ("kmeans", {}),
    ("lda", {}),
    ("probe_direction", {}),
    ("random_direction", {}),
    ("pca", {}),
    ("dbm", {"mask_lr": 5e-2, **SHORT}),
    ("dbm", {"mask_lr": 5e-2, "basis": "pca", **SHORT}),
    ("dbm", {"mask_lr": 5e-2, "basis": "svd", **SHORT}),
    ("dbm", {"mask_lr": 5e-2, "basis": "sae", **SHORT}),
    ("sae", {"k": 4}),
    ("steering", {"coefficient": 4.0}),
    ("steering", {"contrast": "pairs"}),
    ("task_vector", {}),
    ("function_vector", {"n_heads": 2}),
]


def test_every_intervention_is_tried() -> None:
    """What intervenes is in the list."""
    assert {name for name, _ in OPTIONS} == {name for name, kind in METHODS.items() if kind.metric == "iia"}


def test_an_untrained_model_shows_nothing_to_any_intervention(tmp_path: Path) -> None:
    """No cell of any rises above its best control, the best single answer among them: Wilson intervals that hold all at
    once with 99.9 % (Bonferroni)."""
    model = wrap_model(planted_model(wired=False))
    train, test = (planted_pairs(tmp_path, split, n) for split, n in (("train", 400), ("test", 400)))
    batch = to_device(test, torch.device("cpu"))
    autoencoder = planned(tmp_path, save_saelens(tmp_path / "sae", random_arrays(D, 40)))
    confidence = 1 - 0.001 / (len(OPTIONS) * len(POINTS))
    for name, options in OPTIONS:
        reads = autoencoder if name == "sae" or options.get("basis") == "sae" else {}
        folder = tmp_path / f"{name}-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        context = make_context(folder, make_cohort(POINTS, method=name, **options, **reads), model, train)
        columns = importlib.import_module(f"workers.methods.{name}").fit(replace(context, folder=SweepFolder(tmp_path)))
        engine = SuffixEngine(model, places=[*at(2, 0, 1), *at(4, 0, 1)])
        for column, counts in zip(columns, count_right(engine, columns, batch, micro_batch=200), strict=True):
            for cell, count in zip(column.cells, counts, strict=True):
                controls = (count.n_correct_none, count.n_correct_full, count.n_correct_random, count.n_dummy)
                low, _ = wilson_interval(count.n_correct, count.n_total, confidence=confidence)
                best = max(n for n in controls if n is not None)
                assert low <= best / count.n_total, (method_label(context.settings), cell.place)
