"""A checkpoint loads whole or not at all: damaged weights are named, and what only looks odd passes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf

from tests.unit.workers.checkpoints import DAMAGES, damaged, one_of_each_kind, saved, weights_of, write_weights
from tests.unit.workers.tiny import CONFIGS, tiny_model
from workers.data.model_info import ModelError
from workers.engine.loading import load_checkpoint, problems_of

WAYS: dict[str, dict[str, Any]] = {"plan": {"device_map": "meta"}, "job": {"dtype": torch.float32}}


def set_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def words_for(name: str, own: set[str]) -> set[str]:
    """What may stand for a tensor of the file in a message: its name, its module's, or, where transformers gives the
    model other names than the file, one of those."""
    return {name, name.rpartition(".")[0].rpartition(".")[2]} | (own if name not in own else set())


# Damaged -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", CONFIGS)
def test_a_damaged_tensor_of_any_family_is_refused_by_name(tmp_path: Path, family: str) -> None:
    """Each matrix of a block, each norm, embedding and head, in turn removed, renamed or reshaped: refused in the way
    in which planning looks, which reads no weights, and the message names it."""
    folder = saved(family, tmp_path)
    tensors = weights_of(folder)
    model, _ = load_checkpoint(folder, **WAYS["plan"])
    own = set(model.state_dict())
    for at, name in enumerate(one_of_each_kind(tensors)):
        write_weights(folder, damaged(tensors, name, DAMAGES[at % 3]))
        with pytest.raises(ModelError) as refused:
            load_checkpoint(folder, **WAYS["plan"])
        assert any(word in str(refused.value) for word in words_for(name, own)), refused.value


@pytest.mark.parametrize("kind", DAMAGES)
@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral", "gpt_oss"])
def test_a_job_refuses_it_too(tmp_path: Path, family: str, kind: str) -> None:
    """With the weights read, as a job does."""
    folder = saved(family, tmp_path)
    tensors = weights_of(folder)
    name = sorted(tensors)[len(tensors) // 2]
    write_weights(folder, damaged(tensors, name, kind))
    with pytest.raises(ModelError, match=r"its weights do not match its config\.json|not loadable as a causal"):
        load_checkpoint(folder, **WAYS["job"])


@pytest.mark.parametrize(
    ("n_layers", "message"),
    [(2, r"unexpected model\.layers\.2\.input_layernorm\.weight, .* and 5 more"), (4, r"missing model\.layers\.3\.")],
)
@pytest.mark.parametrize("way", WAYS)
def test_another_number_of_layers_is_refused(tmp_path: Path, way: str, n_layers: int, message: str) -> None:
    """The weights have three, the configuration says two, or four."""
    set_config(saved("llama", tmp_path), num_hidden_layers=n_layers)
    with pytest.raises(ModelError, match=message):
        load_checkpoint(tmp_path, **WAYS[way])


@pytest.mark.parametrize("way", WAYS)
def test_a_prefix_before_every_key_is_refused(tmp_path: Path, way: str) -> None:
    """As torch.compile leaves it: all are missing, all are unexpected."""
    folder = saved("llama", tmp_path)
    write_weights(folder, {f"_orig_mod.{name}": tensor for name, tensor in weights_of(folder).items()})
    with pytest.raises(ModelError, match=r"missing lm_head\.weight, .* more; unexpected _orig_mod\.lm_head\.weight, "):
        load_checkpoint(folder, **WAYS[way])


def test_a_wrong_shape_is_said_with_both(tmp_path: Path) -> None:
    """The file's and the model's."""
    folder = saved("llama", tmp_path)
    write_weights(folder, damaged(weights_of(folder), "model.norm.weight", "reshaped"))
    with pytest.raises(ModelError, match=r"model\.norm\.weight is \(33,\) in the file and \(32,\) in the model"):
        load_checkpoint(folder, **WAYS["plan"])


@pytest.mark.parametrize("way", WAYS)
def test_a_tied_head_with_values_of_its_own_is_refused(tmp_path: Path, way: str) -> None:
    """The flag says one matrix and the file has two; the message says what both mean."""
    set_config(saved("llama", tmp_path), tie_word_embeddings=True)
    with pytest.raises(ModelError, match=r"key `tie_word_embeddings`: got true, and the weights hold a head that diff"):
        load_checkpoint(tmp_path, **WAYS[way])


def test_an_unknown_kind_of_model_is_bad_input(tmp_path: Path) -> None:
    """Whatever transformers raises at it, in one line."""
    set_config(saved("llama", tmp_path), model_type="llamaish")
    with pytest.raises(ModelError, match=r"^[^\n]*not loadable as a causal language model: ValueError: [^\n]*$"):
        load_checkpoint(tmp_path)


# Only odd ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("family", ["gemma2", "opt", "falcon"])
def test_a_tied_head_may_be_stored_as_an_equal_copy(tmp_path: Path, family: str, way: str) -> None:
    """As torch.save once left it."""
    folder = saved(family, tmp_path)
    model = tiny_model(family).model
    names = {name for name, weight in model.named_parameters(remove_duplicate=False) if weight.shape[0] == 97}
    embedding = model.get_input_embeddings().weight.detach()
    write_weights(folder, weights_of(folder) | dict.fromkeys(names, embedding))
    assert "lm_head.weight" in weights_of(folder)
    load_checkpoint(folder, **WAYS[way])


BUFFERS = {
    "llama": {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)},
    "gpt2": {"transformer.h.1.attn.bias": torch.ones(1, 1, 64, 64), "transformer.h.1.attn.masked_bias": torch.ones(())},
    "gpt_neo": {
        "transformer.h.0.attn.attention.bias": torch.ones(1, 1, 64, 64),
        "transformer.h.0.attn.attention.masked_bias": torch.ones(()),
    },
    "gpt_neox": {
        "gpt_neox.layers.0.attention.bias": torch.ones(1, 1, 64, 64, dtype=torch.bool),
        "gpt_neox.layers.0.attention.masked_bias": torch.ones(()),
        "gpt_neox.layers.0.attention.rotary_emb.inv_freq": torch.ones(4),
    },
    "codegen": {"transformer.h.0.attn.causal_mask": torch.ones(1, 1, 64, 64, dtype=torch.bool)},
}


@pytest.mark.parametrize("family", BUFFERS)
def test_masks_and_tables_of_older_checkpoints_are_no_weights(tmp_path: Path, family: str) -> None:
    """Buffers that a version of transformers once saved."""
    folder = saved(family, tmp_path)
    write_weights(folder, weights_of(folder) | BUFFERS[family])
    load_checkpoint(folder, **WAYS["plan"])


def test_a_bias_that_is_no_mask_is_a_weight() -> None:
    """A key's name alone does not make it a mask; its shape does."""
    report = {"missing_keys": set(), "unexpected_keys": {"h.0.attn.bias"}, "mismatched_keys": set()}
    assert problems_of(report, {"h.0.attn.bias": (1, 1, 64, 64)}) == []
    assert problems_of(report, {"h.0.attn.bias": (96,)}) == ["unexpected h.0.attn.bias"]


