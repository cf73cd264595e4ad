"""A sparse autoencoder on this machine: SAELens' layout or Gemma Scope's, checked and read. No torch.

| layout | files | arrays |
|---|---|---|
| SAELens | a folder with `cfg.json`, `sae_weights.safetensors` | those below; `threshold` if JumpReLU |
| Gemma Scope | `params.npz`, or a folder that has it | those below, and `threshold` F |

The arrays are `W_enc` D x F, `b_enc` F, `W_dec` F x D and `b_dec` D, with D the width of the hidden states and F the
number of features. The features are f(h) = a((h - centre) W_enc + b_enc) with a(x) = x where x > max(threshold, 0),
else 0; the centre is b_dec where SAELens' `apply_b_dec_to_input` says so, else 0.

Source: SAELens, `sae_lens/saes/` (cfg.json, the standard and JumpReLU encoders); Lieberum et al., "Gemma Scope", 2024.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load

from workers.data.model_info import ModelError
from workers.files.folder import replace_file

_CFG, _WEIGHTS, _PARAMS = "cfg.json", "sae_weights.safetensors", "params.npz"
_WANTED: Final = f"expected a folder with {_CFG} and {_WEIGHTS} (SAELens), or {_PARAMS} (Gemma Scope)"
_ARRAYS: Final = {"W_enc": "D x F", "b_enc": "F", "W_dec": "F x D", "b_dec": "D"}
_ELEMENTWISE: Final = {"standard", "jumprelu"}


class SaeError(ModelError):
    """A sparse autoencoder that cannot be used; the message says what was found and what would be right."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sae:
    """A sparse autoencoder of F features of vectors of D numbers, float32."""

    encoder_DF: NDArray[np.float32]
    bias_F: NDArray[np.float32]
    threshold_F: NDArray[np.float32]
    centre_D: NDArray[np.float32]
    decoder_FD: NDArray[np.float32]

    @property
    def width(self) -> int:
        """D."""
        return len(self.encoder_DF)

    @property
    def n_features(self) -> int:
        """F."""
        return len(self.decoder_FD)


def files_of(path: Path) -> dict[str, bytes]:
    """The files of the autoencoder at `path`, by name. Raises: SaeError where there is none."""
    try:
        if path.is_file():
            return {_PARAMS: path.read_bytes()} if path.suffix == ".npz" else _refused(path, "is no folder")
        there = {name: path / name for name in (_CFG, _WEIGHTS, _PARAMS) if (path / name).is_file()}
        for wanted in ((_CFG, _WEIGHTS), (_PARAMS,)):
            if set(wanted) <= set(there):
                return {name: there[name].read_bytes() for name in wanted}
        if not path.exists():
            return _refused(path, "does not exist")
        names = sorted(file.name for file in path.iterdir())
        return _refused(path, f"has {', '.join(names[:8]) or 'no file'}")
    except OSError as error:
        raise SaeError(f"{path}: cannot be read: {error.strerror}; {_WANTED}") from error


def _refused(path: Path, found: str) -> dict[str, bytes]:
    raise SaeError(f"{path}: {found}; {_WANTED}")


def digest_of(files: Mapping[str, bytes]) -> str:
    """The SHA-256 of an autoencoder's files, names and contents."""
    found = hashlib.sha256()
    for name, content in sorted(files.items()):
        found.update(f"{name} {len(content)}\n".encode())
        found.update(content)
    return found.hexdigest()


def carry_sae(path: Path, target: Path) -> None:
    """Copy the autoencoder's files from `path` to the folder `target`, where they are not there yet.

    Raises: SaeError, OSError.
    """
    target.mkdir(parents=True, exist_ok=True)
    for name, content in files_of(path).items():
        if not (target / name).exists():
            replace_file(target / name, content)


