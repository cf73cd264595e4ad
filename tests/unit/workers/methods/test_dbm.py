"""Desiderata-based masking: the planted neuron alone is let through, and a mask of ones is the whole vector."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.unit.workers.autoencoders import orthogonal_arrays, save_saelens
from tests.unit.workers.methods.test_on_activations import planted_counts, read_by_hooks
from tests.unit.workers.methods.test_sae import planned
from tests.unit.workers.planted import P
from tests.unit.workers.tiny import SilentMonitor, at, make_cohort, make_context, random_pairs, tiny_model
from workers.engine.suffix import SuffixEngine
from workers.files.folder import SweepFolder
from workers.job.evaluate import count_right
from workers.methods import dbm, interchange
from workers.methods.alignment import Alignment, Column
from workers.methods.base import FitContext, Interrupted, to_device
from workers.methods.dbm import let_through, principal_bases

CPU = torch.device("cpu")
ALL_ON = {"mask_start": 10.0, "mask_penalty": 0.0, "mask_lr": 1e-9}


def context_of(folder: Path, *, n_variables: int = 1, **options: Any) -> FitContext:
    monitor = options.pop("monitor", None)
    if options.get("basis") == "sae":
        options |= planned(folder, save_saelens(folder / "sae", orthogonal_arrays(32)))
    cohort = make_cohort([(0, 11), (2, 11)], method="dbm", epochs=1, batch_size=16, **options)
    pairs = random_pairs(32, 12, n_variables=n_variables)
    context = make_context(folder, cohort, tiny_model("llama"), pairs, n_variables=n_variables, monitor=monitor)
    return replace(context, folder=SweepFolder(folder))


def fitted(folder: Path, **options: Any) -> Column:
    (column,) = dbm.fit(context_of(folder, **options))
    return column


@pytest.mark.parametrize("basis", ["neurons", "pca", "svd", "sae"])
def test_a_mask_of_ones_is_the_whole_vector(tmp_path: Path, basis: str) -> None:
    """Every unit let through: the counts of `interchange`, whatever the basis."""
    model, batch = tiny_model("llama"), to_device(random_pairs(64, 12, seed=1), CPU)
    whole = interchange.fit(
        make_context(tmp_path, make_cohort([(0, 11), (2, 11)], method="interchange"), model, random_pairs(32, 12))
    )
    mine = fitted(tmp_path, basis=basis, **ALL_ON)
    engine = SuffixEngine(model, places=at(0, 0, 2))
    for of_mask, of_whole in zip(
        *(count_right(engine, columns, batch, micro_batch=64)[0] for columns in ([mine], whole)), strict=True
    ):
        assert of_mask.n_correct == of_whole.n_correct == of_mask.n_correct_full
        assert (of_mask.n_only_cell, of_mask.n_only_none) == (of_whole.n_only_cell, of_whole.n_only_none)
    assert [facts.subspace_dim for facts in mine.facts] == [64 if basis == "sae" else 32] * 2


def test_the_mask_is_one_at_the_planted_neuron_and_zero_elsewhere(tmp_path: Path) -> None:
    """After block 0 at the last position P alone is let through, and makes every label come true."""
    options = {"epochs": 24, "batch_size": 32, "mask_lr": 5e-2, "mask_penalty": 0.2}
    column, counts = planted_counts(tmp_path, dbm, "dbm", **options)
    assert isinstance(column.learned, Alignment)
    assert column.learned.directions_CDK[0].nonzero().tolist() == [[P, 0]]
    assert column.learned.mask_CVK.tolist() == [[[1.0]]]
    assert (column.facts[0].subspace_dim, counts.n_correct) == (1, counts.n_total)


@pytest.mark.parametrize(("basis", "is_centred"), [("pca", True), ("svd", False)])
def test_the_fixed_bases_are_numpys_singular_vectors(tmp_path: Path, basis: str, is_centred: bool) -> None:
    """Those of the training prompts' hidden states, with their mean taken away for principal components; up to sign."""
    context = context_of(tmp_path, basis=basis)
    (basis_CDD,) = principal_bases(context, context.groups, is_centred=is_centred)
    for index, layer in enumerate((0, 2)):
        hidden = read_by_hooks(context, layer, 11)
        wanted = np.linalg.svd(hidden - is_centred * hidden.mean(axis=0))[2][:5].T
        np.testing.assert_allclose(np.abs(np.sum(basis_CDD[index, :, :5].numpy() * wanted, axis=0)), 1.0, atol=1e-3)


def test_units_that_are_let_through_come_first_in_their_order() -> None:
    """The most of a cell decides how many are kept; one at least."""
    mask_CVU = torch.tensor([[[0.0, 1, 0, 0], [0.0, 0, 0, 1]], [[0.0, 0, 1, 0], [0.0, 0, 0, 0]]])
    assert let_through(mask_CVU)[:, :1].tolist() == [[1], [2]]
    assert let_through(mask_CVU)[0].tolist() == [1, 3]
    assert let_through(torch.zeros(1, 1, 4)).tolist() == [[0]]


@pytest.mark.parametrize("basis", ["neurons", "svd", "sae"])
def test_an_interrupted_training_ends_as_an_undisturbed_one(tmp_path: Path, basis: str) -> None:
    """Theta, its moments and the basis are in the checkpoint: equal to the last bit."""
    for name in "ab":
        (tmp_path / name).mkdir()
    undisturbed = fitted(tmp_path / "a", basis=basis)
    monitor = SilentMonitor(stop_after=1 if basis != "svd" else 2)
    with pytest.raises(Interrupted):
        fitted(tmp_path / "b", basis=basis, monitor=monitor)
    resumed = fitted(tmp_path / "b", basis=basis)
    assert resumed.facts == undisturbed.facts
    for name in type(resumed.learned).__slots__:
        assert torch.equal(getattr(resumed.learned, name), getattr(undisturbed.learned, name)), name


def test_two_variables_have_two_masks(tmp_path: Path) -> None:
    """Each variable lets through what it learned, and the other's units are not in its mask."""
    learned = fitted(tmp_path, n_variables=2, mask_start=0.0, mask_lr=1e-1).learned
    assert isinstance(learned, Alignment)
    assert learned.mask_CVK.shape[:2] == (2, 2)
    assert not torch.equal(learned.mask_CVK[:, 0], learned.mask_CVK[:, 1])
