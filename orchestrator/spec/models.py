"""The models of a sweep as its spec names them: the one of `model`, or those of the axis `grid.models`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from orchestrator.errors import SpecError, wrong_value
from orchestrator.spec.places import listed
from values.numbers import MAX_NAME, Seed
from workers.data.hub import is_hub_id, model_name

ModelName = Annotated[str, Field(pattern=r"^([A-Za-z0-9][A-Za-z0-9 ._/@-]*)?$", max_length=MAX_NAME)]


class Section(BaseModel):
    """A block of a spec: no other keys, never changed."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelSection(Section):
    """Which checkpoint. `path` is a folder, relative to the spec's file, or else an id of the Hugging Face Hub.

    `revision` is a branch, tag or commit of the Hub; of a folder it is noted and not looked at. With `grid.models` the
    block has what all entries share.
    """

    path: str
    revision: str = ""
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"


class ModelEntry(Section):
    """One model of the axis. `path` and `revision` are those of `model` where they are not given. `name` is what
    filters, tables and maps call it.

    `untrained`: a model of the same configuration with initial weights, drawn with `seed`: a control.
    """

    path: str = ""
    revision: str = ""
    name: ModelName = ""
    untrained: bool = False
    seed: Seed = 0


ModelEntries = Annotated[
    tuple[
        Annotated[ModelEntry, BeforeValidator(lambda value: {"path": value} if isinstance(value, str) else value)], ...
    ],
    BeforeValidator(listed),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelChoice:
    """One model that a spec asks for: where the spec says so (`source`, `key`), what it is called, and what it is.

    `untrained_seed` is None where the checkpoint's weights are used.
    """

    source: str
    key: str
    name: str
    path: str
    revision: str
    dtype: str
    untrained_seed: int | None = None

    @property
    def is_hub(self) -> bool:
        """Whether the model is named by an id of the Hub: a folder's path is absolute here."""
        return is_hub_id(self.path)

    def error(self, got: Any, right: str, *, key: str = "path") -> SpecError:
        """The error of a bad value of this model."""
        return SpecError(wrong_value(self.source, f"{self.key}.{key}", got, right))

    def problem(self, error: Exception) -> SpecError:
        """What is wrong with the checkpoint, at its key."""
        return SpecError(f"{self.source}: key `{self.key}.path`: {error}")


def with_shared_model(raw: Any) -> Any:
    """The values of a spec in which `model` may lack its path, or be absent, because `grid.models` has the paths."""
    if not isinstance(raw, dict) or not isinstance(raw.get("grid"), dict) or not raw["grid"].get("models"):
        return raw
    model = raw.get("model", {})
    return raw | {"model": {"path": "", **model}} if isinstance(model, dict) else raw


def choices_of(model: ModelSection, entries: Sequence[ModelEntry], source: str) -> tuple[ModelChoice, ...]:
    """The models of a resolved spec, in the order of the list."""
    shared: dict[str, Any] = {"source": source, "dtype": model.dtype}
    if not entries:
        name = name_alone(model.path)
        return (ModelChoice(key="model", name=name, path=model.path, revision=model.revision, **shared),)
    return tuple(
        ModelChoice(
            key=f"grid.models[{index}]",
            name=entry.name,
            path=entry.path,
            revision=entry.revision,
            untrained_seed=entry.seed if entry.untrained else None,
            **shared,
        )
        for index, entry in enumerate(entries)
    )


def resolved_models(
    model: ModelSection, entries: Sequence[ModelEntry], *, untrained: bool, keep: str, source: str, folder: Path
) -> tuple[ModelSection, tuple[ModelEntry, ...]]:
    """The model with its path absolute, or the entries of the axis, which then have the paths and are named.

    Raises: SpecError.
    """
    entries = (ModelEntry(), ModelEntry(untrained=True)) if untrained else entries
    if not entries:
        return model.model_copy(update={"path": folder_or_id(model.path, folder)}), ()
    found = _resolved_entries(entries, model, source=source, folder=folder)
    for index, entry in enumerate(found):
        if entry.untrained and keep == "correct":
            right = f"grid.models[{index}] is untrained and answers by luck alone, so that no pairs are left"
            raise SpecError(wrong_value(source, "data.keep", keep, f"{right}; expected `all`"))
    return model.model_copy(update={"path": "", "revision": ""}), found


def _resolved_entries(
    entries: Sequence[ModelEntry], shared: ModelSection, *, source: str, folder: Path
) -> tuple[ModelEntry, ...]:
    if shared.path and all(entry.path for entry in entries):
        right = "every entry of `grid.models` has a path of its own; leave this one out, or make it an entry"
        raise SpecError(wrong_value(source, "model.path", shared.path, right))
    found: list[ModelEntry] = []
    for index, entry in enumerate(entries):
        path = entry.path or shared.path
        if not path:
            right = "missing; give the folder of a Hugging Face checkpoint, or `model.path` for all entries"
            raise SpecError(f"{source}: key `grid.models[{index}].path`: {right}")
        if entry.seed and not entry.untrained:
            right = "only an entry with `untrained: true` has a seed; leave it out"
            raise SpecError(wrong_value(source, f"grid.models[{index}].seed", entry.seed, right))
        revision = entry.revision or ("" if entry.path else shared.revision)
        found.append(entry.model_copy(update={"path": folder_or_id(path, folder), "revision": revision}))
    names = _names(found)
    _check_apart(found, names, source)
    return tuple(entry.model_copy(update={"name": name}) for entry, name in zip(found, names, strict=True))


def _check_apart(entries: Sequence[ModelEntry], names: Sequence[str], source: str) -> None:
    """Raises: SpecError where two entries are the same model, or have one name."""
    for index, entry in enumerate(entries):
        for before in range(index):
            other = entries[before]
            if _identity(entry) == _identity(other):
                right = f"it is the same model as grid.models[{before}]; give each model once"
                raise SpecError(wrong_value(source, f"grid.models[{index}].path", entry.path, right))
            if names[index] == names[before]:
                right = f"grid.models[{before}] has this name; give each model a name of its own"
                raise SpecError(wrong_value(source, f"grid.models[{index}].name", names[index], right))


def _identity(entry: ModelEntry) -> tuple[Any, ...]:
    revision = (entry.revision or "main") if is_hub_id(entry.path) else ""
    return entry.path, revision, entry.seed if entry.untrained else None


def _names(entries: Sequence[ModelEntry]) -> list[str]:
    """What each entry is called: its own name, or the end of its path, or its id with what tells it apart."""
    return [entry.name or _default_name(entry, entries) for entry in entries]


def _default_name(entry: ModelEntry, entries: Sequence[ModelEntry]) -> str:
    if is_hub_id(entry.path):
        revisions = {other.revision for other in entries if other.path == entry.path}
        name = f"{entry.path}@{entry.revision or 'main'}" if len(revisions) > 1 else entry.path
    else:
        name = _short({other.path for other in entries}, entry.path)
    if not entry.untrained:
        return name
    seeds = {other.seed for other in entries if other.untrained and other.path == entry.path}
    return f"{name} untrained" + (f" {entry.seed}" if len(seeds) > 1 else "")


def _short(paths: set[str], path: str) -> str:
    """The last parts of `path`, as many as no other path ends in."""
    parts = Path(path).parts
    for n_parts in range(1, len(parts)):
        tail = parts[-n_parts:]
        if not any(other != path and Path(other).parts[-n_parts:] == tail for other in paths):
            return "/".join(tail)
    return path


def name_alone(path: Path | str) -> str:
    """What the one model of a sweep is called: its id on the Hub, or its folder."""
    return model_name(str(path))


def folder_or_id(path: str, folder: Path) -> str:
    """The model's folder, absolute; its id on the Hub where there is no such folder and it may be one."""
    found = absolute(path, folder)
    return path if is_hub_id(path) and not Path(found).exists() else found


def absolute(path: str, folder: Path) -> str:
    """The path, taken from `folder` where it is relative."""
    return str((folder / Path(path).expanduser()).resolve())
