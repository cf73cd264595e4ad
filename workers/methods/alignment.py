"""What cells learn. Most methods end in an alignment: directions of the hidden state, and how much an interchange takes
over of each.

    mixed = base + (((source - base) W) * m) W^T

W holds directions in its columns, m is between 0 and 1; those that one variable's mask lets through are orthonormal.
With an orthogonal W this is Boundless DAS's "rotate base and source, mix, rotate back", at half the arithmetic, and it
leaves a base alone to the last bit where m is 0. The whole vector needs no directions; a probe intervenes on nothing.

Shapes, by suffix: C cells at one position, B pairs, D width of their sites, K directions, V variables.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Final

import torch
from torch import Tensor

from workers.engine.base import Mix
from workers.files.job import JobCell, content_key
from workers.files.place import AnyPlace, PlaceSet, moved
from workers.methods.curve import CellCurve
from workers.methods.reading import AbstractReading, Read, Run

LARGEST_GROUP: Final = 128  # cells in one call of the model: heads are many, and their rows must fit into memory
MASK_FLOOR: Final = 1e-6  # a direction that takes over less than this is left out


@dataclass(frozen=True, slots=True)
class Alignment:
    """The alignments of C cells, `directions_CDK` and `mask_CVK`, float32."""

    directions_CDK: Tensor
    mask_CVK: Tensor

    def mix(self, variable_B: Tensor, label_B: Tensor | None = None) -> Mix:
        """The intervention in which pair b interchanges variable `variable_B[b]`."""
        mask_CBK = self.mask_CVK[:, variable_B]

        def mix(base_CBD: Tensor, source_CBD: Tensor) -> Tensor:
            taken_CBK = torch.bmm(source_CBD - base_CBD, self.directions_CDK) * mask_CBK
            return base_CBD + torch.bmm(taken_CBK, self.directions_CDK.mT)

        return mix

    def control(self, keys: Sequence[str]) -> Alignment:
        """The same masks over random rotations that depend on the cells' keys alone."""
        rotations_CDD = _random_rotations(keys, self.directions_CDK)
        return Alignment(rotations_CDD[:, :, : self.directions_CDK.shape[2]], self.mask_CVK)


@dataclass(frozen=True, slots=True)
class FeatureAlignment:
    """Features of C cells, each computed from the hidden state, and how much an interchange takes over of each.

        f(h) = a((h - centre) encoder + bias),   a(x) = x where x > max(threshold, 0), else 0
        mixed = base + ((f(source) - f(base)) * m) decoder

    What a decoder's other features and its error make of the base stays as it is. All float32.
    """

    encoder_CDF: Tensor
    bias_CF: Tensor
    threshold_CF: Tensor
    centre_CD: Tensor
    decoder_CFD: Tensor
    mask_CVF: Tensor

    def features(self, hidden_CBD: Tensor) -> Tensor:
        """f_CBF of hidden states."""
        before_CBF = torch.bmm(hidden_CBD - self.centre_CD[:, None], self.encoder_CDF) + self.bias_CF[:, None]
        return before_CBF * (before_CBF > self.threshold_CF.clamp_min(0)[:, None])

    def mix_by(self, mask_CBF: Tensor) -> Mix:
        """The intervention that takes `mask_CBF` of each feature from the source."""

        def mix(base_CBD: Tensor, source_CBD: Tensor) -> Tensor:
            change_CBF = self.features(source_CBD) - self.features(base_CBD)
            return base_CBD + torch.bmm(change_CBF * mask_CBF, self.decoder_CFD)

        return mix

    def mix(self, variable_B: Tensor, label_B: Tensor | None = None) -> Mix:
        """The intervention in which pair b interchanges variable `variable_B[b]`."""
        return self.mix_by(self.mask_CVF[:, variable_B])

    def control(self, keys: Sequence[str]) -> FeatureAlignment:
        """The same features of a randomly rotated hidden state: encoder, centre and decoder are turned together."""
        rotation_CDD = _random_rotations(keys, self.encoder_CDF)
        return replace(
            self,
            encoder_CDF=torch.bmm(rotation_CDD, self.encoder_CDF),
            centre_CD=torch.bmm(rotation_CDD, self.centre_CD[:, :, None])[:, :, 0],
            decoder_CFD=torch.bmm(self.decoder_CFD, rotation_CDD.mT),
        )


@dataclass(frozen=True, slots=True)
class WholeVector:
    """The interchange of the whole vector, whatever the cell: there is nothing to learn."""

    def mix(self, variable_B: Tensor, label_B: Tensor | None = None) -> Mix:
        """The intervention that replaces the base's vector by the source's."""
        return lambda _base_CBD, source_CBD: source_CBD

    def control(self, _keys: Sequence[str]) -> None:
        """None: any rotation leaves the whole vector whole."""


