"""The spec's model as planning reads it: its sizes, its tokenizer, and whether the checkpoint can be what it says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import SpecError
from orchestrator.spec.schema import SweepSpec
from workers.data.checkpoint_check import check_checkpoint
from workers.data.hub import download_command, snapshot_folder
from workers.data.model_info import ModelError, ModelInfo, read_model_info, weight_files
from workers.data.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadModel:
    """A checkpoint that was checked. `notes` say what will be done otherwise than its configuration asks; `commit` is
    that of the Hub, empty for a folder of the user's own."""

    info: ModelInfo
    tokenizer: Tokenizer
    notes: tuple[str, ...]
    commit: str = ""

    def science(self, dtype: str) -> dict[str, str]:
        """The model's part of a cell key."""
        return {"fingerprint": self.info.fingerprint, "dtype": dtype} | ({"commit": self.commit} if self.commit else {})


def model_folder(spec: SweepSpec) -> Path:
    """Where the spec's checkpoint lies: its folder, or the snapshot in the Hub's cache. Raises: SpecError."""
    if not spec.has_hub_model:
        return Path(spec.model.path)
    try:
        return snapshot_folder(spec.model.path, spec.model.revision)
    except ModelError as error:
        raise SpecError(f"{spec.source}: key `model.path`: {error}") from error


def pinned(spec: SweepSpec) -> SweepSpec:
    """The spec whose model can no longer change: a branch or tag of the Hub is the commit that the cache has of it.

    Raises: SpecError (it is not in the cache).
    """
    if not spec.has_hub_model:
        return spec
    model = spec.model.model_copy(update={"revision": model_folder(spec).name})
    return spec.model_copy(update={"model": model})


def read_model(spec: SweepSpec) -> ReadModel:
    """The model of `spec`; its weights may still be absent. Raises: SpecError naming the file and the remedy."""
    folder = model_folder(spec)
    try:
        info = read_model_info(folder)
        tokenizer = Tokenizer.load(folder, vocab_size=info.vocab_size)
        commit = folder.name if spec.has_hub_model else ""
        return ReadModel(info=info, tokenizer=tokenizer, notes=check_checkpoint(info), commit=commit)
    except ModelError as error:
        raise SpecError(f"{spec.source}: key `model.path`: {error}") from error


def check_runnable(spec: SweepSpec, planned: ModelInfo) -> None:
    """Nothing, where the checkpoint's weights are there, whole, and those that the cells were planned for.

    Raises: SpecError with both fingerprints where it has changed.
    """
    found = read_model(spec).info
    if not weight_files(found.path):
        right = "copy the checkpoint's safetensors there; `plan` does without them, jobs do not"
        if spec.has_hub_model:
            right = f"run: {download_command(spec.model.path, found.path.name)}"
        raise spec.error("model.path", spec.model.path, f"there are no weights; {right}")
    if found.fingerprint != planned.fingerprint:
        raise spec.error(
            "model.path",
            spec.model.path,
            f"the checkpoint has changed since the sweep was planned (fingerprint {found.fingerprint}, planned "
            f"{planned.fingerprint}); put the old files back, or give the spec file again: it plans anew where no cell "
            "has a result, and needs another `name` where one has",
        )
