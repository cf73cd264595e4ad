"""A model with initial weights: its configuration's shape, the same weights for a seed, nothing of the checkpoint."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from tests.unit.workers.planted import save_planted
from workers.data.model_info import ModelError
from workers.engine.loading import untrained_model
from workers.engine.model import load_model

CPU = torch.device("cpu")


def test_the_seed_decides_the_weights(demo_model: Path) -> None:
    """Whatever was drawn before; another seed gives others, and so does the checkpoint."""
    before = torch.random.get_rng_state()
    first, second = (untrained_model(demo_model, dtype=torch.float32, seed=3).state_dict() for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), before)
    other = untrained_model(demo_model, dtype=torch.float32, seed=4).state_dict()
    trained = load_model(demo_model, dtype="float32", device=CPU).model.state_dict()
    assert first.keys() == trained.keys()
    assert {name: weight.shape for name, weight in first.items()} == {name: w.shape for name, w in trained.items()}
    name = next(name for name in first if "q_proj" in name)
    assert torch.equal(first[name], second[name])
    assert not torch.equal(first[name], other[name])
    assert not torch.equal(first[name], trained[name])


def test_a_narrower_type_rounds_the_same_weights(demo_model: Path) -> None:
    """Parameters alone: the tables of positions stay as they are in a loaded model."""
    wide, narrow = (untrained_model(demo_model, dtype=kind, seed=0) for kind in (torch.float32, torch.bfloat16))
    for (name, weight), (_, rounded) in zip(wide.named_parameters(), narrow.named_parameters(), strict=True):
        assert torch.equal(weight.bfloat16(), rounded), name
    loaded = load_model(demo_model, dtype="bfloat16", device=CPU).model
    buffers = {name: (buffer.dtype, buffer.tolist()) for name, buffer in loaded.named_buffers()}
    assert {name: (buffer.dtype, buffer.tolist()) for name, buffer in narrow.named_buffers()} == buffers


def test_no_weight_file_is_needed(demo_model: Path, tmp_path: Path) -> None:
    """The configuration is enough; the model is frozen as a loaded one is."""
    shutil.copy(demo_model / "config.json", tmp_path)
    model = load_model(tmp_path, dtype="float32", device=CPU, untrained_seed=0).model
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_tied_heads_stay_tied(tmp_path: Path) -> None:
    """In a narrower type too."""
    from transformers import GPT2Config

    GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=16, tie_word_embeddings=True).save_pretrained(tmp_path)
    model = untrained_model(tmp_path, dtype=torch.bfloat16, seed=0)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_a_configuration_of_no_causal_model_is_named(tmp_path: Path) -> None:
    """The file, and what transformers says of it."""
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    with pytest.raises(ModelError, match=r"its config\.json makes no causal language model"):
        untrained_model(tmp_path, dtype=torch.float32, seed=0)


def test_a_planted_truth_is_deeper_by_the_blocks_before_it(tmp_path: Path) -> None:
    """The models of a pair with different truths answer alike: the blocks that come first do nothing."""
    models = [
        load_model(save_planted(tmp_path / str(n), n_before=n), dtype="float32", device=CPU).model for n in (0, 1)
    ]
    ids = torch.tensor([[0, 1, 11, 21, 31], [0, 4, 13, 29, 31]])
    first, second = (model(ids).logits[:, -1].argmax(dim=-1) for model in models)
    assert torch.equal(first, second)
    assert [len(model.transformer.h) for model in models] == [2, 3]
