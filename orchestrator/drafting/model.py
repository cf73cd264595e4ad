"""The model that a user names: a folder, or a name of the Hub whose files are in the local cache. No network."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from orchestrator.errors import SpecError
from workers.data.model_info import ModelError, ModelInfo, read_model_info, weight_files
from workers.data.tokenizer import Tokenizer

_MAIN: Final = "main"  # the revision that a download without one takes


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedModel:
    """A checkpoint folder as it was named. `has_weights`: a plan does without them, a run does not."""

    name: str  # for a sweep's name: letters, digits, dots and dashes
    path: Path
    info: ModelInfo
    tokenizer: Tokenizer
    has_weights: bool


def find_model(named: str) -> NamedModel:
    """The checkpoint. Raises: SpecError saying where it was looked for and how to get it."""
    path = Path(named).expanduser()
    name = path.name
    if not path.is_dir():
        path, name = _cached(named), named.rpartition("/")[2]
    try:
        info = read_model_info(path.resolve())
        tokenizer = Tokenizer.load(info.path, vocab_size=info.vocab_size)
    except ModelError as error:
        raise SpecError(f"init: {error}") from error
    name = "".join(char if char.isalnum() or char in ".-" else "-" for char in name).strip("-.").lower() or "model"
    return NamedModel(
        name=name, path=info.path, info=info, tokenizer=tokenizer, has_weights=bool(weight_files(info.path))
    )


def _cached(named: str) -> Path:
    """The newest copy of a model of the Hub in the cache of this machine. Raises: SpecError."""
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    hub = Path(os.environ.get("HF_HUB_CACHE", home / "hub")).expanduser()
    folder = hub / f"models--{named.replace('/', '--')}"
    snapshots = folder / "snapshots"
    if not snapshots.is_dir():
        right = f"give a checkpoint's folder, or download the model first: hf download {named}"
        raise SpecError(f"init: got {named!r}; there is no such folder, and it is not in the cache {hub}; {right}")
    ref = folder / "refs" / _MAIN
    if ref.is_file() and (snapshots / ref.read_text(encoding="utf-8").strip()).is_dir():
        return snapshots / ref.read_text(encoding="utf-8").strip()
    found = sorted((path for path in snapshots.iterdir() if path.is_dir()), key=lambda path: path.stat().st_mtime)
    if not found:
        raise SpecError(f"init: {snapshots} is empty; download the model again: hf download {named}")
    return found[-1]
