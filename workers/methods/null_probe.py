"""Probes with a null of their own beside them, read off the same activations.

Shapes, by suffix: C cells at one position, B prompts, D width of the site, N training prompts, V variables.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from workers.files.job import content_key
from workers.files.place import AnyPlace
from workers.methods.alignment import Probe
from workers.methods.base import FitContext
from workers.methods.reading import Read, Run


@dataclass(frozen=True, slots=True)
class ProbeWithNull(Probe):
    """Probes of C cells, and the classifiers that are their nulls: shuffled labels, a random direction, random neurons.

    Both have the same centre and cut.
    """

    null_weight_CVD: Tensor
    null_bias_CV: Tensor

    def read(self, run: Run, places: Sequence[AnyPlace]) -> Read:
        """What the probes read, and what their nulls do. A null that is the probe itself, as of the only neuron that
        there is, says nothing and is left out."""
        if torch.equal(self.null_weight_CVD, self.weight_CVD):
            return Probe.read(self, run, places)
        null = Probe(self.null_weight_CVD, self.null_bias_CV, self.centre_CVD, self.cut_CV)
        return replace(Probe.read(self, run, places), null_right_CB=Probe.read(null, run, places).right_CB)


def with_null(probe: Probe, null: Probe) -> ProbeWithNull:
    """The probes with their nulls, moved to the probes' centre."""
    moved_CV = ((probe.centre_CVD - null.centre_CVD) * null.weight_CVD).sum(dim=2)
    return ProbeWithNull(
        weight_CVD=probe.weight_CVD,
        bias_CV=probe.bias_CV,
        centre_CVD=probe.centre_CVD,
        cut_CV=probe.cut_CV,
        null_weight_CVD=null.weight_CVD,
        null_bias_CV=null.bias_CV + moved_CV,
    )


def generator_of(context: FitContext, what: str) -> torch.Generator:
    """What a null is drawn from: it depends on the seed of the cells alone, and is the same for all of them."""
    return torch.Generator().manual_seed(int(content_key([what, context.cohort.stream.seed])[:15], 16))


def threshold_probe(direction_D: Tensor, hidden_ND: Tensor, above_N: Tensor) -> tuple[Tensor, Tensor]:
    """weight_D and bias of the classifier that cuts the line along a direction midway between the classes' means; its
    sign is such that the class above has the higher mean."""
    along_N = hidden_ND.double() @ direction_D.double()
    above, below = along_N[above_N].mean(), along_N[~above_N].mean()
    sign = 1.0 if above >= below else -1.0
    return (sign * direction_D).float(), (-sign * (above + below) / 2).float()
