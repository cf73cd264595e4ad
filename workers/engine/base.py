"""The seam of engines: a batch of pairs goes in; activations and intervened logits come out.

Shapes, by suffix: C cells, B pairs, T tokens, M tokens that are read, W width of a site, V vocabulary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workers.data.answers import n_tokens
from workers.data.token_ids import Prompts
from workers.engine.groups import WhichRows, picked
from workers.engine.model import LanguageModel, Reads, Token
from workers.files.place import AnyPlace, Place

# (base_CBW, source_CBW) -> mixed_CBW, all float32; gradients flow through it into whatever it closes over
Mix = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """B prompts on the model's device, places and lengths as in `workers.data.token_ids`: they decide shapes.

    The logits of each prompt's last token are read, or those of its last `n_read_B`: of an answer of several tokens,
    all but the last follow the prompt and belong to it here.
    """

    ids_BT: Tensor
    length_B: NDArray[np.int64]
    place_BP: NDArray[np.int64] | None = None
    n_read_B: NDArray[np.int64] | None = None

    @classmethod
    def of(cls, prompts: Prompts, device: torch.device) -> TokenBatch:
        """`prompts` on `device`."""
        return cls(torch.from_numpy(prompts.ids_BT).to(device), prompts.length_B, prompts.place_BP)

    @classmethod
    def answered(cls, prompts: Prompts, answer_BN: NDArray[np.int64], device: torch.device) -> TokenBatch:
        """`prompts` on `device`, each with the tokens of its answer (`workers.data.answers`) behind it but for the
        last."""
        n_answer_B = n_tokens(answer_BN)
        if n_answer_B.max(initial=1) == 1:
            return cls.of(prompts, device)
        length_B = prompts.length_B + n_answer_B - 1
        ids_BT = np.zeros((len(prompts), int(length_B.max())), dtype=np.int64)
        ids_BT[:, : prompts.ids_BT.shape[1]] = prompts.ids_BT[:, : ids_BT.shape[1]]
        row, at = np.nonzero(np.arange(answer_BN.shape[1]) < n_answer_B[:, None] - 1)
        ids_BT[row, prompts.length_B[row] + at] = answer_BN[row, at]
        return cls(torch.from_numpy(ids_BT).to(device), length_B, prompts.place_BP, n_answer_B)

    @classmethod
    def of_ids(cls, ids_BT: Tensor) -> TokenBatch:
        """Prompts of equal length whose points are their tokens' indices."""
        return cls(ids_BT, np.full(len(ids_BT), ids_BT.shape[1]))

    def __len__(self) -> int:
        return len(self.ids_BT)

    def rows(self, start: int, stop: int) -> TokenBatch:
        """The prompts from `start` to before `stop`, as long as the longest of them."""
        return self.take(slice(start, min(stop, len(self))))

    def take(self, rows: WhichRows) -> TokenBatch:
        """The prompts numbered `rows`, as long as the longest of them."""
        length_B = self.length_B[rows]
        place_BP = None if self.place_BP is None else self.place_BP[rows]
        n_read_B = None if self.n_read_B is None else self.n_read_B[rows]
        return TokenBatch(picked(self.ids_BT[:, : int(length_B.max())], rows), length_B, place_BP, n_read_B)

    def token_of(self, point: int) -> Token:
        """The token at which `point` lies."""
        if self.place_BP is None:
            return point
        index_B = self.place_BP[:, point]
        first = int(index_B.min())
        return first if first == index_B.max() else index_B

    def each_token(self, point: int) -> NDArray[np.int64]:
        """token_B at which `point` lies in each prompt."""
        return np.broadcast_to(np.asarray(self.token_of(point)), len(self))

    @property
    def n_read_each_B(self) -> NDArray[np.int64]:  # noqa: N802
        """How many last tokens of each prompt are read."""
        return np.ones_like(self.length_B) if self.n_read_B is None else self.n_read_B

    @property
    def reads(self) -> Reads | None:
        """The tokens whose logits are read; None where that is the last one of each row."""
        n_filling_B = self.ids_BT.shape[1] - self.length_B
        n_read_B = self.n_read_each_B
        if not n_filling_B.any() and (n_read_B == 1).all():
            return None
        row_M = np.repeat(np.arange(len(n_read_B)), n_read_B)
        last_M = (n_filling_B + n_read_B.cumsum() - 1)[row_M]
        return Reads(row_M, last_M - np.arange(len(row_M)))


class AbstractForward(ABC):
    """One batch of pairs on its way through the model."""

    def intervene(self, places: Sequence[AnyPlace], mix: Mix) -> Tensor:
        """logits_CMV of the base's tokens that are read when cell c's activation at places[c] is replaced by `mix`.

        A set of places is a cell of its own: C is 1, and W is the width of all its points together.
        """
        one = places[0]
        if isinstance(one, Place):
            return self.intervene_apart([place for place in places if isinstance(place, Place)], mix)
        return self.intervene_together(one.points, mix)

    def activations(self, places: Sequence[AnyPlace]) -> tuple[Tensor, Tensor]:
        """base_CBW and source_CBW in float32 at these places of one width, without gradient."""
        one = places[0]
        if isinstance(one, Place):
            return self.read([place for place in places if isinstance(place, Place)])
        base, source = zip(*(self.read([point]) for point in one.points), strict=True)
        return torch.cat(base, dim=2), torch.cat(source, dim=2)

    @abstractmethod
    def intervene_apart(self, places: Sequence[Place], mix: Mix) -> Tensor:
        """logits_CMV of the base's tokens that are read when cell c's activation at places[c] is replaced by `mix`; of
        one-token answers that is each base's last token, and M is B.

        All places have one position and one width, in any order, and a place may occur several times. Cells of one
        width share `mix`, which is then a few products of matrices for all of them; their layers, sites and units may
        differ, because behind a cell's block nothing depends on where in it the cell intervened. The position is a
        point of the prompts: the base's own token there takes what `mix` makes of the source's.
        """

    @abstractmethod
    def base_logits(self) -> Tensor:
        """logits_MV of the bases' tokens that are read, no intervention."""

    @abstractmethod
    def intervene_together(self, points: Sequence[Place], mix: Mix) -> Tensor:
        """logits_1MV of one cell that intervenes at all `points`; `mix` sees their activations one
        behind the other, and is called once for those that the model computes at the same moment.

        The source's activations are those of a run without intervention. The base's are those of the run under way,
        which the points before may have changed. Raises: SiteError where two points are one token's in some prompt.
        """

    @abstractmethod
    def read(self, places: Sequence[Place]) -> tuple[Tensor, Tensor]:
        """base_CBW and source_CBW in float32 at these places of one width, without gradient."""


class AbstractEngine(ABC):
    """Runs batches of pairs for cells at the given points."""

    language_model: LanguageModel
    joins_places: ClassVar[bool]  # whether `intervene` takes several places at once

    @abstractmethod
    def forward(self, base: TokenBatch, source: TokenBatch) -> AbstractForward:
        """The batch, ready to be intervened on."""
