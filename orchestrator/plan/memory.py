"""How much memory the cells of a plan take side by side, from sizes alone: for people who choose a GPU.

A worker cuts a cohort that its device does not hold, so that this decides nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from orchestrator.grid.expand import Grid, Strand
from orchestrator.plan.packing import PlannedJob
from workers.data.model_info import ModelInfo
from workers.data.sites import width_of
from workers.files.job import JobCell
from workers.files.place import AnyPlace, PlaceSet
from workers.methods.settings import METHODS

_COPIES: Final = 5  # copies of a rotation in float32: itself, its tangent, the gradient, Adam's two moments
_BATCH: Final = 64  # pairs of a forward pass of a method without batches


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What the largest cell and the largest cohort of a plan take beside the model's weights."""

    site: str  # the largest cell's, or the name of its set of places
    width: int  # how many numbers a token has there
    cell_bytes: int
    cohort_bytes: int


def memory_of(grid: Grid, jobs: Iterable[PlannedJob]) -> Memory | None:
    """The memory of the largest cell and cohort of `jobs`; None where there are no jobs."""
    parts = [part for job in jobs for part in job.parts]
    if not parts:
        return None
    info = {model.name: model.info for model in grid.models}
    cells = {  # one of each kind: equal ones are many
        (part.strand.model, *_fit(part.strand), _name(cell.place), width_of(info[part.strand.model], cell.place)): (
            part.strand,
            cell.place,
        )
        for part in parts
        for cell in part.cells
    }
    strand, place = max(cells.values(), key=lambda cell: cell_bytes(info[cell[0].model], *cell))
    model = info[strand.model]
    return Memory(
        site=_name(place),
        width=width_of(model, place),
        cell_bytes=cell_bytes(model, strand, place),
        cohort_bytes=max(cohort_bytes(info[part.strand.model], part.strand, part.cells) for part in parts),
    )


def _name(place: AnyPlace) -> str:
    return place.name if isinstance(place, PlaceSet) else place.site


def cell_bytes(model: ModelInfo, strand: Strand, place: AnyPlace) -> int:
    """What a cell keeps while it is fitted: its rotation with gradient and moments, or its training activations."""
    width, (fits, n_train) = width_of(model, place), _fit(strand)
    n_states = {"by gradient": _COPIES * width, "on activations": n_train, "not at all": 0}
    return 4 * width * n_states[fits]


def _fit(strand: Strand) -> tuple[str, int]:
    """How the strand's method is fitted, and on how many pairs."""
    return METHODS[strand.stream.method["name"]].fits, int(strand.stream.data["n_train"])


def cohort_bytes(model: ModelInfo, strand: Strand, cells: Sequence[JobCell]) -> int:
    """What cells side by side take: each its own, the keys and values of a batch, and the activations that they read.

    Of base and source: the residual stream behind each layer that has a cell, and each place once, however many cells
    share it.
    """
    batch = min(int(strand.stream.method.get("batch_size", _BATCH)), int(strand.stream.data["n_train"]))
    n_bytes = 4 if strand.stream.model["dtype"] == "float32" else 2
    places = {point for cell in cells for point in cell.place.points}
    n_layers = len({place.layer for place in places})
    a_token = model.n_layers * 2 * model.n_kv_heads * model.head_size + 2 * n_layers * model.hidden_size
    read = 2 * sum(width_of(model, place) for place in places)
    own = sum(cell_bytes(model, strand, cell.place) for cell in cells)
    return own + n_bytes * batch * (a_token * (strand.n_tokens - strand.n_prefix) + read)
