"""Desiderata-based masking: learn which coordinates of a fixed basis carry the aligned variable.

For each cell and variable a mask over the units of a basis of the hidden state at its place, m = sigmoid(theta / T):

    mixed = base + (((source - base) B) * m) B^T

theta is learned so that the model then says the causal model's counterfactual label, with a penalty on the sum of m
(its L1 norm). T falls linearly from `temperature_start` to `temperature_end`; what is evaluated is the hard mask, 1
where theta > 0 and 0 elsewhere. theta begins at `mask_start` for every unit. The basis B is fixed:

    neurons   the site's own coordinates
    pca       the principal components of the training prompts' hidden states
    svd       their right singular vectors: the same without taking the mean away
    sae       the features of a sparse autoencoder (`path`): f(source) - f(base) is masked and decoded, and what the
              decoder makes of nothing, the base's error, stays

Unit: IIA, the share of pairs; `subspace_dim` is the number of units that are let through. Control of its own: the same
mask over a random basis. It does not show that the units left out carry nothing: of two units that say the same the
penalty keeps one, and units that matter together only may both be lost.

Source: Davies et al., "Discovering Variable Binding Circuitry with Desiderata", 2023; Mueller et al., "MIB: A
Mechanistic Interpretability Benchmark", 2025, appendix (the baseline on neurons, PCA, SVD and SAE features); De Cao et
al., "Sparse interventions in language models with differentiable masking", 2022.

Shapes, by suffix: C cells at one position, B pairs, D width of their sites, U units of the basis, K units let through,
V variables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import final

import torch
from torch import Tensor, nn

from workers.engine.base import TokenBatch
from workers.methods.alignment import Alignment, CellGroup, Column, FeatureAlignment, Learned
from workers.methods.base import FitContext
from workers.methods.rotation import AbstractRotation
from workers.methods.sae import features_of
from workers.methods.states import HiddenStates
from workers.methods.training import AbstractMasks, train


@final
class LearnedMasks(AbstractMasks):
    """A mask over U units for each cell and variable, ever sharper."""

    parameter: nn.Parameter

    def __init__(self, context: FitContext, n_cells: int, n_units: int) -> None:
        self._settings, self._n_units = context.settings, n_units
        start = torch.full((n_cells, context.n_variables, n_units), self._settings["mask_start"], device=context.device)
        self.parameter = nn.Parameter(start)
        self.learning_rate = self._settings["mask_lr"]

    def at(self, share: float) -> Tensor:
        """The soft mask_CVU."""
        start, end = self._settings["temperature_start"], self._settings["temperature_end"]
        return torch.sigmoid(self.parameter / (start + (end - start) * share))

    def final(self) -> Tensor:
        """The hard mask_CVU."""
        return (self.parameter > 0).float()

    def penalty(self, share: float) -> Tensor:
        """So much for each unit that is let through."""
        return self._settings["mask_penalty"] * self.at(share).sum(dim=(1, 2))

    def finish_step(self) -> None:
        """Nothing: any number is a theta."""

    @property
    def n_directions(self) -> int:
        """All: any unit may be let through."""
        return self._n_units

    def widths(self) -> list[tuple[tuple[float, ...], int]]:
        """No boundary; the units that some variable's mask lets through. A theta that is no number shows as one."""
        n_units_C = (self.parameter > 0).any(dim=1).sum(dim=1)
        is_lost_C = self.parameter.isnan().flatten(1).any(dim=1)
        return [
            ((float("nan"),) if is_lost else (), n_units)
            for is_lost, n_units in zip(is_lost_C.tolist(), n_units_C.tolist(), strict=True)
        ]


class FixedBasis(AbstractRotation):
    """An orthonormal basis_CDU that does not learn; None: the site's own coordinates."""

    def __init__(self, group: CellGroup, basis_CDU: Tensor | None, device: torch.device) -> None:
        self.parameters = []
        self._n_cells, self._width, self._device = len(group.cells), group.width, device
        self._basis_CDU = basis_CDU

    def mix(self, base_CBD: Tensor, source_CBD: Tensor, mask_CBD: Tensor) -> Tensor:
        """mixed_CBD, differentiable in the mask."""
        change_CBD = source_CBD - base_CBD
        if self._basis_CDU is None:
            return base_CBD + change_CBD * mask_CBD
        return base_CBD + torch.bmm(torch.bmm(change_CBD, self._basis_CDU) * mask_CBD, self._basis_CDU.mT)

    def finish_step(self) -> None:
        """Nothing: there is nothing to learn."""

    def matrices(self) -> Tensor:
        """basis_CDU, all of it."""
        if self._basis_CDU is None:
            return torch.eye(self._width, device=self._device).expand(self._n_cells, -1, -1)
        return self._basis_CDU

    def learned(self, mask_CVD: Tensor, n_directions: int) -> Learned:
        """The units that are let through alone, in their order."""
        order_CK = let_through(mask_CVD)
        picked_C1K = order_CK[:, None]
        directions_CDK = self.matrices().gather(2, picked_C1K.expand(-1, self._width, -1))
        return Alignment(directions_CDK, mask_CVD.gather(2, picked_C1K.expand(-1, mask_CVD.shape[1], -1)))

    def state(self) -> dict[str, Tensor]:
        """The basis: a training that resumes has it to the last bit."""
        return {} if self._basis_CDU is None else {"basis": self._basis_CDU}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        if self._basis_CDU is not None:
            self._basis_CDU = state["basis"].to(self._device)


