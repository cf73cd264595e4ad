"""The models of a grid as planning reads them: sizes, tokenizer, and whether the checkpoint can be what it says."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.spec.models import ModelChoice
from orchestrator.spec.schema import SweepSpec
from workers.data.checkpoint_check import check_checkpoint
from workers.data.hub import download_command, row_name, snapshot_folder
from workers.data.model_info import ModelError, ModelInfo, read_model_info, weight_files
from workers.data.tokenizer import Tokenizer
from workers.files.job import UNTRAINED_SEED


@dataclass(frozen=True, slots=True, kw_only=True)
class GridModel:
    """A model of a planned grid. `name`: what filters, tables and maps call it; `untrained_seed` is None where the
    checkpoint's weights are used."""

    name: str
    info: ModelInfo
    revision: str = ""
    untrained_seed: int | None = None

    @property
    def row_name(self) -> str:
        """What the store's column `model` says."""
        return row_name(str(self.info.path), self.untrained_seed)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadModel:
    """A checkpoint that was checked. `notes` say what will be done otherwise than its configuration asks; `commit` is
    that of the Hub, empty for a folder of the user's own."""

    choice: ModelChoice
    info: ModelInfo
    tokenizer: Tokenizer
    notes: tuple[str, ...]
    commit: str = ""

    def science(self) -> dict[str, str | int]:
        """The model's part of a cell key."""
        found: dict[str, str | int] = {"fingerprint": self.info.fingerprint, "dtype": self.choice.dtype}
        if self.commit:
            found["commit"] = self.commit
        if self.choice.untrained_seed is not None:
            found[UNTRAINED_SEED] = self.choice.untrained_seed
        return found

    def planned(self) -> GridModel:
        """The model as the grid keeps it."""
        choice = self.choice
        return GridModel(
            name=choice.name, info=self.info, revision=choice.revision, untrained_seed=choice.untrained_seed
        )


def model_folder(choice: ModelChoice) -> Path:
    """Where the checkpoint lies: its folder, or the snapshot in the Hub's cache. Raises: SpecError."""
    if not choice.is_hub:
        return Path(choice.path)
    try:
        return snapshot_folder(choice.path, choice.revision)
    except ModelError as error:
        raise choice.problem(error) from error


def pinned(spec: SweepSpec) -> SweepSpec:
    """The spec whose models can no longer change: a branch or tag of the Hub is the commit that the cache has of it.

    Raises: SpecError (it is not in the cache).
    """
    choices = spec.models()
    if not any(choice.is_hub for choice in choices):
        return spec
    return spec.pinned_to([model_folder(choice).name if choice.is_hub else choice.revision for choice in choices])


def read_models(spec: SweepSpec) -> tuple[ReadModel, ...]:
    """The models of `spec`, in its order. Raises: SpecError, also where two of them have the same weights."""
    found: list[ReadModel] = []
    for choice in spec.models():
        read = read_model(choice)
        for before in found:
            same = (before.info.fingerprint, before.choice.untrained_seed)
            if same == (read.info.fingerprint, choice.untrained_seed):
                lacks = "" if weight_files(read.info.path) else ", as far as is known without weights"
                right = f"it is the same model as {before.choice.key}{lacks}; give each model once"
                raise choice.error(choice.path, right)
        found.append(read)
    return tuple(found)


def read_model(choice: ModelChoice) -> ReadModel:
    """The model that a spec asks for; its weights may still be absent. Raises: SpecError naming file and remedy."""
    folder = model_folder(choice)
    try:
        info = read_model_info(folder)
        tokenizer = Tokenizer.load(folder, vocab_size=info.vocab_size)
        commit = folder.name if choice.is_hub else ""
        notes = check_checkpoint(info)
        return ReadModel(choice=choice, info=info, tokenizer=tokenizer, notes=notes, commit=commit)
    except ModelError as error:
        raise choice.problem(error) from error


def chosen_models(spec: SweepSpec, models: Sequence[GridModel]) -> dict[str, ModelChoice]:
    """By the name of each planned model, what the spec says of it: where it lies now. Raises: SpecError."""
    choices = spec.models()
    if len(choices) != len(models):
        right = f"the sweep was planned with {len(models)}; to plan it anew give the spec file"
        raise spec.error("grid.models", f"{len(choices)} models", right)
    return {model.name: choice for model, choice in zip(models, choices, strict=True)}


def check_runnable(spec: SweepSpec, models: Sequence[GridModel], names: Collection[str]) -> None:
    """Nothing, where the weights of the models called `names` are there, whole, and those that the cells were planned
    for. An untrained model needs none.

    Raises: SpecError with both fingerprints where one has changed.
    """
    choices = chosen_models(spec, models)
    for model in models:
        if model.name in names:
            _check_runnable(choices[model.name], model)


def _check_runnable(choice: ModelChoice, planned: GridModel) -> None:
    found = read_model(choice).info
    if planned.untrained_seed is None and not weight_files(found.path):
        right = "copy the checkpoint's safetensors there; `plan` does without them, jobs do not"
        if choice.is_hub:
            right = f"run: {download_command(choice.path, found.path.name)}"
        raise choice.error(choice.path, f"there are no weights; {right}")
    if found.fingerprint != planned.info.fingerprint:
        raise choice.error(
            choice.path,
            f"the checkpoint has changed since the sweep was planned (fingerprint {found.fingerprint}, planned "
            f"{planned.info.fingerprint}); put the old files back, or give the spec file again: it plans anew where no "
            "cell has a result, and needs another `name` where one has",
        )
