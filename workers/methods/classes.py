"""The classes of a variable that a method tells apart: two, above and below a cut, or one for each of its values.

Shapes, by suffix: N training prompts, V variables, K classes of all variables.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workers.data.values import NO_VALUE
from workers.methods.base import FitContext, NotApplicable
from workers.methods.base_settings import ClassSettings
from workers.methods.settings import MOST_CLASSES, settings_object, why_no_classes


@dataclass(frozen=True, slots=True, kw_only=True)
class Classes:
    """The two classes of each variable: its value in the base run lies above `cut_V` or not.

    `member_VN` says which training pairs tell of a variable: those that interchange it.
    """

    cut_V: Tensor
    above_N: Tensor
    member_VN: Tensor


def classes_of(context: FitContext) -> Classes:
    """The classes of the hypothesis's variables on the training pairs, as even as can be.

    Raises: NotApplicable for a variable whose values have no order, or that has one value only.
    """
    train = context.train
    cuts = []
    for index, name in enumerate(context.variables):
        values = train.value_B[train.variable_B == index]
        _check(context, name, np.unique(values).tolist())
        cuts.append(even_cut(values))
    cut_V = np.array(cuts)
    member_VN = train.variable_B == np.arange(len(cuts))[:, None]
    return Classes(
        cut_V=torch.from_numpy(cut_V).to(context.device),
        above_N=torch.from_numpy(train.value_B > cut_V[train.variable_B]).to(context.device),
        member_VN=torch.from_numpy(member_VN).to(context.device),
    )


def even_cut(values: NDArray[np.float64]) -> float:
    """The cut, midway between two neighbouring values, that parts `values` most evenly; of equals the lowest.

    0.5 for truth values; the median, or next to it, for numbers.
    """
    distinct, counts = np.unique(values, return_counts=True)
    n_below = counts.cumsum()[:-1]
    at = int(np.abs(2 * n_below - len(values)).argmin())
    return float(distinct[at] + distinct[at + 1]) / 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Values:
    """The values of all variables as classes, those of one variable side by side, numbers among them ascending.

    `id_K` says which value a class is (`workers.data.values`), `variable_K` whose. `class_N` is each training prompt's:
    that of the variable which its pair interchanges.
    """

    id_K: Tensor
    variable_K: Tensor
    class_N: Tensor

    def by_variable(self) -> Iterator[tuple[Tensor, Tensor, int]]:
        """For each variable, which prompts tell of it (member_N), the class of these, counted from 0, and how many
        classes there are."""
        for variable in range(int(self.variable_K.max()) + 1):
            of_it_K = (self.variable_K == variable).nonzero()[:, 0]
            member_N = (self.class_N >= of_it_K[0]) & (self.class_N <= of_it_K[-1])
            yield member_N, self.class_N[member_N] - of_it_K[0], len(of_it_K)


def tells_values(context: FitContext) -> bool:
    """Whether each value is a class: the settings say so, or some value is no number, and no cut can be."""
    settings = settings_object(context.settings)
    is_asked = isinstance(settings, ClassSettings) and settings.classes == "each"
    return is_asked or bool(np.isnan(context.train.value_B).any())


def values_of(context: FitContext) -> Values:
    """The classes of the hypothesis's variables on the training pairs.

    Raises: NotApplicable for a variable whose values are not known, that has one value only, or very many.
    """
    train = context.train
    id_B, class_N = train.values, np.zeros(len(train), dtype=np.int64)
    ids: list[int] = []
    variables: list[int] = []
    for index, name in enumerate(context.variables):
        of_it_B = train.variable_B == index
        found, first = np.unique(id_B[of_it_B], return_index=True)
        _check(context, name, [np.nan if one == NO_VALUE else at for at, one in enumerate(found)], most=MOST_CLASSES)
        order = np.lexsort((found, train.value_B[of_it_B][first]))  # NaN comes last
        rank = np.empty(len(order), dtype=np.int64)
        rank[order] = np.arange(len(order))
        class_N[of_it_B] = len(ids) + rank[np.searchsorted(found, id_B[of_it_B])]
        ids += found[order].tolist()
        variables += [index] * len(found)
    tensors = (torch.tensor(ids), torch.tensor(variables), torch.from_numpy(class_N))
    id_K, variable_K, class_N_ = (part.to(context.device) for part in tensors)
    return Values(id_K=id_K, variable_K=variable_K, class_N=class_N_)


def _check(context: FitContext, variable: str, seen: Collection[float], *, most: int = 0) -> None:
    hypothesis = context.cohort.stream.hypothesis
    if why := why_no_classes(context.settings["name"], hypothesis, variable, seen, most=most):
        raise NotApplicable(why)
