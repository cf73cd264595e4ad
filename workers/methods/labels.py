"""The labels of a batch and the logits at their tokens: hits, losses, log-probabilities.

Shapes, by suffix: C cells, B pairs, M tokens of all labels, pair by pair, N tokens of the longest label, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from workers.data.answers import UNKNOWN


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """The M tokens of B labels. `of_pair_MB` is 1 where a token is one of that pair's; None where each label is one
    token, and M is B. `first_B`: each label's first token."""

    token_M: Tensor
    of_pair_MB: Tensor | None
    first_B: Tensor

    @classmethod
    def of(cls, label_BN: Tensor) -> Labels:
        """The labels whose tokens are filled up with `UNKNOWN`."""
        pairs_B = torch.arange(len(label_BN), device=label_BN.device)
        if label_BN.shape[1] == 1:
            return cls(token_M=label_BN[:, 0], of_pair_MB=None, first_B=pairs_B)
        is_token_BN = label_BN != UNKNOWN
        pair_M = pairs_B[:, None].expand_as(label_BN)[is_token_BN]
        n_tokens_B = is_token_BN.sum(dim=1)
        return cls(
            token_M=label_BN[is_token_BN],
            of_pair_MB=(pair_M[:, None] == pairs_B).float(),
            first_B=n_tokens_B.cumsum(dim=0) - n_tokens_B,
        )

    def are_said(self, logits_CMV: Tensor) -> Tensor:
        """hit_CB: whether each token of the label is the most likely one, given those before it; a label that is not
        known is never said."""
        is_said_CM = logits_CMV.argmax(dim=-1) == self.token_M
        if self.of_pair_MB is None:
            return is_said_CM
        n_said_CB, n_tokens_B = is_said_CM.float() @ self.of_pair_MB, self.of_pair_MB.sum(dim=0)
        return (n_said_CB == n_tokens_B) & (n_tokens_B > 0)

    def said(self, logits_CMV: Tensor, *, n_pairs: int) -> list[list[tuple[int, ...]]]:
        """The most likely token at each token of the labels of the first `n_pairs` pairs: one list a cell."""
        first = self.first_B.tolist()[: n_pairs + 1]
        ends = [*first, len(self.token_M)] if len(first) <= n_pairs else first
        said_CM = logits_CMV[:, : ends[-1]].argmax(dim=-1).tolist()
        return [[tuple(said_M[start:end]) for start, end in pairwise(ends)] for said_M in said_CM]

    def cross_entropy(self, logits_CMV: Tensor) -> Tensor:
        """entropy_CB: the mean over the label's tokens."""
        token_CM = self.token_M.expand(logits_CMV.shape[0], -1)
        entropy_CM = nn.functional.cross_entropy(logits_CMV.flatten(0, 1), token_CM.flatten(), reduction="none")
        entropy_CM = entropy_CM.view_as(token_CM)
        if self.of_pair_MB is None:
            return entropy_CM
        return entropy_CM @ self.of_pair_MB / self.of_pair_MB.sum(dim=0)

    def total(self, value_CM: Tensor) -> Tensor:
        """total_CB: the sum over the label's tokens of a value of each."""
        return value_CM if self.of_pair_MB is None else value_CM @ self.of_pair_MB.to(value_CM)
