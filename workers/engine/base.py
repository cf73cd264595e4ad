"""The seam of engines: a batch of pairs goes in; activations and intervened logits come out.

Shapes, by suffix: C cells, B pairs, T tokens, D hidden size, V vocabulary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar

from torch import Tensor

# (base_CBD, source_CBD) -> mixed_CBD, all float32; gradients flow through it into whatever it closes over
Mix = Callable[[Tensor, Tensor], Tensor]

Point = tuple[int, int]  # layer, position


class AbstractForward(ABC):
    """One batch of pairs on its way through the model."""

    @abstractmethod
    def intervene(self, position: int, layers: Sequence[int], mix: Mix) -> Tensor:
        """The last position's logits_CBV when cell c's hidden state at (layers[c], position) is replaced by `mix`.

        `layers` are in ascending order; a layer may stand there several times.
        """

    @abstractmethod
    def base_logits(self) -> Tensor:
        """The last position's logits_BV of the bases, no intervention."""

    @abstractmethod
    def activations(self, position: int, layers: Sequence[int]) -> tuple[Tensor, Tensor]:
        """base_CBD and source_CBD in float32 at these points, without gradient."""


class AbstractEngine(ABC):
    """Runs batches of pairs for cells at the given points."""

    joins_layers: ClassVar[bool]  # whether `intervene` takes several layers at once

    @abstractmethod
    def forward(self, base_BT: Tensor, source_BT: Tensor) -> AbstractForward:
        """The batch, ready to be intervened on."""
