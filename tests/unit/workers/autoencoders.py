"""Small sparse autoencoders in the layouts that users have them in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

Arrays = dict[str, NDArray[Any]]


def random_arrays(width: int, n_features: int, *, seed: int = 0) -> Arrays:
    """A JumpReLU autoencoder whose features are about half on."""
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> NDArray[Any]:
        return rng.standard_normal(shape).astype(np.float32)

    arrays = {"W_enc": normal(width, n_features), "W_dec": normal(n_features, width), "b_dec": normal(width)}
    return arrays | {"b_enc": normal(n_features), "threshold": np.abs(normal(n_features))}


def orthogonal_arrays(width: int, *, seed: int = 0) -> Arrays:
    """Features max(q h, 0) and max(-q h, 0) for each column q of an orthogonal matrix: q's number, and `width` more."""
    q, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((width, width)))
    both = np.concatenate([q, -q], axis=1).astype(np.float32)
    return {"W_enc": both, "W_dec": both.T.copy(), "b_enc": np.zeros(2 * width, "f4"), "b_dec": np.zeros(width, "f4")}


def save_saelens(folder: Path, arrays: Arrays, **cfg: Any) -> Path:
    """`cfg.json` and `sae_weights.safetensors` in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    kind = "jumprelu" if "threshold" in arrays else "standard"
    (folder / "cfg.json").write_text(json.dumps({"architecture": kind, "apply_b_dec_to_input": False} | cfg))
    save_file(arrays, folder / "sae_weights.safetensors")
    return folder


def save_gemma_scope(folder: Path, arrays: Arrays) -> Path:
    """`params.npz` in `folder`; its path."""
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "params.npz", **arrays)
    return folder / "params.npz"
