"""The spec's model as planning reads it: its sizes, its tokenizer, and whether the checkpoint can be what it says."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.errors import SpecError
from orchestrator.spec.schema import SweepSpec
from workers.data.checkpoint_check import check_checkpoint
from workers.data.model_info import ModelError, ModelInfo, read_model_info, weight_files
from workers.data.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadModel:
    """A checkpoint that was checked. `notes` say what will be done otherwise than its configuration asks."""

    info: ModelInfo
    tokenizer: Tokenizer
    notes: tuple[str, ...]


def read_model(spec: SweepSpec) -> ReadModel:
    """The model of `spec`; its weights may still be absent. Raises: SpecError naming the file and the remedy."""
    try:
        info = read_model_info(spec.model_path)
        tokenizer = Tokenizer.load(spec.model_path, vocab_size=info.vocab_size)
        return ReadModel(info=info, tokenizer=tokenizer, notes=check_checkpoint(info))
    except ModelError as error:
        raise SpecError(f"{spec.source}: key `model.path`: {error}") from error


def check_runnable(spec: SweepSpec, planned: ModelInfo) -> None:
    """Nothing, where the checkpoint's weights are there, whole, and those that the cells were planned for.

    Raises: SpecError with both fingerprints where it has changed.
    """
    found = read_model(spec).info
    if not weight_files(found.path):
        right = "copy the checkpoint's safetensors there; `plan` does without them, jobs do not"
        raise spec.error("model.path", spec.model.path, f"there are no weights; {right}")
    if found.fingerprint != planned.fingerprint:
        raise spec.error(
            "model.path",
            spec.model.path,
            f"the checkpoint has changed since the sweep was planned (fingerprint {found.fingerprint}, planned "
            f"{planned.fingerprint}); put the old files back, or give the spec file again: it plans anew where no cell "
            "has a result, and needs another `name` where one has",
        )
