"""Classifiers into the values of a variable, with their nulls beside them.

Shapes, by suffix: C cells at one position, B prompts, D width of the site, V variables, K classes of all variables.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from workers.files.place import AnyPlace
from workers.methods.classes import Values
from workers.methods.reading import AbstractReading, Read, Run


@dataclass(frozen=True, slots=True)
class ClassProbe(AbstractReading):
    """Linear classifiers of C cells. Each says of a prompt the value, among those of the variable that the pair
    interchanges, of the highest weight . (base - centre) + bias; the null has the same centre.

    Float32; `id_CK` and `variable_CK` are int64 and say which value a class is, and whose (`workers.methods.classes`).
    """

    weight_CKD: Tensor
    bias_CK: Tensor
    null_weight_CKD: Tensor
    null_bias_CK: Tensor
    centre_CVD: Tensor
    id_CK: Tensor
    variable_CK: Tensor

    def read(self, run: Run, places: Sequence[AnyPlace]) -> Read:
        """Each pair asks for the variable that it interchanges, in its base prompt. A prompt with a value that no
        training prompt had is of no class, and not counted."""
        id_B = torch.from_numpy(run.pairs.values).to(run.model.device)
        id_K, variable_K = self.id_CK[0], self.variable_CK[0]
        can_be_BK = variable_K == run.variable_B[:, None]
        is_it_BK = can_be_BK & (id_K == id_B[:, None])
        has_class_B = is_it_BK.any(dim=1)
        truth_B, can_be_BK = is_it_BK[has_class_B].int().argmax(dim=1), can_be_BK[has_class_B]
        centred_CBD = run.at(places)[:, has_class_B] - self.centre_CVD[:, run.variable_B[has_class_B]]
        said_CB = _highest(centred_CBD, self.weight_CKD, self.bias_CK, can_be_BK)
        has_null = not torch.equal(self.null_weight_CKD, self.weight_CKD)
        null_CB = _highest(centred_CBD, self.null_weight_CKD, self.null_bias_CK, can_be_BK)
        return Read(
            n_counted=len(truth_B),
            right_CB=said_CB == truth_B,
            null_right_CB=null_CB == truth_B if has_null else None,
            truth_CB=truth_B.expand_as(said_CB),
            said_CB=said_CB,
            variable_of_class=tuple(variable_K.tolist()),
        )


def _highest(centred_CBD: Tensor, weight_CKD: Tensor, bias_CK: Tensor, can_be_BK: Tensor) -> Tensor:
    """said_CB: the class of the highest score among those that there are for the prompt."""
    score_CBK = torch.bmm(centred_CBD, weight_CKD.mT) + bias_CK[:, None]
    return score_CBK.masked_fill(~can_be_BK, -torch.inf).argmax(dim=2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """A classifier of one variable of one cell into K values: weight . (hidden - centre) + bias of each."""

    weight_KD: Tensor
    bias_K: Tensor
    centre_D: Tensor


def class_probe(found: Sequence[Scores], nulls: Sequence[Scores], values: Values) -> ClassProbe:
    """One cell's classifiers, one a variable, and their nulls, moved to the same centre."""
    pairs = zip(found, nulls, strict=True)
    moved = [null.bias_K + null.weight_KD @ (one.centre_D - null.centre_D) for one, null in pairs]
    parts = (
        torch.cat([one.weight_KD for one in found]),
        torch.cat([one.bias_K for one in found]),
        torch.cat([null.weight_KD for null in nulls]),
        torch.cat(moved),
        torch.stack([one.centre_D for one in found]),
        values.id_K,
        values.variable_K,
    )
    return ClassProbe(*(part[None] for part in parts))