@dataclass(frozen=True, slots=True)
class Steering:
    """A vector for each answer, of C cells, that is added to the base's hidden state. A pair is steered to its label.

    `vector_CAD` and `coefficient_C` are float32, `answer_CA` are token ids. An answer without a vector adds nothing.
    """

    vector_CAD: Tensor
    answer_CA: Tensor
    coefficient_C: Tensor

    def mix(self, variable_B: Tensor, label_B: Tensor | None = None) -> Mix:
        """The intervention that steers pair b to `label_B[b]`."""
        assert label_B is not None
        is_it_CBA = (self.answer_CA[:, None] == label_B[:, None]).float()
        added_CBD = self.coefficient_C[:, None, None] * torch.bmm(is_it_CBA, self.vector_CAD)
        return lambda base_CBD, _source_CBD: base_CBD + added_CBD

    def control(self, keys: Sequence[str]) -> Steering:
        """Vectors of the same lengths in random directions, with the same angles between them."""
        rotation_CDD = _random_rotations(keys, self.vector_CAD.mT)
        return replace(self, vector_CAD=torch.bmm(self.vector_CAD, rotation_CDD.mT))


@dataclass(frozen=True, slots=True)
class PairSteering:
    """The difference of the pair's own two hidden states, `coefficient_C` times; each cell's is turned first by its
    `rotation_CDD`, where this has a size."""

    coefficient_C: Tensor
    rotation_CDD: Tensor

    def mix(self, variable_B: Tensor, label_B: Tensor | None = None) -> Mix:
        """The intervention that moves the base towards the source."""

        def mix(base_CBD: Tensor, source_CBD: Tensor) -> Tensor:
            change_CBD = source_CBD - base_CBD
            if self.rotation_CDD.shape[1]:
                change_CBD = torch.bmm(change_CBD, self.rotation_CDD)
            return base_CBD + self.coefficient_C[:, None, None] * change_CBD

        return mix

    def control(self, keys: Sequence[str]) -> PairSteering:
        """A change of the same length in a random direction."""
        return replace(self, rotation_CDD=_random_rotations(keys, self.rotation_CDD.mT))


@dataclass(frozen=True, slots=True)
class Replacement:
    """Vectors of C cells, one for each variable, that take the place of the base's hidden state, and those of their
    null. All float32."""

    vector_CVD: Tensor
    null_CVD: Tensor

    def mix(self, variable_B: Tensor, label_B: Tensor | None = None) -> Mix:
        """The intervention that puts the vector of variable `variable_B[b]` into pair b's base."""
        return lambda _base_CBD, _source_CBD: self.vector_CVD[:, variable_B]

    def control(self, keys: Sequence[str]) -> Replacement:
        """The null's vectors."""
        return replace(self, vector_CVD=self.null_CVD)


@dataclass(frozen=True, slots=True)
class Addition:
    """A vector of each of C cells that is added to the base's hidden state, and that of its null. Float32."""

    added_CD: Tensor
    null_CD: Tensor

    def mix(self, variable_B: Tensor, label_B: Tensor | None = None) -> Mix:
        """The intervention that adds the vector, whatever the pair."""
        return lambda base_CBD, _source_CBD: base_CBD + self.added_CD[:, None]

    def control(self, keys: Sequence[str]) -> Addition:
        """The null's vectors."""
        return replace(self, added_CD=self.null_CD)


