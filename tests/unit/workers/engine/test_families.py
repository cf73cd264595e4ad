"""Model families from a checkpoint to a trained cell; checkpoints in shards and in bfloat16."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.unit.workers.tiny import CONFIGS, at, make_cohort, make_context, random_pairs, tiny_model
from workers.engine.check import exact_form
from workers.engine.model import LanguageModel, load_model
from workers.engine.reference import ReferenceEngine
from workers.engine.suffix import SuffixEngine
from workers.methods import boundless_das
from workers.methods.alignment import Alignment, CellFacts
from workers.methods.base import to_device

CPU = torch.device("cpu")
POINTS = [(0, 7), (2, 7), (1, 11)]


# Whole cells ----------------------------------------------------------------------------------------------------


def trained(folder: Path, model: LanguageModel, engine: Any) -> dict[str, tuple[Tensor, CellFacts]]:
    """Three cells after three steps, by key; both engines move the rotation in the tangent space."""
    cohort = make_cohort(POINTS, epochs=1, batch_size=8)
    columns = boundless_das.fit(make_context(folder, cohort, model, random_pairs(24, 12, n_prefix=3), engine=engine))
    found = {}
    for column in columns:
        assert isinstance(column.learned, Alignment)
        for cell, facts, directions in zip(column.cells, column.facts, column.learned.directions_CDK, strict=True):
            found[cell.key] = (directions, facts)
    return found


@pytest.mark.parametrize("family", CONFIGS)
def test_cells_of_every_family_train_alike_in_both_engines(tmp_path: Path, family: str) -> None:
    """A checkpoint loaded from disk: after three steps losses, boundaries and rotations agree but for rounding."""
    tiny_model(family).model.save_pretrained(tmp_path / "model")
    model, _ = exact_form(load_model(tmp_path / "model", dtype="float32", device=CPU))
    assert model is not None
    prefix = torch.from_numpy(random_pairs(24, 12, n_prefix=3).base.ids_BT[0, :3])
    fast = trained(tmp_path, model, SuffixEngine(model, places=at(0, 0, 1, 2), prefix_P=prefix))
    plain = trained(tmp_path, model, ReferenceEngine(model))
    assert fast.keys() == plain.keys()
    for key, (directions, facts) in plain.items():
        assert fast[key][1].loss == pytest.approx(facts.loss, rel=1e-4), key
        assert fast[key][1].boundary == pytest.approx(facts.boundary, rel=1e-4), key
        torch.testing.assert_close(fast[key][0], directions, rtol=0, atol=2e-3)  # Adam lifts rounding errors


# Checkpoints ----------------------------------------------------------------------------------------------------


def test_a_checkpoint_in_shards_is_loaded_whole(tmp_path: Path) -> None:
    """Several safetensors files and their index: every weight as it was."""
    model = tiny_model("llama").model
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    assert (tmp_path / "model.safetensors.index.json").exists()
    loaded = load_model(tmp_path, dtype="float32", device=CPU).model
    for name, weight in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weight), name


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_the_dtype_asked_for_is_the_one_it_runs_in(tmp_path: Path, dtype: str) -> None:
    """A checkpoint saved in bfloat16, loaded as asked, frozen, and its engine's logits of that model."""
    tiny_model("llama", dtype=torch.bfloat16).model.save_pretrained(tmp_path)
    loaded = load_model(tmp_path, dtype=dtype, device=CPU)
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {getattr(torch, dtype)}
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    batch = to_device(random_pairs(2, 9), CPU)
    found = SuffixEngine(loaded, places=at(0, 0)).forward(batch.base, batch.source).base_logits()
    torch.testing.assert_close(found, loaded.model(batch.base.ids_BT).logits[:, -1].float(), rtol=5e-2, atol=5e-2)
