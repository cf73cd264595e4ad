"""MIB's featurizers: read back with plain torch, they are the subspace, and exchanging it is the planted truth."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import orthogonal

from tests.unit.workers.planted import D, P, Planted, planted_model, save_planted
from workers.alignments.learned import mib_featurizer
from workers.data.layout import read_layout
from workers.data.pairs import make_pairs
from workers.data.tokenizer import Tokenizer


class Rotation(nn.Module):
    """What MIB's loader makes before it loads the weights."""

    def __init__(self, width: int, n_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width, n_features))


class Rotated(nn.Module):
    """A module whose state is that of MIB's featurizers of a subspace."""

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        layer = Rotation(*matrix.shape)
        layer.weight.data.copy_(matrix)
        self.rotate = orthogonal(layer)


def read(content: bytes) -> tuple[dict[str, Any], Tensor | None]:
    """What a file says, and the rotation that it loads into; none of the identity."""
    data = torch.load(io.BytesIO(content), weights_only=True)
    info = data["model_info"]
    if info["featurizer_class"] == "IdentityFeaturizerModule":
        nn.Identity().load_state_dict(data["state_dict"])
        return info, None
    module = Rotated(info["additional_config"]["rotation_matrix"])
    module.load_state_dict(data["state_dict"])
    return info, module.rotate.weight.detach()


@pytest.mark.parametrize(("width", "n_features"), [(24, 1), (24, 5), (8, 8)])
def test_the_files_hold_the_basis(width: int, n_features: int) -> None:
    """One direction, several, all: the state that torch loads is the basis itself, in both files."""
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(width, n_features)))[0].astype(np.float32)
    for content in mib_featurizer(basis, width):
        info, rotation_DK = read(content)
        assert info["featurizer_class"] == "SubspaceFeaturizerModule"
        assert info["inverse_featurizer_class"] == "SubspaceInverseFeaturizerModule"
        assert info["n_features"] == n_features
        assert rotation_DK is not None
        assert torch.allclose(rotation_DK, torch.from_numpy(basis), atol=1e-6)


def test_the_whole_vector_is_the_identity() -> None:
    """It has the width of the site, and no weights."""
    for content in mib_featurizer(None, 24):
        info, rotation_DK = read(content)
        assert (info["featurizer_class"], info["n_features"], rotation_DK) == ("IdentityFeaturizerModule", 24, None)


def test_an_interchange_of_the_features_is_the_planted_counterfactual(tmp_path: Path) -> None:
    """The planted direction, exported, read back and exchanged behind block 0, gives the label on all pairs."""
    task, tokenizer = Planted(), Tokenizer.load(save_planted(tmp_path))
    layout = read_layout(task, tokenizer)
    pairs = make_pairs(task, task.hypotheses["left_boundary"], tokenizer, layout, n_pairs=200, split="test", seed=1)
    featurizer, inverse = mib_featurizer(np.eye(D, dtype=np.float32)[:, [P]], D)
    (_, forward_DK), (_, back_DK) = read(featurizer), read(inverse)
    assert forward_DK is not None
    assert back_DK is not None
    model = planted_model()
    seen: list[Tensor] = []

    def keep(_module: nn.Module, _arguments: Any, output: Any) -> None:
        seen.append(output[0] if isinstance(output, tuple) else output)

    def exchange(_module: nn.Module, _arguments: Any, output: Any) -> Any:
        hidden = (output[0] if isinstance(output, tuple) else output).clone()
        base, source = hidden[:, -1], seen[0][:, -1]
        error = base - (base @ forward_DK) @ forward_DK.T
        hidden[:, -1] = (source @ forward_DK) @ back_DK.T + error
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    block = model.transformer.h[0]
    with torch.no_grad():
        handle = block.register_forward_hook(keep)
        model(torch.from_numpy(pairs.source.ids_BT))
        handle.remove()
        handle = block.register_forward_hook(exchange)
        said = model(torch.from_numpy(pairs.base.ids_BT)).logits[:, -1].argmax(dim=-1)
        handle.remove()
    assert said.tolist() == pairs.label_B.tolist()
