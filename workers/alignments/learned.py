"""One alignment, read from the file that a cell has left: `sweep.alignment(...)`, `causalsweep.load_alignment(path)`.

Nothing here loads torch before a tensor or a model is asked for.

Shapes, by suffix: B prompts, D width of the site, K directions, V variables.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from workers.files.alignments import crc32_of
from workers.files.folder import SweepFolder
from workers.files.gather import Shards
from workers.files.job import MAIN_SETTING, canonical_json
from workers.files.place import AXES, Place, span_label

if TYPE_CHECKING:
    from workers.alignments.hook import Hook, PromptTokens

_TAKEN: Final = 0.5  # a direction of which more than this is taken over belongs to the variable's subspace


class AlignmentError(ValueError):
    """A file holds no alignment, or an alignment lacks what is asked for; the message says what would be right."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnedAlignment:
    """What one cell learned: directions of the hidden state, and how much of each an interchange takes over.

    `directions_DK` holds directions in its columns, `mask_VK` the share of each for each variable. `is_index` says
    whether `place.position` is a token's index; it is None in files of earlier versions, which did not say so.
    `provenance` is the cell's row of the store (model, task, seed, method, counts, versions, ...).
    """

    path: Path
    place: Place
    variables: tuple[str, ...]
    directions_DK: NDArray[np.float32]
    mask_VK: NDArray[np.float32]
    is_index: bool | None
    provenance: Mapping[str, Any]

    def __repr__(self) -> str:
        name = self.provenance.get("experiment", self.path.stem)
        dims = ", ".join(f"{one}: {self.subspace(one).shape[1]}" for one in self.variables)
        return f"<alignment {name} {span_label([self.place])} ({dims} of {len(self.directions_DK)} dimensions)>"

    def subspace(self, variable: str = "", *, framework: Literal["numpy", "torch"] = "numpy") -> Any:
        """An orthonormal basis (width x dimensions) of the subspace in which the variable is: the directions of which
        an interchange takes over more than half. `variable` may be left out where there is only one.

        Raises: AlignmentError.
        """
        chosen = self.mask_VK[self.index_of(variable)] > _TAKEN
        basis = np.ascontiguousarray(self.directions_DK[:, chosen])
        if framework == "numpy":
            return basis
        if framework != "torch":
            raise AlignmentError(f"framework: got {framework!r}; expected `numpy` or `torch`")
        import torch

        return torch.from_numpy(basis)

    def project(self, vectors: Any, variable: str = "") -> Any:
        """The part of `vectors` (... x width, an array or a tensor) that lies in the variable's subspace.

        Raises: AlignmentError.
        """
        if vectors.shape[-1] != len(self.directions_DK):
            width = len(self.directions_DK)
            raise AlignmentError(f"vectors: got {vectors.shape[-1]} numbers each; expected {width}, as at {self.place}")
        if isinstance(vectors, np.ndarray):
            basis = self.subspace(variable)
        else:
            basis = self.subspace(variable, framework="torch").to(vectors)
        return (vectors @ basis) @ basis.T

    def hook(
        self,
        model: Any,
        source: PromptTokens,
        *,
        variable: str | Sequence[str] = "",
        position: int | Sequence[int] | None = None,
        source_position: int | Sequence[int] | None = None,
    ) -> Hook:
        """A context in which `model`, a plain Hugging Face model, takes the variable's value from `source`.

        `source` is a prompt in tokens, or one for each prompt of a batch (batch x tokens, or what a tokenizer
        returns). Inside the context each pass over prompts replaces the subspace of the base by that of the source,
        as the sweep did. `variable` may be one for each prompt. `position` is the token at which the base is changed,
        `source_position` the one at which the source is read; both may be one for each prompt, and negative ones count
        from the end. Without them it is the position that the cell was trained at.

            with alignment.hook(model, tokenizer(source, return_tensors="pt"), variable="P"):
                logits = model(**tokenizer(base, return_tensors="pt")).logits

        Raises: AlignmentError.
        """
        from workers.alignments.hook import Hook

        base_at = self._position(position)
        source_at = base_at if source_position is None else source_position
        names = [variable] if isinstance(variable, str) else list(variable)
        indices = [self.index_of(name) for name in names]
        return Hook(self, model, source, variables=indices, position=base_at, source_position=source_at)

    def pyvene_intervention(self, variable: str = "") -> Any:
        """The same as an intervention of pyvene, for a `pyvene.IntervenableModel`. Needs pyvene.

        Raises: AlignmentError.
        """
        from workers.alignments.for_pyvene import intervention

        return intervention(self, self.index_of(variable))

    def index_of(self, variable: str) -> int:
        """The number of a variable. Raises: AlignmentError naming those that there are."""
        if variable in self.variables:
            return self.variables.index(variable)
        names = ", ".join(self.variables)
        if variable:
            raise AlignmentError(f"variable: got {variable!r}; the hypothesis aligns {names}")
        if len(self.variables) > 1:
            raise AlignmentError(f"variable: the hypothesis aligns {names}; give one of them")
        return 0

    def _position(self, position: int | Sequence[int] | None) -> int | Sequence[int]:
        if position is not None:
            return position
        if self.is_index:
            return self.place.position
        token = self.provenance.get("token")
        what = f"the cell was trained at {token!r}, which lies at another token in each prompt"
        if self.is_index is None:
            what = "the file is of an earlier version, which did not say whether its position is a token's index"
        raise AlignmentError(f"position: missing; {what}; give position= and source_position=")


