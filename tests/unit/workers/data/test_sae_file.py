"""Files of sparse autoencoders: both layouts are read, and one that is missing or misshapen is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save

from tests.unit.workers.autoencoders import random_arrays, save_gemma_scope, save_saelens
from workers.data.sae_file import Sae, SaeError, carry_sae, digest_of, files_of, read_sae


def test_both_layouts_hold_the_same_autoencoder(tmp_path: Path) -> None:
    """The arrays in SAELens' and in Gemma Scope's files, the latter by file or by folder."""
    arrays = random_arrays(8, 20)
    saelens = read_sae(save_saelens(tmp_path / "a", arrays))
    by_file = read_sae(save_gemma_scope(tmp_path / "b", arrays))
    by_folder = read_sae(tmp_path / "b")
    assert (saelens.width, saelens.n_features) == (8, 20)
    for name in Sae.__slots__:
        np.testing.assert_array_equal(getattr(saelens, name), getattr(by_file, name))
        np.testing.assert_array_equal(getattr(by_file, name), getattr(by_folder, name))


def test_a_standard_autoencoder_has_no_threshold(tmp_path: Path) -> None:
    """A ReLU: the threshold is 0; SAELens takes b_dec away before the encoder unless it says otherwise."""
    arrays = random_arrays(8, 20)
    del arrays["threshold"]
    folder = save_saelens(tmp_path, arrays)
    (folder / "cfg.json").write_text(json.dumps({"architecture": "standard"}))
    found = read_sae(folder)
    assert not found.threshold_F.any()
    np.testing.assert_array_equal(found.centre_D, arrays["b_dec"])


def test_a_copy_has_the_hash_of_the_original(tmp_path: Path) -> None:
    """And another number in a weight has another hash."""
    path = save_gemma_scope(tmp_path / "a", random_arrays(8, 20))
    carry_sae(path, tmp_path / "copy")
    other = save_gemma_scope(tmp_path / "b", random_arrays(8, 20, seed=1))
    assert digest_of(files_of(tmp_path / "copy")) == digest_of(files_of(path)) != digest_of(files_of(other))


def _npz(folder: Path, **changes: np.ndarray | None) -> Path:
    arrays = {name: array for name, array in (random_arrays(8, 20) | changes).items() if array is not None}
    return save_gemma_scope(folder, arrays)


def _cfg(folder: Path, **changes: object) -> Path:
    return save_saelens(folder, random_arrays(8, 20), **changes)


def _text(folder: Path, name: str, text: str) -> Path:
    (save_saelens(folder, random_arrays(8, 20)) / name).write_text(text)
    return folder


def _alone(folder: Path) -> Path:
    (folder / "cfg.json").write_text("{}")
    return folder


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "none", "none: does not exist; expected a folder with cfg.json and sae_weights"),
        (_alone, "has cfg.json; expected a folder with cfg.json and sae_weights.safetensors"),
        (
            lambda folder: _npz(folder, W_dec=None),
            "has W_enc, b_dec, b_enc, threshold, and lacks W_dec; expected W_enc D",
        ),
        (
            lambda folder: _npz(folder, W_dec=np.ones((8, 20))),
            "W_enc 8 x 20, .*W_dec 8 x 20.*; expected W_enc D x F",
        ),
        (lambda folder: _npz(folder, b_enc=np.full(20, np.nan)), "b_enc holds float64 that are not all finite"),
        (lambda folder: _npz(folder, threshold=np.ones(3)), "got .*threshold 3; expected"),
        (lambda folder: _cfg(folder, architecture="topk"), "key `architecture`: got 'topk'; expected 'jumprelu' or"),
        (lambda folder: _cfg(folder, normalize_activations="layer_norm"), "got 'layer_norm'; expected 'none'"),
        (lambda folder: _cfg(folder, activation_fn="tanh"), "key `activation_fn`: got 'tanh'; expected 'relu'"),
        (lambda folder: _text(folder, "cfg.json", "{"), "cfg.json: is no JSON"),
        (lambda folder: _text(folder, "cfg.json", "[]"), "cfg.json: holds no mapping"),
        (lambda folder: _text(folder, "sae_weights.safetensors", "torn"), "is no readable file of its kind"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(tmp_path: Path, make: Callable[[Path], Path], message: str) -> None:
    """What was found, and what would be right."""
    with pytest.raises(SaeError, match=message):
        read_sae(make(tmp_path))


def test_a_torn_archive_is_named(tmp_path: Path) -> None:
    """Half a params.npz."""
    path = save_gemma_scope(tmp_path, random_arrays(8, 20))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(SaeError, match="is no readable file of its kind"):
        read_sae(path)


def test_numbers_of_bfloat16_are_refused(tmp_path: Path) -> None:
    """numpy cannot hold them; the message says what to save instead."""
    folder = save_saelens(tmp_path, random_arrays(8, 20))
    file = folder / "sae_weights.safetensors"
    file.write_bytes(save({name: part.bfloat16() for name, part in load_file(file).items()}))
    with pytest.raises(SaeError, match=r"sae_weights.safetensors: its numbers are BF16; expected float32"):
        read_sae(folder)
