"""What a cell costs: operations counted, over a throughput that is a table entry until rows of this model are measured.

Counted in layer-tokens a pair (one token through one decoder block), for a cell at layer l and position p of N layers
and T tokens. The reference runs source and base through everything and the gradient down to the layer:

    2 T N + T (N - 1 - l)

The suffix engine runs, once for all cells of a cohort, what no intervention changes (K tokens are the prompts' common
prefix, computed once a job), and for each cell forward and backward through what follows the intervention. T - K and
T - p are means where prompts differ in length:

    (T - K) (N + l_max + 1)   +   sum over cells of 2 (T - p) (N - 1 - l)

and each cell's rotation costs some d^3 operations a step, d the width of its site. A site inside block l costs that
block once more, for the position's token or for all tokens from it on (`workers.data.sites.OwnBlock`). Cells of one
position run in one call, whatever their layer and site. A reading changes nothing in the model and runs no tails; one
that cuts edges of the attention runs the whole model, once for each cell and once for its null.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from orchestrator.grid.expand import Strand
from workers.data.model_info import ModelInfo
from workers.data.sites import SITES, OwnBlock, width_of
from workers.files.job import JobCell
from workers.files.place import AnyPlace, PlaceSet
from workers.methods.base_settings import MethodSettings
from workers.methods.settings import METHODS

# Source: Wu et al., NeurIPS 2023: about 1.5 h a cell on an A100, for the mean cell of the paper's grid (LLaMA 7B:
# 202.4 M parameters a block, 6,560 layer-tokens a pair, 3 epochs of 313 steps of 64 pairs, then 3 x 1,000 test pairs).
_REFERENCE_SHARE: Final = 1.66e17 / 5400 / 312e12
_SUFFIX_SHARE: Final = 0.5  # the share of a GPU's peak that large matrix products reach
_ROTATION_D3: Final = 10.0  # the retraction of one cell, five products of matrices, in units of d^3 operations
_ROTATION_D2: Final = 18.0  # rotating base and source, back, and the gradient, in units of d^2 operations a pair
_EVALUATIONS: Final = 3  # forward passes over a setting's test pairs: the cell and its controls
_PAIR_S: Final = 3e-4  # to draw one pair, balance it and make tokens of it
_BATCH: Final = 64  # pairs of a forward pass of a method without batches
_LOAD_BYTES_PER_S: Final = 1e9
COSTS_VERSION: Final = 5  # version of this table and these counts: measured ratios are ratios to them


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """What one GPU, or one worker on a CPU, does in a second."""

    half_flops: float
    float32_flops: float
    tf32_flops: float  # for float32 matrices on tensor cores
    reference_share: float = _REFERENCE_SHARE
    suffix_share: float = _SUFFIX_SHARE
    call_s: float = 3e-4  # one block forward and backward, however small
    cell_s: float = 5e-4  # optimizer and retraction of one cell, however small
    start_s: float = 20.0  # a process that imports torch, without loading weights


# Source: NVIDIA's data sheets, dense rates (bfloat16, or float16 where there is none; float32 without TF32; TF32, where
# there is none float32 again).
DEVICES: Final[Mapping[str, Device]] = {
    "a100": Device(half_flops=312e12, float32_flops=19.5e12, tf32_flops=156e12),
    "h100": Device(half_flops=989e12, float32_flops=67e12, tf32_flops=494e12),
    "h200": Device(half_flops=989e12, float32_flops=67e12, tf32_flops=494e12),
    "l40s": Device(half_flops=362e12, float32_flops=91.6e12, tf32_flops=183e12),
    "a40": Device(half_flops=150e12, float32_flops=37.4e12, tf32_flops=74.8e12),
    "a6000": Device(half_flops=155e12, float32_flops=38.7e12, tf32_flops=77.4e12),
    "v100": Device(half_flops=125e12, float32_flops=15.7e12, tf32_flops=15.7e12),
    "t4": Device(half_flops=65e12, float32_flops=8.1e12, tf32_flops=8.1e12),
    "cpu": Device(  # measured: one thread of a server's core, the demo model
        half_flops=1e10,
        float32_flops=5.2e10,
        tf32_flops=5.2e10,
        reference_share=0.5,
        suffix_share=0.5,
        call_s=4e-3,
        cell_s=3e-4,
        start_s=6.0,
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """How measured jobs compare with the table."""

    work: float  # measured seconds of cohorts over the table's
    start_s: float
    n_cells: int  # on how many cells it rests
    sites: Mapping[str, float] = field(default_factory=dict)  # `work` of cells at a site, where it was measured


@dataclass(frozen=True, slots=True, kw_only=True)
class _SiteRates:
    """What a cell at a site costs whatever its layer and position."""

    cell_s: float  # in the suffix engine rotation, head and the token's own block; in the reference source and base
    own_tail_s: float = 0.0  # for the own block, per token from the intervention's position on
    tails: float = 1.0  # by how much the blocks after the intervention take longer than those of the strand's mean cell


@dataclass(frozen=True, slots=True, kw_only=True)
class StrandCosts:
    """Seconds of cells of one strand, as coefficients: over the whole training and the evaluations after it."""

    strand: Strand
    shares_work: bool  # cells side by side cost less than one after the other
    last_layer: int
    shared_s: float  # per cohort, whatever its cells
    sites: Mapping[tuple[str, bool], _SiteRates]  # by site, and whether a cell is at the whole of it
    cell_block_s: float  # per block after the intervention and per cell
    tail_s: float  # likewise, for each token from the intervention's position on
    block_s: float  # per block after the intervention, and once more, for all cells of a position together

    def cohort_s(self, cells: Iterable[JobCell]) -> float:
        """Seconds of `cells`, trained side by side."""
        columns: dict[int | PlaceSet, list[AnyPlace]] = {}
        for cell in cells:
            columns.setdefault(cell.place.column, []).append(cell.place)
        return self.shared_s + sum(self.column_s(places) for places in columns.values())

    def column_s(self, places: Sequence[AnyPlace]) -> float:
        """Seconds that cells at these places, all of one position, add to a cohort."""
        n_after = [self.last_layer - place.first_layer for place in places]
        tail_tokens, n_tokens = self.strand.tail_tokens, _mean_tokens(self.strand)
        positions = {point.position for point in places[0].points}
        n_tail_tokens = max(tail_tokens.get(position, n_tokens - position) for position in positions)
        if len(self.sites) == 1:
            at = [*self.sites.values()] * len(places)
        else:
            at = [self.sites[_kind(place)] for place in places]
        n_blocks = sum([count * site.tails for count, site in zip(n_after, at, strict=True)])
        tails = (self.cell_block_s + self.tail_s * n_tail_tokens) * n_blocks
        cells = sum([site.cell_s for site in at]) + n_tail_tokens * sum([site.own_tail_s for site in at])
        return cells + tails + self.block_s * (max(n_after) + 1)


class CostModel:
    """Seconds of cohorts of one model on one kind of device."""

    def __init__(
        self,
        model: ModelInfo,
        device: Device,
        *,
        dtype: str,
        engine: str = "",
        n_settings: Mapping[str, int] | None = None,
        calibration: Calibration | None = None,
    ) -> None:
        self._model = model
        self._device = device
        self._engine = engine  # instead of the cells' own
        self._n_settings = n_settings or {}  # by experiment: on how many more settings its cells are evaluated
        self._ratio = calibration.work if calibration else 1.0
        self._ratio_at = calibration.sites if calibration else {}
        self._model_flops = device.float32_flops if dtype == "float32" else device.half_flops
        bytes_to_load = model.n_parameters * (4 if dtype == "float32" else 2)
        self.start_s = calibration.start_s if calibration else device.start_s + bytes_to_load / _LOAD_BYTES_PER_S

    def of(self, strand: Strand) -> StrandCosts:
        """What cells of `strand` cost."""
        is_reference = (self._engine or strand.stream.engine) == "reference"
        return self._reference(strand) if is_reference else self._suffix(strand)

    def _scale_at(self, place: AnyPlace) -> float:
        """Measured seconds of cells there over the table's."""
        return self._ratio_at.get(measured_as(place), self._ratio)

    def _scale(self, strand: Strand) -> float:
        """The same of what the strand's cells share: their mean."""
        if not self._ratio_at:
            return self._ratio
        return statistics.fmean(self._scale_at(cell.place) for cell in strand.cells)

    def _suffix(self, strand: Strand) -> StrandCosts:
        model, device, scale = self._model, self._device, self._scale(strand)
        steps, batch, test_pairs = self._work(strand)
        pairs = steps * batch
        rate = self._model_flops * device.suffix_share
        block, head = 2.0 * model.n_layer_parameters, 2.0 * model.vocab_size * model.hidden_size
        shared_blocks = model.n_layers + max(point.layer for cell in strand.cells for point in cell.place.points) + 1
        shared = (
            (pairs + test_pairs / _EVALUATIONS)
            * block
            * (_mean_tokens(strand) - strand.n_prefix)
            * shared_blocks
            / rate
        )
        trains = self._fits(strand) == "by gradient"  # else no tail and no rotation before it is evaluated
        tail_pairs = (test_pairs if self._method(strand).changes_model else 0) + (2 * pairs if trains else 0)
        tail_s = tail_pairs * block / rate
        n_own = self._method(strand).own_forwards * test_pairs / _EVALUATIONS  # whole forwards of each cell
        own_s = n_own * block * strand.n_tokens * model.n_layers / rate
        sites = {}
        for place in _kinds(strand):
            own_block = OwnBlock.TOKENS if isinstance(place, PlaceSet) else SITES[place.site].own_block
            step_s = device.cell_s + (self._basis_s(strand, place, batch) if trains else 0.0)
            cell_s = own_s + tail_pairs * head / rate + steps * step_s
            cell_s += tail_s if own_block is OwnBlock.TOKEN else 0.0
            sites[_kind(place)] = _SiteRates(
                cell_s=self._scale_at(place) * cell_s,
                own_tail_s=self._scale_at(place) * tail_s if own_block is OwnBlock.TOKENS else 0.0,
                tails=self._scale_at(place) / scale,
            )
        return StrandCosts(
            strand=strand,
            shares_work=True,
            last_layer=model.n_layers - 1,
            shared_s=scale * (shared + steps * shared_blocks / 2 * device.call_s + self._data_s(strand)),
            sites=sites,
            cell_block_s=0.0,
            tail_s=scale * tail_s,
            block_s=scale * steps * device.call_s,
        )

    def _basis_s(self, strand: Strand, place: AnyPlace, batch: int) -> float:
        """Seconds that a cell's rotation, or a fixed basis, takes a step; the latter needs no retraction."""
        d, device, method = width_of(self._model, place), self._device, strand.stream.method
        retraction_s = _ROTATION_D3 * d**3 / device.tf32_flops if "mask_lr" not in method else 0.0
        n_units = max(d, int(method.get("n_features", 0)))
        return (retraction_s + _ROTATION_D2 * d * n_units * batch / device.float32_flops) / device.suffix_share

    def _reference(self, strand: Strand) -> StrandCosts:
        steps, batch, test_pairs = self._work(strand)
        model, pairs, scale = self._model, steps * batch, self._scale(strand)
        token_s = 2.0 * model.n_layer_parameters / (self._model_flops * self._device.reference_share)
        cell_s = token_s * (pairs + test_pairs) * 2 * strand.n_tokens * model.n_layers
        return StrandCosts(
            strand=strand,
            shares_work=False,
            last_layer=model.n_layers - 1,
            shared_s=scale * self._data_s(strand),
            sites={
                _kind(place): _SiteRates(
                    cell_s=self._scale_at(place) * cell_s,
                    tails=self._scale_at(place) / scale,
                )
                for place in _kinds(strand)
            },
            cell_block_s=scale * token_s * pairs * strand.n_tokens,
            tail_s=0.0,
            block_s=0.0,
        )

    def _data_s(self, strand: Strand) -> float:
        """Seconds to draw a cohort's pairs."""
        data: Mapping[str, Any] = strand.stream.data
        n_trained_on = 0 if strand.is_trained else data["n_train"] + data["n_eval"]
        return _PAIR_S * float(n_trained_on + data["n_test"] * self._n_tests(strand))

    def _n_tests(self, strand: Strand) -> int:
        """On how many settings a cell is evaluated; of those that are trained, on the further ones."""
        n_settings = self._n_settings.get(strand.experiment, 0)
        return max(n_settings, 1) if strand.is_trained else 1 + n_settings

    def _method(self, strand: Strand) -> type[MethodSettings]:
        return METHODS[strand.stream.method["name"]]

    def _fits(self, strand: Strand) -> str:
        return self._method(strand).fits

    def _work(self, strand: Strand) -> tuple[int, int, int]:
        """Training steps, pairs a step, and pairs that a cell is evaluated on."""
        data: Mapping[str, Any] = strand.stream.data
        method: Mapping[str, Any] = strand.stream.method
        batch = min(method.get("batch_size", _BATCH), data["n_train"])
        steps = method.get("epochs", 1) * math.ceil(data["n_train"] / batch)
        if strand.is_trained or self._fits(strand) == "not at all":
            steps = 0
        in_training = steps // method["eval_every"] if method.get("eval_every") else 0
        return steps, batch, data["n_test"] * _EVALUATIONS * self._n_tests(strand) + data["n_eval"] * in_training


def measured_as(place: AnyPlace) -> str:
    """What cells are measured together with: those of their site, or all at sets of places."""
    return "places" if isinstance(place, PlaceSet) else place.site


def _kinds(strand: Strand) -> Iterable[AnyPlace]:
    """A place of each kind that the strand's cells have: one a site, and one of its units where cells are at units."""
    return {_kind(cell.place): cell.place for cell in strand.cells}.values()


def _kind(place: AnyPlace) -> tuple[str, bool]:
    """What cells of equal cost have in common but layer and position: the site, and whether they are at the whole of
    it; the name of a set of places."""
    return (place.name, False) if isinstance(place, PlaceSet) else (place.site, place.unit is None)


def _mean_tokens(strand: Strand) -> float:
    """The suffix engine runs each prompt's own tokens, and no more."""
    return strand.n_tokens if strand.mean_tokens is None else strand.mean_tokens
