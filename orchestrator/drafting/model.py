"""The model that a user names: a folder, or a name of the Hub whose files are in the local cache. No network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import SpecError
from workers.data.hub import snapshot_folder
from workers.data.model_info import ModelError, ModelInfo, read_model_info, weight_files
from workers.data.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedModel:
    """A checkpoint folder as it was named. `has_weights`: a plan does without them, a run does not."""

    name: str  # for a sweep's name: letters, digits, dots and dashes
    path: str  # as a spec names it: the folder, or the id on the Hub
    info: ModelInfo
    tokenizer: Tokenizer
    has_weights: bool


def find_model(named: str) -> NamedModel:
    """The checkpoint. Raises: SpecError saying where it was looked for and how to get it."""
    path = Path(named).expanduser()
    is_folder = path.is_dir()
    name = path.name if is_folder else named.rpartition("/")[2]
    try:
        info = read_model_info(path.resolve() if is_folder else snapshot_folder(named, "").resolve())
        tokenizer = Tokenizer.load(info.path, vocab_size=info.vocab_size)
    except ModelError as error:
        raise SpecError(f"init: {error}") from error
    name = "".join(char if char.isalnum() or char in ".-" else "-" for char in name).strip("-.").lower() or "model"
    return NamedModel(
        name=name,
        path=str(info.path) if is_folder else named,
        info=info,
        tokenizer=tokenizer,
        has_weights=bool(weight_files(info.path)),
    )
