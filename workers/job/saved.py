"""What cells learned, on disk: one safetensors file a cell, enough to evaluate it again to the last bit.

    alignment   directions_DK and mask_VK, the directions after the last one that a mask lets through left out
    features    encoder_DF, bias_F, threshold_F, centre_D, decoder_FD, mask_VF
    steering    vector_AD, answer_A, coefficient (by pairs: coefficient alone)
    task vector vector_VD, null_VD (a function vector: added_D, null_D)
    a reading   its fields without the axis of cells (a probe's: weight_VD, bias_V, centre_VD, cut_V)

The metadata `kind` names the class and `by` the method; a file of an earlier version has none and is an alignment or a
probe. What has nothing to learn (the interchange of the whole vector, the logit lens) has no file.
The metadata say which cell it is and where it intervenes (site, unit, width D), which variables its hypothesis aligns,
what there is to say of it (`CellFacts`), and how many directions there were.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from workers.files.alignments import alignment_path
from workers.files.folder import replace_file
from workers.files.job import Cohort, JobCell, canonical_json
from workers.methods.alignment import (
    MASK_FLOOR,
    Addition,
    Alignment,
    CellFacts,
    CellGroup,
    Column,
    FeatureAlignment,
    Learned,
    PairSteering,
    Probe,
    Replacement,
    Steering,
    joined,
)
from workers.methods.attention_pattern import AttentionPattern
from workers.methods.checkpoint import checksum
from workers.methods.class_probe import ClassProbe
from workers.methods.null_probe import ProbeWithNull
from workers.methods.settings import METHODS, method_label
from workers.methods.tuned_lens import TunedLens

# What a cell may have learned, by the name that its file has. A method's own class is found in the method's file.
# Files of earlier versions do not name the method: the classes that they may have are all here.
_KINDS: Final = (
    *(Alignment, FeatureAlignment, Steering, PairSteering, Replacement, Addition),
    *(Probe, ProbeWithNull, ClassProbe, TunedLens, AttentionPattern),
)
KINDS: Final[dict[str, Any]] = {kind.__name__: kind for kind in _KINDS}


def save_columns(
    folder: Path,
    cohort: Cohort,
    columns: Sequence[Column],
    *,
    whole: bool,
    variables: Sequence[str],
    indices: Collection[int],
) -> None:
    """Write what each cell that did not fail has learned; `whole` keeps every direction. `variables` are the
    hypothesis's, `indices` the positions that are a token's index in every prompt. Raises: OSError."""
    for column in columns:
        for index, (cell, facts) in enumerate(zip(column.cells, column.facts, strict=True)):
            tensors = _tensors(column.learned, index, whole=whole)
            if facts.failure or not tensors:
                continue
            path = alignment_path(folder, cell.key)
            path.parent.mkdir(parents=True, exist_ok=True)
            notes = _notes(cohort, cell, facts, column.learned) | {
                "variables": canonical_json(list(variables)),
                "is_index": canonical_json(all(point.position in indices for point in cell.place.points)),
            }
            replace_file(path, save(tensors, metadata=notes | {"crc32": checksum(canonical_json(notes), tensors)}))


def _tensors(learned: Learned, cell: int, *, whole: bool) -> dict[str, Tensor]:
    if isinstance(learned, Alignment):
        directions_DK, mask_VK = learned.directions_CDK[cell], learned.mask_CVK[cell]
        if not whole:
            n_kept = _n_let_through(mask_VK)
            directions_DK, mask_VK = directions_DK[:, :n_kept], mask_VK[:, :n_kept]
        tensors = {"directions": directions_DK, "mask": mask_VK}
    elif isinstance(learned, FeatureAlignment):
        n_kept = _n_let_through(learned.mask_CVF[cell])
        tensors = {
            "encoder": learned.encoder_CDF[cell, :, :n_kept],
            "bias": learned.bias_CF[cell, :n_kept],
            "threshold": learned.threshold_CF[cell, :n_kept],
            "centre": learned.centre_CD[cell],
            "decoder": learned.decoder_CFD[cell, :n_kept],
            "mask": learned.mask_CVF[cell, :, :n_kept],
        }
    else:
        parts = {field.name: getattr(learned, field.name) for field in fields(learned)}  # type: ignore[arg-type]
        tensors = {_bare(name): part_C[cell] for name, part_C in parts.items()}
    return {name: tensor.contiguous().cpu() for name, tensor in tensors.items()}


def _bare(name: str) -> str:
    """A field's name without its axes: `weight_CVD` is saved as `weight`."""
    return name.rpartition("_")[0]


