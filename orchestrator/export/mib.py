"""The folder that MIB's leaderboard for causal variables takes: of each cell what it learned, as a featurizer.

    FOLDER/{TASK}_{MODEL}_{VARIABLE}/{UNIT}_featurizer, {UNIT}_inverse_featurizer, {UNIT}_indices

A unit is `ResidualStream(Layer-5,Token-last_token)`, whose layer is the block behind which it lies, or
`AttentionHead(Layer-5,Head-3,Token-all)`. MODEL is the class that the checkpoint's config.json names.

Source: github.com/aaronmueller/MIB, `causal_variable_verify_submission.py`; the track's `evaluate_submission.py`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import SpecError, StorageError, SweepNotFound
from orchestrator.grid.expand import Grid, Strand, cell_fields
from orchestrator.spec.filters import CellFilter
from workers.alignments.learned import AlignmentError, LearnedAlignment, load_alignment, mib_featurizer
from workers.data.sites import width_of
from workers.files.alignments import alignment_path
from workers.files.folder import SweepFolder, replace_file
from workers.files.job import JobCell
from workers.files.place import BLOCK_OUTPUT, Place, PlaceSet, span_label
from workers.methods.settings import METHODS

_SITES: Final = (BLOCK_OUTPUT, "block_input", "head_output")
_TASKS: Final[Mapping[str, tuple[str, ...]]] = {
    "ioi_task": ("output_token", "output_position"),
    "4_answer_MCQA": ("answer_pointer", "answer"),
    "ARC_easy": ("answer_pointer", "answer"),
    "arithmetic": ("ones_carry",),
    "ravel_task": ("Country", "Continent", "Language"),
}
_MODELS: Final = ("GPT2LMHeadModel", "Qwen2ForCausalLM", "Gemma2ForCausalLM", "LlamaForCausalLM")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]*", re.ASCII)  # what MIB's readers of file names take
_IN_PART: Final = 0.01  # a share of a direction between this and 1 - this is neither nothing nor all of it


@dataclass(frozen=True, slots=True, kw_only=True)
class MibNames:
    """What MIB calls the sweep's things: its task (default: the sweep's), positions and variables, by our name."""

    task: str = ""
    positions: Mapping[str, str]
    variables: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """The folders that were written, the number of units in them, and what a reader should know."""

    folders: tuple[Path, ...]
    n_units: int
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Unit:
    """One unit of one folder: an orthonormal basis, or None for the whole vector of `width` numbers.

    `what` names its cell to people. `is_in_part`: some direction is taken over in part.
    """

    folder: str
    name: str
    width: int
    what: str
    basis_DK: NDArray[np.float32] | None = None
    is_in_part: bool = False


def export_mib(
    folder: SweepFolder, grid: Grid, done: Collection[str], target: Path, *, names: MibNames, where: Iterable[str]
) -> Exported:
    """Write what the cells of the keys `done` that match `where` have learned to `target`.

    Raises: SpecError (a cell has no place in MIB, two have one, a name is missing), SweepNotFound (nothing to export),
        StorageError.
    """
    chosen, fields = CellFilter.from_options(where), [cell_fields(strand, cell) for strand, cell in grid.cells()]
    chosen.check_values(fields)
    cells = [pair for pair, told in zip(grid.cells(), fields, strict=True) if chosen.matches(told)]
    cells = [(strand, cell) for strand, cell in cells if cell.key in done]
    if not cells:
        raise SweepNotFound(f"{folder.root}: no cell of these is done; run the sweep, or give another --where")
    named = [unit for strand, cell in cells for unit in _units(grid, strand, cell, names)]
    _check_apart(unit for _, _, _, unit in named)
    units = [_with_basis(folder, *one) for one in named]
    try:
        _write(units, target)
    except OSError as error:
        raise StorageError(f"{target}: cannot write: {error.strerror}") from error
    folders = tuple(dict.fromkeys(target / unit.folder for unit in units))
    return Exported(folders=folders, n_units=len(units), notes=tuple(_notes(units)))


def _units(grid: Grid, strand: Strand, cell: JobCell, names: MibNames) -> Iterator[tuple[Strand, JobCell, str, _Unit]]:
    """The unit of the cell for each variable of its hypothesis, still without a basis. Raises: SpecError."""
    what = f"{strand.experiment} {span_label([cell.place])}"
    if isinstance(cell.place, PlaceSet) or cell.place.site not in _SITES:
        site = cell.place.name if isinstance(cell.place, PlaceSet) else cell.place.site
        right = f"MIB has units for {', '.join(_SITES)}; choose cells there with --where site={BLOCK_OUTPUT}"
        raise SpecError(f"export: {what}: got {site!r}; {right}")
    model = grid.model_of(strand)
    if model.untrained_seed is not None:
        raise SpecError(f"export: {what}: {model.name!r} is untrained; leave it out with --where model!={model.name}")
    width, task = width_of(model.info, cell.place), names.task or str(strand.stream.task["name"])
    unit = _unit_name(cell.place, _token(cell.place, cell.token, names))
    for variable in strand.variables:
        parts = (task, _class_of(model.info.path), names.variables.get(variable, variable))
        yield strand, cell, variable, _Unit(folder="_".join(parts), name=unit, width=width, what=what)


def _with_basis(folder: SweepFolder, strand: Strand, cell: JobCell, variable: str, unit: _Unit) -> _Unit:
    """The unit with the variable's subspace, where its method learns one. Raises: SpecError."""
    if METHODS[strand.stream.method["name"]].whole_vector:
        return unit
    what = unit.what
    path = alignment_path(folder.alignments, cell.key)
    try:
        found: LearnedAlignment = load_alignment(path)
    except FileNotFoundError:
        right = "set `run.save_alignments: subspace` and run the cell again, or leave it out"
        raise SpecError(f"export: {what}: {path}: missing; {right}") from None
    except (OSError, AlignmentError) as error:
        raise SpecError(f"export: {what}: {error}") from error
    basis: NDArray[np.float32] = found.subspace(variable)
    if basis.shape[1] == 0:
        raise SpecError(f"export: {what}: it has learned no direction for {variable!r}; leave the cell out")
    mask = found.mask_VK[found.index_of(variable)]
    return replace(unit, basis_DK=basis, is_in_part=bool(((mask > _IN_PART) & (mask < 1 - _IN_PART)).any()))


