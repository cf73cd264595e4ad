"""What the files of a checkpoint say before any weight is read: whole or cut, real or a pointer, plain or quantised.

Source of the file format: https://huggingface.co/docs/safetensors (8 bytes of header length, little-endian; a JSON
header with each tensor's dtype, shape and place; the tensors' bytes).
"""

from __future__ import annotations

import json
import re
import struct
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from workers.data.model_info import WEIGHTS_INDEX, ModelError, ModelInfo, read_model_info, weight_files

Shape = tuple[int, ...]

_LENGTH_BYTES: Final = 8
_MAX_HEADER_BYTES: Final = 100_000_000  # the format's own limit
_NUMBER: Final = re.compile(r"(?<=\.)\d+(?=\.)")  # a block's or an expert's
_LFS: Final = b"version https://git-lfs"
_LOADED_BY: Final[Mapping[str, str]] = {  # what transformers needs for each `quant_method`
    "awq": "gptqmodel",
    "bitsandbytes": "bitsandbytes",
    "compressed-tensors": "compressed-tensors",
    "fp8": "kernels",
    "gptq": "optimum and gptqmodel",
    "mxfp4": "kernels",
    "torchao": "torchao",
}


def check_files(path: Path) -> dict[str, Shape]:
    """The shape of every tensor in the checkpoint's weight files, by name; nothing where the weights are still absent.

    Raises: ModelError for a file that is empty, cut, a Git LFS pointer or a dangling link, and for quantised weights.
    """
    for name in ("config.json", "tokenizer.json", WEIGHTS_INDEX):
        _check_readable(path / name)
    _check_not_quantised(path / "config.json")
    tensors: dict[str, Shape] = {}
    for file in weight_files(path):
        tensors |= read_header(file)
    return tensors


def unchanged(path: Path, planned: str) -> ModelInfo:
    """The sizes of the checkpoint, if it is the planned one.

    Raises: as `check_files`; ModelError with both fingerprints where it is another.
    """
    check_files(path)
    info = read_model_info(path)
    if info.fingerprint != planned:
        raise ModelError(
            f"{path}: the checkpoint has changed since the sweep was planned (fingerprint {info.fingerprint}, planned "
            f"{planned}); put the old files back, or plan a sweep of another name for the new ones"
        )
    return info


def read_header(file: Path) -> dict[str, Shape]:
    """The shape of each tensor in a safetensors file. Raises: ModelError where it is none, or not all of one."""
    _check_readable(file)
    try:
        size = file.stat().st_size
        with open(file, "rb") as stream:
            start = stream.read(_LENGTH_BYTES)
            n_header = struct.unpack("<Q", start)[0] if len(start) == _LENGTH_BYTES else size
            text = stream.read(n_header) if n_header <= min(size, _MAX_HEADER_BYTES) else b""
    except OSError as error:
        raise ModelError(f"{file}: cannot be read ({error.strerror})") from error
    if len(text) < n_header:
        raise ModelError(f"{file}: no safetensors file, or cut in its header ({size:,} bytes); download it again")
    try:
        header = json.loads(text)
        header.pop("__metadata__", None)
        ends = [entry["data_offsets"][1] for entry in header.values()]
        shapes = {name: tuple(map(int, entry["shape"])) for name, entry in header.items()}
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise ModelError(f"{file}: no safetensors file: its header is not readable ({error})") from error
    wanted = _LENGTH_BYTES + n_header + max(ends, default=0)
    if size != wanted:
        raise ModelError(f"{file}: cut or damaged: {size:,} bytes, its header says {wanted:,}; download it again")
    return shapes


def odd_names(tensors: Mapping[str, Shape]) -> list[str]:
    """The tensors that a checkpoint lacks, or has in another shape, judged by their siblings: names that differ in
    numbers alone, such as the same matrix of each block or expert."""
    families: dict[str, dict[tuple[str, ...], Shape]] = defaultdict(dict)
    for name, shape in tensors.items():
        families[_NUMBER.sub("#", name)][tuple(_NUMBER.findall(name))] = shape
    odd = []
    for pattern, members in families.items():
        whole = max(
            (other for one, other in families.items() if one.count("#") == pattern.count("#")), key=len, default=members
        )
        shapes = list(members.values())
        usual = max(set(shapes), key=shapes.count)
        odd += [f"no {_filled(pattern, numbers)}" for numbers in whole if numbers not in members]
        odd += [f"{_filled(pattern, at)} of {shape}" for at, shape in members.items() if shape != usual]
    return odd


def _filled(pattern: str, numbers: tuple[str, ...]) -> str:
    parts = pattern.split("#")
    return parts[0] + "".join(number + part for number, part in zip(numbers, parts[1:], strict=True))


def _check_readable(file: Path) -> None:
    """Raises: ModelError where something lies there under this name that is no file of a checkpoint."""
    if file.is_symlink() and not file.exists():
        raise ModelError(f"{file}: a link to {file.readlink()}, which is not there; restore it, or download the file")
    if not file.is_file():
        return
    try:
        with open(file, "rb") as stream:
            start = stream.read(len(_LFS))
    except OSError as error:
        raise ModelError(f"{file}: cannot be read ({error.strerror})") from error
    if not start:
        raise ModelError(f"{file}: an empty file (0 bytes); download it again")
    if start == _LFS:
        raise ModelError(f"{file}: a Git LFS pointer, not the file itself; run `git lfs pull` in {file.parent}")


def _check_not_quantised(file: Path) -> None:
    try:
        config: Any = json.loads(file.read_text(encoding="utf-8"))
        parts = [config, config.get("text_config") or {}]
        found = next((part["quantization_config"] for part in parts if part.get("quantization_config")), None)
    except (OSError, ValueError, AttributeError):
        return  # what is wrong with it is said where its sizes are read
    if found is None:
        return
    method = str(found.get("quant_method", "?")) if isinstance(found, dict) else "?"
    loader = f" (transformers loads them with {_LOADED_BY[method]})" if method in _LOADED_BY else ""
    raise ModelError(
        f"{file}: key `quantization_config`: {method} weights{loader}, whose gradients and hidden states are not known "
        "to be those of the plain model here; give a checkpoint in float32, bfloat16 or float16, for instance this one "
        "dequantised (`model.dequantize()`) and saved again"
    )