def _n_let_through(mask_VK: Tensor) -> int:
    """Up to which direction or feature a mask lets something through."""
    through = (mask_VK > MASK_FLOOR).any(dim=0).nonzero()
    return int(through.max()) + 1 if len(through) else 0


def _notes(cohort: Cohort, cell: JobCell, facts: CellFacts, learned: Learned) -> dict[str, str]:
    return {
        "cell_key": cell.key,
        "experiment": cohort.experiment,
        "hypothesis": cohort.stream.hypothesis,
        "seed": str(cohort.stream.seed),
        "method": method_label(cohort.stream.method),
        **{name: "" if value is None else str(value) for name, value in cell.place.columns().items()},
        "width": str(_width(learned)),
        "facts": canonical_json(asdict(facts)),
        "kind": type(learned).__name__,
        "by": str(cohort.stream.method["name"]),
        "n_directions": str(_n_directions(learned)),
    }


def _n_directions(learned: Learned) -> int:
    if isinstance(learned, FeatureAlignment):
        return learned.mask_CVF.shape[2]
    return learned.directions_CDK.shape[2] if isinstance(learned, Alignment) else 0


def _width(learned: Learned) -> int:
    """How many numbers a token has at the cells' site; 0 where what was learned does not tell."""
    if isinstance(learned, FeatureAlignment):
        return learned.encoder_CDF.shape[1]
    if isinstance(learned, Alignment):
        return learned.directions_CDK.shape[1]
    if isinstance(learned, ClassProbe):
        return learned.weight_CKD.shape[2]
    return learned.weight_CVD.shape[2] if isinstance(learned, Probe) else 0


def is_saved(folder: Path, cell_key: str) -> bool:
    """Whether what the cell learned can be read again: its file is whole. Earlier versions wrote no checksum."""
    path = alignment_path(folder, cell_key)
    try:
        with safe_open(path, framework="pt") as file:
            notes: dict[str, str] = file.metadata()
        _facts(notes["facts"])
        written = notes.pop("crc32", "")
        is_whole = not written or written == checksum(canonical_json(notes), load_file(path))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return False
    return is_whole and notes["cell_key"] == cell_key and _kind(notes, Probe) is not None


def load_columns(folder: Path, groups: Sequence[CellGroup], device: torch.device) -> list[Column]:
    """The columns that `save_columns` wrote; they give the numbers that they gave right after the training.

    Raises: OSError, SafetensorError where a cell's file is missing or torn.
    """
    columns = []
    for group in groups:
        loaded = [_load(alignment_path(folder, cell.key), device) for cell in group.cells]
        learned, facts = zip(*loaded, strict=True)
        columns.append(Column(position=group.position, cells=group.cells, learned=joined(learned), facts=facts))
    return columns


def _kind(notes: Mapping[str, str], default: type[Learned]) -> Any:
    """The class of what a file has; None where it names one that there is not."""
    name, method = notes.get("kind", default.__name__), notes.get("by", "")
    if name in KINDS or method not in METHODS:
        return KINDS.get(name)
    return getattr(importlib.import_module(f"workers.methods.{method}"), name, None)


def _load(path: Path, device: torch.device) -> tuple[Learned, CellFacts]:
    """One cell's."""
    with safe_open(path, framework="pt") as file:
        notes = file.metadata()
    tensors = {name: tensor[None] for name, tensor in load_file(path, device=str(device)).items()}
    kind = _kind(notes, Alignment if "directions" in tensors else Probe)
    parts = {field.name: tensors[_bare(field.name)] for field in fields(kind)}
    if kind in (Alignment, FeatureAlignment):  # directions or features that no mask lets through are zero
        n_missing = int(notes["n_directions"]) - tensors["mask"].shape[2]
        parts = {name: _padded(name, part, n_missing) for name, part in parts.items()}
    return kind(**parts), _facts(notes["facts"])


def _padded(name: str, part: Tensor, n_missing: int) -> Tensor:
    """The part with zeros behind its axis of directions or features, K or F in its name."""
    ends = [n_missing if letter in "KF" else 0 for letter in name.rpartition("_")[2]]
    return torch.nn.functional.pad(part, [size for end in reversed(ends) for size in (0, end)])


def _facts(text: str) -> CellFacts:
    facts = CellFacts(**json.loads(text))
    return replace(facts, boundary=tuple(facts.boundary))
