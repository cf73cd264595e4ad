"""Sizes and fingerprint of a checkpoint folder, read without torch; and folders that are refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.unit.workers.tiny import CONFIGS, tiny_model
from workers.data.model_info import ModelError, read_model_info, weight_files

MIB = 1 << 20


@pytest.fixture
def checkpoint(demo_model: Path, tmp_path: Path) -> Path:
    """A copy of the demo's checkpoint."""
    return shutil.copytree(demo_model, tmp_path / "model")


def flip_byte(path: Path, offset: int) -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        (byte,) = file.read(1)
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


def edit_config(checkpoint: Path, **changes: Any) -> None:
    path = checkpoint / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not ...}))


def test_sizes_of_the_demo_model(demo_model: Path) -> None:
    """As its config.json says."""
    info = read_model_info(demo_model)
    assert (info.n_layers, info.hidden_size, info.n_heads) == (4, 64, 4)
    assert [file.name for file in weight_files(demo_model)] == ["model.safetensors"]


@pytest.mark.parametrize("family", sorted(CONFIGS.keys() - {"deepseek_v3"}))  # its attention's low ranks are not read
def test_parameters_of_a_block_are_those_of_its_matrices(tmp_path: Path, family: str) -> None:
    """Counted off the configuration alone, equal to the weights of a real model of the family: all of them, and those
    that a token passes."""
    CONFIGS[family]().save_pretrained(tmp_path)
    blocks = tiny_model(family).blocks
    sizes = {name: weight.numel() for name, weight in blocks[0].named_parameters() if weight.dim() > 1}
    experts = sum(size for name, size in sizes.items() if ".experts." in name and "bias" not in name)
    others = sum(size for name, size in sizes.items() if ".experts." not in name and "shared_expert_gate" not in name)
    info = read_model_info(tmp_path)
    assert info.n_layer_parameters == others + experts * info.n_experts_a_token // info.n_experts
    ends = 2 * info.vocab_size * info.hidden_size
    assert info.n_parameters == len(blocks) * (others + experts) + ends
    assert info.n_layers == len(blocks)


# Fingerprint -------------------------------------------------------------------------------------------------------


def test_a_copy_has_the_same_fingerprint(checkpoint: Path, demo_model: Path) -> None:
    """The folder's name and the files' times are no part of it."""
    assert read_model_info(checkpoint).fingerprint == read_model_info(demo_model).fingerprint


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_each_file_is_part_of_the_fingerprint(checkpoint: Path, name: str) -> None:
    """One byte more in any of them changes it."""
    before = read_model_info(checkpoint).fingerprint
    with open(checkpoint / name, "ab") as file:
        file.write(b" ")
    assert read_model_info(checkpoint).fingerprint != before


def test_one_byte_deep_in_a_weight_file_changes_the_fingerprint(checkpoint: Path) -> None:
    """At 9 MiB of 12; the file's size stays."""
    weights = checkpoint / "model.safetensors"
    with open(weights, "r+b") as file:
        file.truncate(12 * MIB)
    before = read_model_info(checkpoint).fingerprint
    flip_byte(weights, 9 * MIB + 12345)
    assert read_model_info(checkpoint).fingerprint != before


def test_a_changed_tensor_in_a_large_file_changes_the_fingerprint(checkpoint: Path) -> None:
    """A tensor of 1 MiB at any place beyond the first 16 MiB, of which only samples are read."""
    weights = checkpoint / "model.safetensors"
    with open(weights, "r+b") as file:
        file.truncate(40 * MIB)
    before = read_model_info(checkpoint).fingerprint
    with open(weights, "r+b") as file:
        file.seek(27 * MIB + 70_000)
        file.write(b"\x01" * MIB)
    assert read_model_info(checkpoint).fingerprint != before


# Folders that are refused ------------------------------------------------------------------------------------------


def test_a_missing_folder_says_what_is_wanted(tmp_path: Path) -> None:
    """The path, and that it is a Hugging Face checkpoint's folder."""
    with pytest.raises(ModelError, match=r"gone: no such folder; give the folder of a Hugging Face checkpoint"):
        read_model_info(tmp_path / "gone")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"config.json: missing"),
        ("{", r"config.json: not readable as JSON"),
        ("[]", r"config.json: got list; expected a JSON object"),
        ("\ud83d".encode("utf-16-le", "surrogatepass"), r"config.json: not readable as JSON"),
    ],
)
def test_a_broken_config_is_named(checkpoint: Path, text: str | bytes | None, message: str) -> None:
    """Missing, torn, not an object, not even text."""
    path = checkpoint / "config.json"
    path.unlink()
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ModelError, match=message):
        read_model_info(checkpoint)


@pytest.mark.parametrize("value", [..., 0, "four"])
def test_a_wrong_size_names_its_key(checkpoint: Path, value: Any) -> None:
    """Missing, zero, a word."""
    edit_config(checkpoint, num_hidden_layers=value)
    with pytest.raises(ModelError, match=r"key `num_hidden_layers`: got .*; expected a whole number above 0"):
        read_model_info(checkpoint)


@pytest.mark.parametrize("key", ["intermediate_size", "num_key_value_heads", "head_dim", "num_experts"])
def test_a_size_that_may_be_left_out_must_be_a_number_where_it_is_not(checkpoint: Path, key: str) -> None:
    """Some families give a list, one for each layer: refused by name. Null, as some write, means left out."""
    edit_config(checkpoint, **{key: [4, 8]})
    with pytest.raises(ModelError, match=rf"config.json: key `{key}`: got \[4, 8\]; expected a whole number above 0"):
        read_model_info(checkpoint)
    edit_config(checkpoint, **{key: None})
    assert read_model_info(checkpoint).n_layer_parameters > 0


def test_an_adapter_is_no_model(checkpoint: Path) -> None:
    """The message says how to make one of it."""
    (checkpoint / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match="an adapter, not a whole model; merge it"):
        read_model_info(checkpoint)


def sharded(checkpoint: Path, names: list[str]) -> None:
    index = {"weight_map": {f"tensor{i}": name for i, name in enumerate(names)}}
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps(index))
    (checkpoint / "model.safetensors").unlink()


def test_a_half_downloaded_checkpoint_is_refused(checkpoint: Path) -> None:
    """The index names two files and one is there: the message names the other."""
    sharded(checkpoint, ["one.safetensors", "two.safetensors"])
    (checkpoint / "one.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match=r"names 2 files, two.safetensors is missing; download the whole checkpoint"):
        read_model_info(checkpoint)


def test_a_sharded_checkpoint_without_its_weights_can_be_planned(checkpoint: Path) -> None:
    """None of the named files is there: planning continues without."""
    sharded(checkpoint, ["one.safetensors", "two.safetensors"])
    assert read_model_info(checkpoint).n_layers == 4
    assert weight_files(checkpoint) == []


@pytest.mark.parametrize("text", ["{", "{}", "[]"])
def test_a_broken_index_is_named(checkpoint: Path, text: str) -> None:
    """Torn, without its map, not an object."""
    (checkpoint / "model.safetensors.index.json").write_text(text)
    with pytest.raises(ModelError, match=r"index.json: not an index of weight files"):
        read_model_info(checkpoint)


def test_sizes_of_the_text_part_are_read(checkpoint: Path) -> None:
    """A model of several modalities keeps them in `text_config`."""
    edit_config(checkpoint, text_config={"num_hidden_layers": 7}, num_hidden_layers=...)
    assert read_model_info(checkpoint).n_layers == 7