def read_sae(path: Path) -> Sae:
    """The autoencoder in the file or folder `path`. Raises: SaeError."""
    files = files_of(path)
    file = path if path.is_file() else path / (_PARAMS if _PARAMS in files else _WEIGHTS)
    centred = _CFG in files and _subtracts_centre(path / _CFG, files[_CFG])
    try:
        if _PARAMS in files:
            with np.load(io.BytesIO(files[_PARAMS]), allow_pickle=False) as found:
                arrays = {name: found[name] for name in found.files}
        else:
            arrays = load(files[_WEIGHTS])
    except KeyError as error:  # numpy has no such numbers
        dtype = error.args[0]
        raise SaeError(f"{file}: its numbers are {dtype}; expected float32: save the autoencoder again") from error
    except (OSError, ValueError, SafetensorError, zipfile.BadZipFile, EOFError) as error:
        raise SaeError(f"{file}: is no readable file of its kind ({error}); {_WANTED}") from error
    return _checked(file, arrays, centred=centred)


def _subtracts_centre(file: Path, content: bytes) -> bool:
    """Whether the encoder takes b_dec away first. Raises: SaeError for an encoder that is not known here."""
    try:
        cfg: Any = json.loads(content)
    except ValueError as error:
        raise SaeError(f"{file}: is no JSON ({error}); expected SAELens' configuration") from error
    if not isinstance(cfg, dict):
        raise SaeError(f"{file}: holds no mapping; expected SAELens' configuration")
    kind = cfg.get("architecture", "standard")
    if kind not in _ELEMENTWISE:
        right = " or ".join(map(repr, sorted(_ELEMENTWISE)))
        why = "whose features are each computed alone"
        raise SaeError(f"{file}: key `architecture`: got {kind!r}; expected {right}, {why}")
    act = cfg.get("activation_fn", cfg.get("activation_fn_str", "relu"))
    if act != "relu":
        raise SaeError(f"{file}: key `activation_fn`: got {act!r}; expected 'relu'")
    norm = cfg.get("normalize_activations", "none")
    if norm != "none":
        raise SaeError(
            f"{file}: key `normalize_activations`: got {norm!r}; expected 'none': fold the scale into the weights "
            "(SAELens: `fold_activation_norm_scaling_factor`) and save the autoencoder again"
        )
    return bool(cfg.get("apply_b_dec_to_input", True))


def _checked(file: Path, arrays: Mapping[str, Any], *, centred: bool) -> Sae:
    lacking = [name for name in _ARRAYS if name not in arrays]
    if lacking:
        names = ", ".join(sorted(arrays)) or "no array"
        raise SaeError(f"{file}: has {names}, and lacks {', '.join(lacking)}; expected {_shapes()}")
    found = {name: np.asarray(arrays[name]) for name in (*_ARRAYS, *({"threshold"} & set(arrays)))}
    for name, array in found.items():
        if array.dtype.kind != "f" or not np.isfinite(array).all():
            raise SaeError(f"{file}: {name} holds {array.dtype} that are not all finite; expected finite numbers")
    encoder = found["W_enc"]
    width, n_features = encoder.shape if encoder.ndim == 2 else (0, 0)
    shapes = {"W_enc": (width, n_features), "b_enc": (n_features,), "W_dec": (n_features, width), "b_dec": (width,)}
    shapes["threshold"] = (n_features,)
    for name, array in found.items():
        if not width or array.shape != shapes[name]:
            got = ", ".join(f"{one} {' x '.join(map(str, part.shape))}" for one, part in found.items())
            raise SaeError(f"{file}: got {got}; expected {_shapes()} with one D and one F")
    single = {name: array.astype(np.float32) for name, array in found.items()}
    return Sae(
        encoder_DF=single["W_enc"],
        bias_F=single["b_enc"],
        threshold_F=single.get("threshold", np.zeros(n_features, dtype=np.float32)),
        centre_D=single["b_dec"] if centred else np.zeros(width, dtype=np.float32),
        decoder_FD=single["W_dec"],
    )


def _shapes() -> str:
    return ", ".join(f"{name} {shape}" for name, shape in _ARRAYS.items())