def test_a_base_model_without_the_heads_prefix_passes_where_the_head_is_tied(tmp_path: Path) -> None:
    """GPT-2 as it is on the Hub; every weight is the model's."""
    model = tiny_model("gpt2").model
    model.base_model.save_pretrained(tmp_path)
    assert "wte.weight" in weights_of(tmp_path)
    loaded, _ = load_checkpoint(tmp_path, **WAYS["job"])
    for name, weight in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weight), name


def test_a_base_model_without_its_head_is_refused_where_it_is_not_tied(tmp_path: Path) -> None:
    """Its head would be drawn at random."""
    tiny_model("llama").model.base_model.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"missing lm_head\.weight"):
        load_checkpoint(tmp_path, **WAYS["plan"])


def test_shards_and_bfloat16_pass(tmp_path: Path) -> None:
    """Several files and their index, of another dtype than is asked for."""
    tiny_model("llama", dtype=torch.bfloat16).model.save_pretrained(tmp_path, max_shard_size="20KB")
    for way in WAYS.values():
        load_checkpoint(tmp_path, **way)


def test_an_attention_that_is_not_installed_is_replaced_with_a_note(tmp_path: Path) -> None:
    """The model is the one with plain attention, logits and all; the note names both implementations."""
    folder = saved("llama", tmp_path)
    set_config(folder, _attn_implementation="flash_attention_2", attn_implementation="flash_attention_2")
    loaded, notes = load_checkpoint(folder, **WAYS["job"])
    assert len(notes) == 1
    assert "asks for the attention 'flash_attention_2', which cannot be used here; 'sdpa' is taken" in notes[0]
    ids = torch.arange(9)[None]
    wanted = tiny_model("llama").model(ids).logits
    torch.testing.assert_close(loaded.eval()(ids).logits, wanted)


def test_no_attention_is_replaced_where_it_is_not_why(tmp_path: Path) -> None:
    """Another fault is raised as it is."""
    folder = saved("llama", tmp_path)
    set_config(folder, hidden_act="no_such_function")
    with pytest.raises(ModelError, match="no_such_function"):
        load_checkpoint(folder)


def test_the_machines_fault_is_no_bad_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that runs out, a disk that fails: raised as they are, so that they are tried again."""
    folder = saved("llama", tmp_path)
    for error in (torch.OutOfMemoryError("no"), MemoryError(), OSError(5, "Input/output error")):

        def failing(*_: Any, raised: Exception = error, **__: Any) -> Any:
            raise raised

        monkeypatch.setattr(hf.AutoModelForCausalLM, "from_pretrained", failing)
        with pytest.raises(type(error)):
            load_checkpoint(folder)