@dataclass(frozen=True, slots=True)
class Probe(AbstractReading):
    """Linear classifiers of C cells: each says whether variable v's value in the base run lies above `cut_CV`.

    The score is weight . (base - centre) + bias. All float32, the cut float64.
    """

    weight_CVD: Tensor
    bias_CV: Tensor
    centre_CVD: Tensor
    cut_CV: Tensor

    def says(self, base_CBD: Tensor, variable_B: Tensor) -> Tensor:
        """said_CB: what each cell's classifier of pair b's variable says."""
        centred_CBD = base_CBD - self.centre_CVD[:, variable_B]
        return (centred_CBD * self.weight_CVD[:, variable_B]).sum(dim=2) + self.bias_CV[:, variable_B] > 0

    def truth(self, value_B: Tensor, variable_B: Tensor) -> Tensor:
        """truth_CB: what it should say."""
        return value_B > self.cut_CV[:, variable_B]

    def read(self, run: Run, places: Sequence[AnyPlace]) -> Read:
        """Each pair asks for the variable that it interchanges, in its base prompt; one whose value is no number is of
        neither class, and not counted. The two classes of variable v, below and above its cut, are 2 v and 2 v + 1."""
        has_class_B = ~run.value_B.isnan()
        variable_B = run.variable_B[has_class_B]
        said_CB = self.says(run.at(places)[:, has_class_B], variable_B)
        truth_CB = self.truth(run.value_B[has_class_B], variable_B)
        return Read(
            n_counted=len(variable_B),
            right_CB=said_CB == truth_CB,
            truth_CB=2 * variable_B + truth_CB,
            said_CB=2 * variable_B + said_CB,
            variable_of_class=tuple(index // 2 for index in range(2 * self.cut_CV.shape[1])),
        )


Intervention = Alignment | FeatureAlignment | WholeVector | Steering | PairSteering | Replacement | Addition
Learned = Intervention | AbstractReading


def joined(parts: Sequence[Learned]) -> Learned:
    """What several cells learned by one method, side by side."""
    kind = type(parts[0])
    tensors = [[getattr(part, field.name) for part in parts] for field in fields(kind)]  # type: ignore[arg-type]
    return kind(*(torch.cat(column) for column in tensors))


@dataclass(frozen=True, slots=True, kw_only=True)
class CellFacts:
    """What a method says of one cell beside what it learned. `failure` is set where the training diverged."""

    boundary: tuple[float, ...] = ()  # fraction of the hidden size, one a variable; empty where none is learned
    subspace_dim: int = 0  # dimensions that are taken over, or that a probe reads
    loss: float | None = None
    steps: int = 0
    failure: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """Fitted cells of a cohort at one position and of one width, by layer."""

    position: int
    cells: tuple[JobCell, ...]
    learned: Learned
    facts: tuple[CellFacts, ...]
    curves: tuple[CellCurve, ...] = ()  # how each cell learned, where it did so by gradient in this attempt

    @property
    def positions(self) -> set[int]:
        """Every position at which a cell intervenes."""
        return {point.position for cell in self.cells for point in cell.place.points}

    def places(self, positions: Mapping[int, int]) -> list[AnyPlace]:
        """The cells' places in prompts where each position is that of `positions`."""
        return [moved(cell.place, positions) for cell in self.cells]


@dataclass(frozen=True, slots=True, kw_only=True)
class CellGroup:
    """Cells that go through a tail together: at one position and of one width, by layer."""

    position: int
    width: int
    cells: tuple[JobCell, ...]

    @property
    def places(self) -> list[AnyPlace]:
        """Where they intervene."""
        return [cell.place for cell in self.cells]

    @property
    def n_blocks(self) -> int:
        """In how many parts of equal width, each with a subspace of its own, the cells' vector falls."""
        return n_blocks(self.cells[0])


def groups_of(cells: Sequence[JobCell], *, width_of: Callable[[AnyPlace], int], join_places: bool) -> list[CellGroup]:
    """The cells by position and width, each group's by layer, site and unit; at most `LARGEST_GROUP` in one, and one
    alone where the engine cannot join places, or where the cell is a set of places."""
    groups: dict[tuple[int | PlaceSet, int], list[JobCell]] = {}
    for cell in sorted(cells, key=lambda cell: cell.place.rank):
        groups.setdefault((cell.place.column, width_of(cell.place)), []).append(cell)
    size = LARGEST_GROUP if join_places else 1
    return [
        CellGroup(position=group[0].place.rank[0], width=width, cells=tuple(group[start : start + size]))
        for (_, width), group in groups.items()
        for start in range(0, len(group), size)
    ]


def n_blocks(cell: JobCell) -> int:
    """In how many parts of equal width, each with a subspace of its own, the cell's vector falls."""
    is_apart = isinstance(cell.place, PlaceSet) and cell.place.subspace == "each"
    return len(cell.place.points) if is_apart else 1


def part_names(group: CellGroup) -> list[str]:
    """A name for each cell of the group, or each part of the one cell's vector: what its random start depends on."""
    count = group.n_blocks
    return [cell.key if count == 1 else f"{cell.key} {part}" for cell in group.cells for part in range(count)]


def together(parts: Alignment) -> Alignment:
    """The alignment of one cell, given those of the parts of its vector as if each were a cell: directions of one part
    are zero at the others."""
    mask_1VK = parts.mask_CVK.permute(1, 0, 2).flatten(1)[None]
    return Alignment(torch.block_diag(*parts.directions_CDK)[None], mask_1VK)


def control_apart(alignment: Alignment, key: str, n_parts: int) -> Alignment:
    """The masks of one cell over random directions, drawn for each part of its vector."""
    _, width, n_directions = alignment.directions_CDK.shape
    keys, like_1W = [f"{key} {part}" for part in range(n_parts)], alignment.directions_CDK[:, : width // n_parts, 0]
    directions_NWK = _random_rotations(keys, like_1W)[:, :, : n_directions // n_parts]
    return Alignment(torch.block_diag(*directions_NWK)[None], alignment.mask_CVK)


def _random_rotations(keys: Sequence[str], like_CDX: Tensor) -> Tensor:
    """rotation_CDD of the cells' controls, of the width and on the device of `like_CDX`."""
    return torch.stack([random_rotation(f"control {key}", like_CDX.shape[1], like_CDX.device) for key in keys])


def random_rotation(seed_text: str, size: int, device: torch.device) -> Tensor:
    """A size x size orthogonal matrix, uniform over all of them, that depends on `seed_text` alone.

    Source: Mezzadri, "How to generate random matrices from the classical compact groups", 2007 (QR with signs fixed).
    """
    generator = torch.Generator().manual_seed(int(content_key(seed_text)[:15], 16))
    gaussian = torch.randn(size, size, generator=generator).to(device)
    q, r = torch.linalg.qr(gaussian)
    return q * r.diagonal().sign()