def load_alignment(path: str | Path) -> LearnedAlignment:
    """The alignment in a file of a sweep's `alignments/`. Raises: OSError, AlignmentError."""
    path = Path(path)
    notes, tensors = _whole(path)
    if not {"directions", "mask"} <= tensors.keys():
        there = ", ".join(sorted(tensors)) or "nothing"
        right = "only methods that end in directions of the activation have an alignment"
        raise AlignmentError(f"{path}: holds {there}; {right} (`causalsweep methods`)")
    if notes.get("place"):
        raise AlignmentError(f"{path}: is of a set of places, {notes['place']!r}; expected a cell of one place")
    row = _row(path, notes["cell_key"])
    variables = json.loads(notes["variables"]) if "variables" in notes else row.get("variables")
    return LearnedAlignment(
        path=path,
        place=_place(notes),
        variables=tuple(variables or (str(index) for index in range(len(tensors["mask"])))),
        directions_DK=tensors["directions"],
        mask_VK=tensors["mask"],
        is_index=notes["is_index"] == "true" if "is_index" in notes else None,
        provenance={**notes, **{name: value for name, value in row.items() if value is not None}},
    )


def mib_featurizer(basis_DK: NDArray[np.float32] | None, width: int) -> tuple[bytes, bytes]:
    """MIB's featurizer and inverse featurizer of a subspace, or of the whole vector where there is none: the content of
    the two files that its leaderboard takes."""
    from workers.alignments.for_mib import featurizer_files

    return featurizer_files(basis_DK, width)


def check_saved(path: Path) -> None:
    """Nothing, where the file holds whole what the cell has learned whose key is its name, of whatever method.

    Raises: OSError, AlignmentError.
    """
    notes, _ = _whole(path)
    if notes.get("cell_key") != path.stem:
        raise AlignmentError(f"{path}: it is that of the cell {notes.get('cell_key')!r}")


def _whole(path: Path) -> tuple[dict[str, str], dict[str, NDArray[Any]]]:
    """The notes and the tensors of a file. Raises: OSError, AlignmentError."""
    try:
        with safe_open(path, framework="np") as file:
            notes: dict[str, str] = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
    except SafetensorError as error:
        raise AlignmentError(f"{path}: no alignment, or torn: {error}") from error
    _check_whole(path, notes, tensors)
    return notes, tensors


def _place(notes: Mapping[str, str]) -> Place:
    """Where the cell intervenes; an axis that an earlier version did not have is at its default."""
    said = {axis.name: notes[axis.name] or None for axis in AXES if axis.name in notes}
    numbers = {axis.name for axis in AXES if axis.is_number}
    read: dict[str, Any] = {
        name: int(value) if value is not None and name in numbers else value for name, value in said.items()
    }
    return Place(**read)


def _check_whole(path: Path, notes: Mapping[str, str], tensors: Mapping[str, NDArray[Any]]) -> None:
    """Raises: AlignmentError where a bit of the file has flipped. Earlier versions wrote no checksum."""
    said = {name: value for name, value in notes.items() if name != "crc32"}
    parts = (
        (name, f"torch.{array.dtype}", array.shape, np.ascontiguousarray(array).tobytes())
        for name, array in tensors.items()
    )
    if notes.get("crc32", "") not in ("", crc32_of(canonical_json(said), parts)):
        raise AlignmentError(f"{path}: damaged: its checksum is wrong")


def _row(path: Path, cell_key: str) -> dict[str, Any]:
    """The cell's main row, where the file lies in its sweep's folder; nothing where it was copied elsewhere."""
    folder = SweepFolder(path.resolve().parents[2])
    if not folder.shards.is_dir():
        return {}
    table = Shards(folder).table()
    mine = pc.and_(pc.equal(table["cell_key"], cell_key), pc.equal(table["setting"], MAIN_SETTING))
    rows: list[dict[str, Any]] = table.filter(mine).to_pylist()
    return rows[0] if rows else {}
