"""Features of a sparse autoencoder: encode, swap, decode, keep the error; the same as a subspace where it is one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.unit.workers.autoencoders import Arrays, orthogonal_arrays, random_arrays, save_gemma_scope, save_saelens
from tests.unit.workers.methods.test_on_activations import planted_pairs
from tests.unit.workers.planted import D, P, planted_model
from tests.unit.workers.tiny import at, make_cohort, make_context, random_pairs, tiny_model
from workers.data.sae_file import SaeError, carry_sae, digest_of, files_of, read_sae
from workers.engine.model import wrap_model
from workers.engine.suffix import SuffixEngine
from workers.files.folder import SweepFolder
from workers.job.evaluate import count_right
from workers.job.saved import load_columns, save_columns
from workers.methods import sae
from workers.methods.alignment import Alignment, Column, FeatureAlignment, WholeVector, groups_of
from workers.methods.base import FitContext, NotApplicable, to_device

CPU = torch.device("cpu")


def planned(folder: Path, path: Path) -> dict[str, Any]:
    """What a plan makes of an autoencoder: its files are in the sweep's folder."""
    digest, found = digest_of(files_of(path)), read_sae(path)
    carry_sae(path, SweepFolder(folder).autoencoder(digest))
    return {"sha256": digest, "width": found.width, "n_features": found.n_features}


def context_with(folder: Path, path: Path, **options: Any) -> FitContext:
    cohort = make_cohort([(0, 11), (2, 11)], method="sae", **planned(folder, path), **options)
    return replace(make_context(folder, cohort, tiny_model("llama"), random_pairs(32, 12)), folder=SweepFolder(folder))


def fitted(folder: Path, path: Path, **options: Any) -> Column:
    (column,) = sae.fit(context_with(folder, path, **options))
    return column


