"""Weight files looked at without reading a weight: whole, cut, empty, pointers; and which of them are the model."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from workers.data.checkpoint_files import check_files, odd_names, read_header, unchanged
from workers.data.model_info import ModelError, read_model_info

DEMO_FINGERPRINT = "4fb507f65808224fecdb1994ba95d780"  # the first release's
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4cac19622fc3ada9c0fdeadb33f88f367b541f38\nsize 889208\n"


@pytest.fixture
def checkpoint(demo_model: Path, tmp_path: Path) -> Path:
    """A copy of the demo's checkpoint."""
    return shutil.copytree(demo_model, tmp_path / "model")


def test_the_shapes_of_a_checkpoint_are_read_off_its_header(checkpoint: Path) -> None:
    """Embedding and head of the vocabulary's size; 39 tensors."""
    tensors = check_files(checkpoint)
    assert len(tensors) == 39
    assert tensors["lm_head.weight"] == tensors["model.embed_tokens.weight"]


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


DAMAGED: dict[str, tuple[Any, str]] = {
    "empty": (lambda content: b"", r"model\.safetensors: an empty file \(0 bytes\); download it again"),
    "cut": (cut, r"model\.safetensors: cut or damaged: [\d,]+ bytes, its header says [\d,]+; download it again"),
    "longer": (lambda content: content + b" ", r"model\.safetensors: cut or damaged: [\d,]+ bytes, its header says"),
    "cut in the header": (lambda content: content[:99], r"cut in its header \(99 bytes\); download it again"),
    "a few bytes": (lambda content: content[:5], r"cut in its header \(5 bytes\); download it again"),
    "a pointer": (lambda content: LFS, r"model\.safetensors: a Git LFS pointer, .*; run `git lfs pull` in .*model$"),
    "no header": (lambda content: content[:8] + b"x" + content[9:], r"no safetensors file: its header is not readable"),
    "a list": (lambda content: b"\x02" + b"\0" * 7 + b"[]", r"no safetensors file: its header is not readable"),
    "a page": (lambda content: b"<!DOCTYPE html><html>" * 9, r"no safetensors file, or cut in its header"),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_weight_file_is_named(checkpoint: Path, damage: str) -> None:
    """With what is wrong with it, in one line, and what to do."""
    change, message = DAMAGED[damage]
    file = checkpoint / "model.safetensors"
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(ModelError, match=message):
        check_files(checkpoint)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
@pytest.mark.parametrize("kind", ["pointer", "empty", "dangling"])
def test_every_file_of_a_checkpoint_is_looked_at(checkpoint: Path, name: str, kind: str) -> None:
    """A pointer, nothing, and a link to nowhere are told apart in each."""
    file = checkpoint / name
    if kind == "dangling":
        file.unlink()
        file.symlink_to("../blobs/4cac19622fc3")
    else:
        file.write_bytes(LFS if kind == "pointer" else b"")
    said = {"pointer": "a Git LFS pointer", "empty": "an empty file", "dangling": r"a link to \.\./blobs/4cac19622fc3"}
    with pytest.raises(ModelError, match=rf"{name}: {said[kind]}"):
        check_files(checkpoint)


def test_a_link_to_a_file_is_that_file(checkpoint: Path, tmp_path: Path) -> None:
    """As in the cache of huggingface_hub."""
    os.rename(checkpoint / "model.safetensors", tmp_path / "blob")
    (checkpoint / "model.safetensors").symlink_to(tmp_path / "blob")
    assert len(check_files(checkpoint)) == 39


def test_a_folder_without_weights_passes(checkpoint: Path) -> None:
    """A plan needs none."""
    (checkpoint / "model.safetensors").unlink()
    assert check_files(checkpoint) == {}


@pytest.mark.parametrize(
    ("quantisation", "message"),
    [
        (
            {"quant_method": "gptq", "bits": 4},
            r"`quantization_config`: gptq weights \(transformers loads them with optimum and gptqmodel",
        ),
        ({"quant_method": "mxfp4"}, r"`quantization_config`: mxfp4 weights .*; give a checkpoint in float32, bfloat16"),
        ({"quant_method": "new"}, r"`quantization_config`: new weights, whose"),
        ({"bits": 4}, r"`quantization_config`: \? weights, whose"),
    ],
)
@pytest.mark.parametrize("part", [None, "text_config"])
def test_quantised_weights_are_refused(checkpoint: Path, quantisation: Any, message: str, part: str | None) -> None:
    """With what would load them, and what would be right; in the text part of a larger model too."""
    file = checkpoint / "config.json"
    found = {"quantization_config": quantisation}
    file.write_text(json.dumps(json.loads(file.read_text()) | ({part: found} if part else found)))
    with pytest.raises(ModelError, match=message):
        check_files(checkpoint)


# Names -------------------------------------------------------------------------------------------------------------

EXPERTS = {f"layers.{i}.experts.{j}.{name}.weight": (8, 4) for i in range(2) for j in range(3) for name in ("w1", "w2")}


def test_whole_siblings_are_not_odd() -> None:
    """Two layers of three experts of two matrices, and a matrix outside both."""
    assert odd_names(EXPERTS | {"embed.weight": (9, 4), "norm.weight": (4,)}) == []


def test_a_sibling_that_is_not_there_is_named() -> None:
    """One expert of one layer lacks a matrix, another has one of another shape."""
    tensors = {name: shape for name, shape in EXPERTS.items() if name != "layers.1.experts.2.w1.weight"}
    assert odd_names(tensors) == ["no layers.1.experts.2.w1.weight"]
    odd = tensors | {"layers.1.experts.2.w1.weight": (9, 4)}
    assert odd_names(odd) == ["layers.1.experts.2.w1.weight of (9, 4)"]


# Which files are the model ---------------------------------------------------------------------------------------


def test_an_index_beside_another_single_file_is_refused(checkpoint: Path) -> None:
    """Transformers loads the single file, which may be stale: which is meant, only the user knows."""
    shutil.copy(checkpoint / "model.safetensors", checkpoint / "model-00001-of-00001.safetensors")
    names = dict.fromkeys(read_header(checkpoint / "model.safetensors"), "model-00001-of-00001.safetensors")
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    with pytest.raises(
        ModelError, match=r"holds model\.safetensors and model\.safetensors\.index\.json, which names 1"
    ):
        read_model_info(checkpoint)


def test_an_index_of_the_single_file_is_no_second_model(checkpoint: Path) -> None:
    """Both mean the same file."""
    names = dict.fromkeys(read_header(checkpoint / "model.safetensors"), "model.safetensors")
    before = read_model_info(checkpoint).fingerprint
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    assert read_model_info(checkpoint).fingerprint == before
    assert len(check_files(checkpoint)) == 39


def test_a_file_that_is_not_loaded_is_no_part_of_the_fingerprint(checkpoint: Path) -> None:
    """Another safetensors file beside the model: it comes, changes and goes, and the model is the same."""
    before = read_model_info(checkpoint).fingerprint
    (checkpoint / "steering.safetensors").write_bytes(b"anything")
    assert read_model_info(checkpoint).fingerprint == before


def test_the_demo_models_fingerprint_is_what_it_was(demo_model: Path) -> None:
    """Cell keys hold it: finished sweeps of it must be found again."""
    assert read_model_info(demo_model).fingerprint == DEMO_FINGERPRINT


def test_a_checkpoint_that_changed_is_refused_with_both_fingerprints(checkpoint: Path) -> None:
    """Planned, then trained on: a job must not run the new one under the old one's keys."""
    planned = read_model_info(checkpoint).fingerprint
    assert unchanged(checkpoint, planned).fingerprint == planned
    content = bytearray((checkpoint / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (checkpoint / "model.safetensors").write_bytes(content)
    found = read_model_info(checkpoint).fingerprint
    with pytest.raises(ModelError, match=rf"has changed since .* \(fingerprint {found}, planned {planned}\)"):
        unchanged(checkpoint, planned)