def _unit_name(place: Place, token: str) -> str:
    if place.site == "head_output":
        return f"AttentionHead(Layer-{place.layer},Head-{place.unit},Token-{token})"
    layer = place.layer - (place.site == "block_input")  # a block's input is the output of the one before
    if layer < 0:
        raise SpecError("export: the input of block 0 is the embedding, for which MIB has no unit; leave it out")
    return f"ResidualStream(Layer-{layer},Token-{token})"


def _token(place: Place, token: str, names: MibNames) -> str:
    """MIB's name of the position. Raises: SpecError where ours cannot be one."""
    label = token.strip()
    name = names.positions.get(str(place.position), names.positions.get(label, label))
    if not _NAME.fullmatch(name):
        right = f"give MIB's name of the position, for instance --position {place.position}=last_token"
        raise SpecError(f"export: position {place.position}: got {name!r}; {right}")
    return name


def _class_of(path: Path) -> str:
    """The model's class, as its config.json names it. Raises: SpecError."""
    file = path / "config.json"
    try:
        (found,) = json.loads(file.read_text(encoding="utf-8"))["architectures"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        right = "expected one class, for instance [LlamaForCausalLM]"
        raise SpecError(f"export: {file}: key `architectures`: not readable ({error}); {right}") from error
    return str(found)


def _check_apart(units: Iterable[_Unit]) -> None:
    """Raises: SpecError where two cells would be one unit, or a folder's name is none."""
    seen: set[tuple[str, str]] = set()
    for unit in units:
        if (unit.folder, unit.name) in seen:
            right = "choose one of them by --where seed=, method=, experiment= or model="
            raise SpecError(f"export: several cells are {unit.folder}/{unit.name}; {right}")
        if not _NAME.fullmatch(unit.folder):
            raise SpecError(f"export: got {unit.folder!r} as a folder; give --task and --variable in plain letters")
        seen.add((unit.folder, unit.name))


def _write(units: Iterable[_Unit], target: Path) -> None:
    """Raises: OSError, SpecError where a folder has files already."""
    for name in dict.fromkeys(unit.folder for unit in units):
        if any((target / name).glob("*")):
            raise SpecError(f"export: {target / name}: has files already; remove it, or give another folder with -o")
        (target / name).mkdir(parents=True, exist_ok=True)
    for unit in units:
        featurizer, inverse = mib_featurizer(unit.basis_DK, unit.width)
        for suffix, content in (("featurizer", featurizer), ("inverse_featurizer", inverse), ("indices", b"null")):
            replace_file(target / unit.folder / f"{unit.name}_{suffix}", content)


def _notes(units: Iterable[_Unit]) -> Iterator[str]:
    every = list(units)
    n_in_part = sum(unit.is_in_part for unit in every)
    if n_in_part:
        yield (
            f"{n_in_part} of {len(every)} units take some direction over in part, which MIB cannot say: directions of "
            "which more than half is taken over are exported whole, and the others not"
        )
    for folder in dict.fromkeys(unit.folder for unit in every):
        if not any(f"{task}_{model}_{name}" == folder for task in _TASKS for model in _MODELS for name in _TASKS[task]):
            yield (
                f"{folder}: the leaderboard has no such task, model and variable; its tasks are {', '.join(_TASKS)}, "
                f"its models {', '.join(_MODELS)} (--task, --variable)"
            )