def reconstruct(arrays: Arrays, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Features and reconstruction by the definition: a plain JumpReLU autoencoder without a centre."""
    parts = {name: torch.from_numpy(array) for name, array in arrays.items()}
    before = hidden @ parts["W_enc"] + parts["b_enc"]
    features = torch.where(before > parts["threshold"], before, 0.0)
    return features, features @ parts["W_dec"] + parts["b_dec"]


@pytest.mark.parametrize("save", [save_saelens, save_gemma_scope])
def test_swapped_features_are_decoded_and_the_error_is_kept(tmp_path: Path, save: Any) -> None:
    """Against the definition, written out: decode(swapped features) + (base - decode(base's features))."""
    arrays = random_arrays(32, 80)
    column = fitted(tmp_path, save(tmp_path / "sae", arrays), features=[3, 17, 60])
    base, source = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(0))
    features, reconstruction = reconstruct(arrays, base)
    swapped = features.clone()
    swapped[:, [3, 17, 60]] = reconstruct(arrays, source)[0][:, [3, 17, 60]]
    parts = torch.from_numpy(arrays["W_dec"]), torch.from_numpy(arrays["b_dec"])
    wanted = swapped @ parts[0] + parts[1] + (base - reconstruction)
    assert isinstance(column.learned, FeatureAlignment)
    found = column.learned.mix(torch.zeros(5, dtype=torch.int64))(base.expand(2, -1, -1), source.expand(2, -1, -1))
    torch.testing.assert_close(found, wanted.expand(2, -1, -1), rtol=1e-4, atol=1e-4)


def test_the_centre_is_taken_away_where_the_configuration_says_so(tmp_path: Path) -> None:
    """`apply_b_dec_to_input`: the encoder reads h - b_dec."""
    arrays = random_arrays(32, 80)
    column = fitted(tmp_path, save_saelens(tmp_path / "sae", arrays, apply_b_dec_to_input=True), k=0)
    hidden = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    wanted, _ = reconstruct(arrays, hidden - torch.from_numpy(arrays["b_dec"]))
    assert isinstance(column.learned, FeatureAlignment)
    found = column.learned.features(hidden.expand(2, -1, -1))
    torch.testing.assert_close(found[0], wanted, rtol=1e-4, atol=1e-4)


def test_an_orthogonal_autoencoder_is_the_subspace_method(tmp_path: Path) -> None:
    """Both features of a direction are the interchange along it; all of them are the whole vector."""
    arrays = orthogonal_arrays(32)
    path = save_saelens(tmp_path / "sae", arrays)
    base, source = torch.randn(2, 2, 5, 32, generator=torch.Generator().manual_seed(0))
    asks = torch.zeros(5, dtype=torch.int64)
    one = fitted(tmp_path, path, features=[4, 4 + 32]).learned
    along = Alignment(torch.from_numpy(arrays["W_enc"][:, [4]]).expand(2, -1, -1), torch.ones(2, 1, 1))
    every = fitted(tmp_path, path, k=0).learned
    assert isinstance(one, FeatureAlignment)
    assert isinstance(every, FeatureAlignment)
    torch.testing.assert_close(one.mix(asks)(base, source), along.mix(asks)(base, source), rtol=0, atol=1e-5)
    torch.testing.assert_close(every.mix(asks)(base, source), WholeVector().mix(asks)(base, source), rtol=0, atol=1e-5)


def test_the_feature_of_the_planted_variable_is_chosen(tmp_path: Path) -> None:
    """An autoencoder with one feature for each dimension: P's is chosen, and makes every label come true."""
    eye = torch.eye(D).numpy()
    arrays = {"W_enc": eye, "W_dec": eye, "b_enc": eye[0] * 0, "b_dec": eye[0] * 0}
    settings = planned(tmp_path, save_saelens(tmp_path / "sae", arrays))
    model = wrap_model(planted_model())
    context = make_context(
        tmp_path, make_cohort([(0, 4)], method="sae", k=1, **settings), model, planted_pairs(tmp_path, "train", 400)
    )
    (column,) = sae.fit(replace(context, folder=SweepFolder(tmp_path)))
    assert isinstance(column.learned, FeatureAlignment)
    assert column.learned.encoder_CDF[0, :, 0].nonzero().tolist() == [[P]]
    batch = to_device(planted_pairs(tmp_path, "test", 300), CPU)
    ((counts,),) = count_right(SuffixEngine(model, places=at(0, 0)), [column], batch, micro_batch=100)
    assert counts.n_correct == counts.n_total
    assert counts.n_correct_random is not None
    assert counts.n_correct_random <= 0.75 * counts.n_total


def test_the_control_is_the_same_autoencoder_turned(tmp_path: Path) -> None:
    """On a turned hidden state it has the features that the cell's own have on the plain one; by the key alone."""
    column = fitted(tmp_path, save_saelens(tmp_path / "sae", random_arrays(32, 80)), k=5)
    assert isinstance(column.learned, FeatureAlignment)
    first, again = (column.learned.control([cell.key for cell in column.cells]) for _ in "ab")
    assert torch.equal(first.encoder_CDF, again.encoder_CDF)
    torch.testing.assert_close(
        first.encoder_CDF.mT @ first.encoder_CDF,
        column.learned.encoder_CDF.mT @ column.learned.encoder_CDF,
        rtol=1e-4,
        atol=1e-3,
    )
    assert not torch.allclose(first.encoder_CDF, column.learned.encoder_CDF)


def test_what_was_saved_gives_the_same_numbers(tmp_path: Path) -> None:
    """Written and read again, features that no mask lets through left out: equal to the last bit."""
    context = context_with(tmp_path, save_saelens(tmp_path / "sae", random_arrays(32, 80)), k=5)
    (column,) = sae.fit(context)
    save_columns(tmp_path, context.cohort, [column], whole=False, variables=("P",), indices=())
    groups = groups_of(context.cohort.cells, width_of=context.width_of, join_places=True)
    (loaded,) = load_columns(tmp_path, groups, CPU)
    assert isinstance(column.learned, FeatureAlignment)
    assert isinstance(loaded.learned, FeatureAlignment)
    assert loaded.facts == column.facts
    for name in FeatureAlignment.__slots__:
        assert torch.equal(getattr(loaded.learned, name), getattr(column.learned, name)), name


def test_a_file_that_changed_behind_the_plan_is_refused(tmp_path: Path) -> None:
    """The sweep's copy has another hash than the cells know."""
    context = context_with(tmp_path, save_gemma_scope(tmp_path / "sae", random_arrays(32, 80)))
    target = SweepFolder(tmp_path).autoencoder(context.settings["sha256"])
    save_gemma_scope(target, random_arrays(32, 80, seed=1))
    with pytest.raises(SaeError, match="has changed since the sweep was planned"):
        sae.fit(context)


def test_another_width_has_no_features(tmp_path: Path) -> None:
    """An autoencoder of 16 at a site of 32."""
    with pytest.raises(NotApplicable, match="reads vectors of 16, and a token has 32 numbers here"):
        fitted(tmp_path, save_gemma_scope(tmp_path / "sae", random_arrays(16, 80)))
