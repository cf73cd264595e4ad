"""The seam of readings: what cells read off the model's own run, in which nothing is changed.

A reading takes a batch of base prompts (`Run`) and gives numbers of each cell and prompt (`Read`): right answers, the
measures of `workers.files.shard`, or classes. Every number has a null of its own beside it. Readings run no tails;
those of one job that read the same prompts share one forward (`workers.methods.states`).

Shapes, by suffix: C cells at one position, B prompts, W width of their sites.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from workers.data.pairs import PairSet
from workers.engine.base import TokenBatch
from workers.engine.model import LanguageModel
from workers.engine.unembed import Unembedding
from workers.files.place import AnyPlace


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """B base prompts on their way through the model. `pairs` are theirs; `at` gives hidden_CBW in float32 at places of
    one width that the reading's settings name (`MethodSettings.reads`). `moved`: where positions of the cells' own
    prompts lie in these, if they are others."""

    model: LanguageModel
    unembed: Unembedding
    prompts: TokenBatch
    pairs: PairSet
    at: Callable[[Sequence[AnyPlace]], Tensor]
    moved: Mapping[int, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def variable_B(self) -> Tensor:  # noqa: N802
        """Which variable each pair interchanges."""
        return torch.from_numpy(self.pairs.variable_B).to(self.model.device)

    @property
    def value_B(self) -> Tensor:  # noqa: N802
        """The variable's value in the base run; NaN where it is no number."""
        return torch.from_numpy(self.pairs.value_B).to(self.model.device)


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """What C cells read of B prompts; the control is the reading's own null.

    `means_CB` and `null_means_CB` hold measures by name. `n_counted` is how many of the prompts say anything.
    `truth_CB` and `said_CB` are indices of classes; `variable_of_class` has the variable of each class.
    """

    n_counted: int
    right_CB: Tensor | None = None
    null_right_CB: Tensor | None = None
    means_CB: Mapping[str, Tensor] = field(default_factory=dict)
    null_means_CB: Mapping[str, Tensor] = field(default_factory=dict)
    truth_CB: Tensor | None = None
    said_CB: Tensor | None = None
    variable_of_class: tuple[int, ...] = ()


class AbstractReading(ABC):
    """What cells at one position keep of their fitting; its dataclass fields are tensors with the cells first."""

    __slots__ = ()

    @abstractmethod
    def read(self, run: Run, places: Sequence[AnyPlace]) -> Read:
        """What the cells at `places` read of the batch. Raises: NotApplicable."""
