"""A sweep's folder: found by spec, path or name; made whole or not at all; never taken over by another science.

The spec and the cells that it was planned into are one commit: cells.parquet holds the spec's text, and is replaced in
one step. sweep.yaml is a copy for people. Where a command died before it had written the copy, the next one does; where
somebody has edited the copy since, it counts.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from orchestrator import folder_readme
from orchestrator.errors import SpecError, StorageError, SweepConflict, SweepNotFound
from orchestrator.grid.expand import Grid
from orchestrator.grid.file import PlannedSpec, planned_spec, read_grid, write_grid
from orchestrator.grid.model import GridModel
from orchestrator.spec.schema import BACKEND_KEYS, SweepSpec, load_spec, parse_spec
from orchestrator.spec.text import apply_overrides, parse_yaml
from orchestrator.store.store import Store
from workers.data.sae_file import carry_sae
from workers.data.sources import task_settings
from workers.files.folder import SweepFolder, replace_file
from workers.files.shard import shard_bytes
from workers.tasks import TaskError


@dataclass(frozen=True, slots=True)
class Found:
    """What a command was pointed at: a spec file (`spec`), or a folder that was planned before."""

    folder: SweepFolder
    spec: SweepSpec
    is_planned: bool
    spec_is_changed: bool = False  # by `--set`, against the spec that the folder holds


# May be set on a sweep that is planned.
_FREE: Final = ("gate", "jobs", "run", "cluster", "notify", *BACKEND_KEYS)


def find(source: str | Path, sweeps: Path, overrides: Sequence[str]) -> Found:
    """The sweep of a spec file, of a sweep's folder, or of the name of a folder in `sweeps`.

    Raises: SpecError (the spec is wrong), SweepNotFound (naming the sweeps that there are).
    """
    path = Path(source)
    for folder in (path, sweeps / path):
        if _is_planned(folder):
            for override in overrides:
                if override.split(".")[0].split("=")[0] not in _FREE:
                    raise SpecError(
                        f"--set: got {override!r}; on a planned sweep only {', '.join(_FREE)} can be set; "
                        "for another grid or science give the spec file"
                    )
            planned = SweepFolder(folder.resolve())
            return Found(planned, _spec_of(planned, overrides), is_planned=True, spec_is_changed=bool(overrides))
    if path.suffix in (".yaml", ".yml") or path.is_file():
        spec = load_spec(path, overrides)
        return Found(SweepFolder((sweeps / spec.name).resolve()), spec, is_planned=False)
    names = [folder.name for folder in folders(sweeps)]
    there = f"there are {', '.join(names)}" if names else f"there is none in {sweeps.resolve()}"
    raise SweepNotFound(f"no sweep {str(source)!r}: give a spec file, a sweep's folder or its name; {there}")


def folders(sweeps: Path) -> list[Path]:
    """The folders in `sweeps` that hold a sweep, by name: also one without sweep.yaml, which is made again."""
    return sorted(filter(_is_planned, sweeps.glob("*")))


def _is_planned(folder: Path) -> bool:
    planned = SweepFolder(folder)
    return planned.spec.is_file() or planned_spec(planned.cells) is not None


def check_same_science(folder: SweepFolder, spec: SweepSpec, grid: Grid) -> None:
    """Nothing, where the sweep in `folder` may become that of `spec`: only axes or non-science keys differ.

    Raises: SweepConflict showing each difference.
    """
    if not folder.cells.exists() or not (folder.spec.exists() or planned_spec(folder.cells)):
        return
    planned = read_grid(folder.cells)
    old, new = _science(_spec_of(folder), planned), _science(spec, grid)
    changes = {key: (old.get(key), new.get(key)) for key in sorted({*old, *new}) if old.get(key) != new.get(key)}
    changes |= _changed_models(planned, grid)
    is_new_checkpoint = bool(changes) and all(key.endswith(".fingerprint") for key in changes)
    if is_new_checkpoint and all(row.status == "skipped" for row in Store(folder).index().values()):
        return  # a checkpoint that was mended before any cell was measured: nothing is lost by planning anew
    if changes:
        lines = [f"  {key}: {was!r} there, {now!r} in {spec.source}" for key, (was, now) in changes.items()]
        raise SweepConflict(
            f"{folder.root}: a sweep of this name has another spec:\n" + "\n".join(lines) + "\n"
            f"give yours another name (--set name={spec.name}-2), or put the old values back"
        )


def _changed_models(old: Grid, new: Grid) -> dict[str, tuple[Any, Any]]:
    """What is otherwise in the models of two grids, by dotted key. Where one of them has several, models may come and
    go; but the sweep keeps one at least, and one that is called as before, or lies where it lay, is the same."""
    was, now = _by_model(old), _by_model(new)
    are_alone = len(was) == len(now) == 1
    changes = {
        f"{'model' if are_alone else f'model {new_model.name!r}'}.{key}": (before.get(key), after.get(key))
        for old_model, before in was.items()
        for new_model, after in now.items()
        if are_alone or _is_called_alike(old_model, new_model)
        for key in sorted({*before, *after})
        if before.get(key) != after.get(key)
    }
    if not changes and not any(science in now.values() for science in was.values()):
        changes["models"] = ([model.name for model in was], [model.name for model in now])
    return changes


def _by_model(grid: Grid) -> dict[GridModel, dict[str, Any]]:
    """By model, its part of the cell keys."""
    streams = {strand.model: strand.stream for strand in grid.strands}
    return {model: dict(streams[model.name].model) for model in grid.models if model.name in streams}


def _is_called_alike(one: GridModel, other: GridModel) -> bool:
    if one.untrained_seed != other.untrained_seed:
        return False
    return one.name == other.name or one.info.path == other.info.path


def _spec_of(folder: SweepFolder, overrides: Sequence[str] = ()) -> SweepSpec:
    """The spec from which the sweep in `folder` was planned. Raises: SpecError."""
    planned = _newer_than_its_copy(folder)
    if planned is None:
        return load_spec(folder.spec, overrides)
    raw = apply_overrides(parse_yaml(planned.text, str(folder.spec)), overrides)
    return parse_spec(raw, source=str(folder.spec), folder=folder.root)


def _newer_than_its_copy(folder: SweepFolder) -> PlannedSpec | None:
    """The spec in the cells, where sweep.yaml is missing, empty, or what it was before the cells were planned."""
    planned, copy = planned_spec(folder.cells), _bytes_of(folder.spec)
    if planned is None or (copy and copy.strip() and _sha256(copy) != planned.instead_of):
        return None
    return planned


def _sha256(content: bytes | None) -> str:
    return hashlib.sha256(content).hexdigest() if content else ""


def _science(spec: SweepSpec, grid: Grid) -> dict[str, Any]:
    """What all cells of a sweep have in common whatever its axes, by dotted key; its models apart."""
    stream = grid.strands[0].stream
    task = {key: value for key, value in spec.task.items() if key != "file"}
    with contextlib.suppress(TaskError):  # a user's file may be gone
        task = task_settings(spec.task)
    for digest in ("file_sha256", "data_sha256"):
        task[digest] = stream.task.get(digest)
    parts: dict[str, Any] = {"task": task, "data": dict(stream.data), "engine": stream.engine}
    has_lists = any(isinstance(value, list) for _, method in spec.methods() for value in method.settings().values())
    if not spec.grid.methods and not has_lists:
        parts["method"] = dict(stream.method)
    return dict(_flat("", parts))


def _flat(prefix: str, value: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, item in value.items():
        if isinstance(item, Mapping):
            yield from _flat(f"{prefix}{key}.", item)
        else:
            yield f"{prefix}{key}", item


@contextlib.contextmanager
def made(folder: SweepFolder) -> Iterator[None]:
    """The folder of a planned sweep with all its folders, inside. Raises: StorageError."""
    try:
        folder.make()
        planned = _newer_than_its_copy(folder)
        if planned is not None:
            replace_file(folder.spec, planned.text)
    except OSError as error:
        raise StorageError(f"{folder.root}: cannot write: {error.strerror}; make room or put it elsewhere") from error
    yield


@contextlib.contextmanager
def written(folder: SweepFolder, spec: SweepSpec, grid: Grid) -> Iterator[None]:
    """The folder with its spec and cells, inside; if that fails all is as it was before.

    A folder is claimed, written, and used inside the `with`; what fails on the way is undone. Raises: StorageError.
    """
    before = _Before.claiming(folder)
    try:
        _write(folder, spec, grid)
        yield
    except BaseException:
        before.restore()
        raise


def _write(folder: SweepFolder, spec: SweepSpec, grid: Grid) -> None:
    """What a sweep is made of, before its first job. Raises: StorageError."""
    try:
        folder.make()
        for source in grid.sources:
            source.carry(folder)
        for digest, path in grid.autoencoders.items():
            carry_sae(path, folder.autoencoder(digest))
        replace_file(folder.root / folder_readme.NAME, folder_readme.readme_of(folder.root.name))
        text, copy = spec.to_yaml(), _bytes_of(folder.spec)
        if not folder.cells.exists():  # a new sweep: killed before it has cells, it is planned from its spec again
            replace_file(folder.spec, text)
        write_grid(grid, folder.cells, PlannedSpec(text=text, instead_of=_sha256(copy)))
        replace_file(folder.spec, text)
    except OSError as error:
        raise StorageError(f"{folder.root}: cannot write: {error.strerror}; make room or put it elsewhere") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class _Before:
    """A sweep's folder before a command wrote to it. `new_parents` were made for it, the innermost first."""

    folder: SweepFolder
    is_new: bool
    new_parents: tuple[Path, ...]
    contents: Mapping[Path, bytes | None]

    @classmethod
    def claiming(cls, folder: SweepFolder) -> _Before:
        """The folder as it is, or as it was not before this made it. Raises: StorageError."""
        contents = {path: _bytes_of(path) for path in (folder.spec, folder.cells)}
        parents = tuple(parent for parent in folder.root.parents if not parent.exists())
        try:
            folder.root.parent.mkdir(parents=True, exist_ok=True)
            is_new = _create(folder.root)
        except OSError as error:
            raise StorageError(f"{folder.root}: cannot create the sweep's folder: {error.strerror}") from error
        return cls(folder=folder, is_new=is_new, new_parents=parents, contents=contents)

    def restore(self) -> None:
        """Remove a new folder that no submission uses; put back the files of an older one."""
        if not self.is_new:
            for path, content in self.contents.items():  # the spec first: with the new cells it is known as behind
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True) if content is None else replace_file(path, content)
        elif not any(self.folder.submissions.glob("*.json")):
            shutil.rmtree(self.folder.root, ignore_errors=True)
            with contextlib.suppress(OSError):  # somebody else has begun to use a parent
                for parent in self.new_parents:
                    parent.rmdir()


