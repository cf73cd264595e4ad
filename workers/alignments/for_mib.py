"""A subspace as MIB's featurizers: the two files of a model unit, as `Featurizer.save_modules` of CausalAbstraction
writes them and `Featurizer.load_modules` reads them.

    featurizer           x -> f = x R, error = x - f R^T      R (width x features) has orthonormal columns
    inverse featurizer   f, error -> f R^T + error

An interchange of all features takes the source's part in the subspace and keeps the base's rest. The identity has no R,
and all of the vector is taken over. Both files are what `torch.save` writes: plain values and tensors, so that
`torch.load(..., weights_only=True)` reads them.

Source: Mueller et al., "MIB: A Mechanistic Interpretability Benchmark" (2025), causal variable localization track;
github.com/atticusg/CausalAbstraction, `featurizers.py`.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.utils.parametrizations import orthogonal


class _Rotation(nn.Module):
    """What pyvene's `LowRankRotateLayer` is to a state dictionary: one weight, which torch keeps orthonormal."""

    def __init__(self, basis_DK: torch.Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(basis_DK)


def featurizer_files(basis_DK: NDArray[np.float32] | None, width: int) -> tuple[bytes, bytes]:
    """The content of `_featurizer` and `_inverse_featurizer` of a subspace, or of the identity where there is none."""
    if basis_DK is None:
        return _saved("Identity", width, {}, {})
    rotation = torch.from_numpy(np.array(basis_DK, dtype=np.float32))
    layer = orthogonal(_Rotation(rotation.clone()))
    state = {f"rotate.{name}": value.detach().clone() for name, value in layer.state_dict().items()}
    config = {"rotation_matrix": rotation, "requires_grad": False}
    return _saved("Subspace", rotation.shape[1], config, state)


def _saved(kind: str, n_features: int, config: dict[str, Any], state: dict[str, torch.Tensor]) -> tuple[bytes, bytes]:
    info = {
        "featurizer_class": f"{kind}FeaturizerModule",
        "inverse_featurizer_class": f"{kind}InverseFeaturizerModule",
        "n_features": n_features,
        "featurizer_id": "subspace" if kind == "Subspace" else "null",
        "additional_config": config,
    }
    files = (io.BytesIO(), io.BytesIO())
    for file in files:
        torch.save({"model_info": info, "state_dict": state}, file)
    return files[0].getvalue(), files[1].getvalue()