class FeatureBasis(AbstractRotation):
    """The features of a sparse autoencoder, which do not learn."""

    def __init__(self, features: FeatureAlignment) -> None:
        self.parameters = []
        self._features = features

    def mix(self, base_CBD: Tensor, source_CBD: Tensor, mask_CBD: Tensor) -> Tensor:
        """mixed_CBD, differentiable in the mask over features."""
        return self._features.mix_by(mask_CBD)(base_CBD, source_CBD)

    def finish_step(self) -> None:
        """Nothing: there is nothing to learn."""

    def matrices(self) -> Tensor:
        """The decoder's directions, a feature's in a column."""
        return self._features.decoder_CFD.mT

    def learned(self, mask_CVD: Tensor, n_directions: int) -> Learned:
        """The features that are let through alone, in their order."""
        order_CK, every = let_through(mask_CVD), self._features
        columns_C1K, width = order_CK[:, None], every.encoder_CDF.shape[1]
        return FeatureAlignment(
            encoder_CDF=every.encoder_CDF.gather(2, columns_C1K.expand(-1, width, -1)),
            bias_CF=every.bias_CF.gather(1, order_CK),
            threshold_CF=every.threshold_CF.gather(1, order_CK),
            centre_CD=every.centre_CD.clone(),
            decoder_CFD=every.decoder_CFD.gather(1, order_CK[:, :, None].expand(-1, -1, width)),
            mask_CVF=mask_CVD.gather(2, columns_C1K.expand(-1, mask_CVD.shape[1], -1)),
        )

    def state(self) -> dict[str, Tensor]:
        return {}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Nothing: the autoencoder is in its file."""


def let_through(mask_CVU: Tensor) -> Tensor:
    """unit_CK: each cell's units that some variable's mask lets through, in their order, and then others up to K, the
    most that a cell has (1 at least)."""
    is_open_CU = (mask_CVU > 0).any(dim=1)
    n_kept = max(1, int(is_open_CU.sum(dim=1).max()))
    return is_open_CU.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :n_kept]


def fit(context: FitContext) -> list[Column]:
    """The cohort's cells, trained side by side. Raises: Interrupted, NotApplicable, SaeError."""
    if context.settings["basis"] == "sae":
        n_features = int(context.settings["n_features"])
        return train(context, lambda n_cells, _width: LearnedMasks(context, n_cells, n_features), _features)
    return train(context, lambda n_cells, width: LearnedMasks(context, n_cells, width), _bases)


def _features(context: FitContext, groups: Sequence[CellGroup]) -> list[AbstractRotation]:
    return [FeatureBasis(replace_cells(features_of(context, group.width), len(group.cells))) for group in groups]


def replace_cells(features: FeatureAlignment, n_cells: int) -> FeatureAlignment:
    """One cell's features as those of several; nothing is copied."""
    parts = {
        name: getattr(features, name).expand(n_cells, *[-1] * (getattr(features, name).dim() - 1))
        for name in ("encoder_CDF", "bias_CF", "threshold_CF", "centre_CD", "decoder_CFD", "mask_CVF")
    }
    return replace(features, **parts)


def _bases(context: FitContext, groups: Sequence[CellGroup]) -> list[AbstractRotation]:
    if context.settings["basis"] == "neurons":
        return [FixedBasis(group, None, context.device) for group in groups]
    bases = principal_bases(context, groups, is_centred=context.settings["basis"] == "pca")
    return [FixedBasis(group, basis_CDD, context.device) for group, basis_CDD in zip(groups, bases, strict=True)]


@torch.no_grad()
def principal_bases(context: FitContext, groups: Sequence[CellGroup], *, is_centred: bool) -> list[Tensor]:
    """basis_CDD of each group: the eigenvectors of the second moments of the training prompts' hidden states, the
    largest first; about their mean with `is_centred`."""
    prompts, device = TokenBatch.of(context.train.base, context.device), context.device
    sums = [torch.zeros(len(group.cells), group.width, dtype=torch.float64, device=device) for group in groups]
    moments = [torch.zeros(*sum_CD.shape, sum_CD.shape[1], dtype=torch.float64, device=device) for sum_CD in sums]
    for start in range(0, len(prompts), context.micro_batch):
        with context.monitor.timed("shared_forward"):
            states = HiddenStates(context.engine, prompts.rows(start, start + context.micro_batch))
            for group, sum_CD, moment_CDD in zip(groups, sums, moments, strict=True):
                hidden_CBD = states.at(group.places).double()
                sum_CD += hidden_CBD.sum(dim=1)
                moment_CDD += torch.bmm(hidden_CBD.mT, hidden_CBD)
        context.monitor.advance(cell_steps=0, pairs=0)
    bases = []
    for sum_CD, moment_CDD in zip(sums, moments, strict=True):
        if is_centred:
            moment_CDD -= sum_CD[:, :, None] * sum_CD[:, None] / len(prompts)
        bases.append(torch.linalg.eigh(moment_CDD)[1].flip(2).float().contiguous())
    return bases