def _bytes_of(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def _create(path: Path) -> bool:
    try:
        os.mkdir(path)
    except FileExistsError:
        return False
    return True


def reuse_rows(folder: SweepFolder, grid: Grid, other: SweepFolder) -> int:
    """The number of cells whose finished rows were taken over from another sweep, as a shard of this one.

    The rows stay as they are: they name the sweep, job and GPU that computed them. Raises: StorageError.
    """
    table = Store(other).table()
    wanted = pa.array([cell.key for _, cell in grid.cells()])
    taken = table.filter(pc.and_(pc.is_in(table["cell_key"], wanted), pc.equal(table["status"], "done")))
    if taken.num_rows == 0:
        return 0
    content = shard_bytes(taken, {"reused_from": str(other.root)})
    try:
        replace_file(folder.shards / f"reused-{other.root.name}.parquet", content)
        _reuse_alignments(folder, other, set(taken["cell_key"].to_pylist()))
    except OSError as error:
        raise StorageError(f"{folder.shards}: cannot write: {error.strerror}") from error
    return len(set(taken["cell_key"].to_pylist()))


def _reuse_alignments(folder: SweepFolder, other: SweepFolder, keys: Iterable[str]) -> None:
    """What the cells learned, where the other sweep kept it."""
    for key in keys:
        name = Path(key[:2]) / f"{key}.safetensors"
        if (other.alignments / name).is_file():
            (folder.alignments / name).parent.mkdir(parents=True, exist_ok=True)
            replace_file(folder.alignments / name, (other.alignments / name).read_bytes())
