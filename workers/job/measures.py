"""What a run says of its pairs beside the hit or miss of a label, as sums over pairs and sums of squares.

For a pair with label y, the base's own answer y_b and the source's own y_s, with logits z and probabilities p of the
run, and z0 and p0 of the one without intervention:

    label_logprob   log p(y)
    logit_diff      z(y) - z(y_b)
    kl              sum over the vocabulary of p0 (log p0 - log p)
    log_odds        log of p0(y_b) p(y_s) / (p0(y_s) p(y_b))

A measure that needs an answer which some pair does not have is left out for all of them.
Source: log_odds is that of Arora, Jurafsky, Potts, "CausalGym", ACL 2024, section 3.3.

Shapes, by suffix: C cells, B pairs, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from workers.data.pairs import UNKNOWN
from workers.files.shard import SUMMED
from workers.methods.base import Batch

_MOST_LOGITS: Final = 1 << 24  # of which log-probabilities are taken at a time: 64 MiB


def known(answer_B: Tensor | None) -> Tensor | None:
    """The answers, where each pair has one."""
    return None if answer_B is None or bool((answer_B == UNKNOWN).any()) else answer_B


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Some pairs, what the model says of their bases without intervention, and the answers that are known."""

    label_B: Tensor
    base_answer_B: Tensor | None
    source_answer_B: Tensor | None
    plain_BV: Tensor

    @classmethod
    def of(cls, part: Batch, plain_BV: Tensor) -> Question:
        """The question of these pairs; an answer that some of them lack is not known."""
        return cls(
            label_B=part.label_B,
            base_answer_B=known(part.base_answer_B),
            source_answer_B=known(part.source_answer_B),
            plain_BV=plain_BV,
        )

    def contrast(self, logits_CBV: Tensor) -> Tensor | None:
        """contrast_CB: how far the source's answer is preferred to the base's, in logits."""
        if self.base_answer_B is None or self.source_answer_B is None:
            return None
        return _at(logits_CBV, self.source_answer_B) - _at(logits_CBV, self.base_answer_B)

    def measures(self, logits_CBV: Tensor) -> dict[str, Tensor]:
        """Each measure that is known, value_CB in float64."""
        label_logprob_CB, kl_CB = self._of_distributions(logits_CBV)
        found = {"label_logprob": label_logprob_CB, "kl": kl_CB}
        if self.base_answer_B is not None:
            found["logit_diff"] = _at(logits_CBV, self.label_B) - _at(logits_CBV, self.base_answer_B)
        contrast_CB, plain_1B = self.contrast(logits_CBV), self.contrast(self.plain_BV[None])
        if contrast_CB is not None and plain_1B is not None:
            found["log_odds"] = contrast_CB - plain_1B
        return {name: value_CB.double() for name, value_CB in found.items()}

    def _of_distributions(self, logits_CBV: Tensor) -> tuple[Tensor, Tensor]:
        """label_logprob_CB and kl_CB, some cells at a time: a vocabulary is large."""
        plain_BV = self.plain_BV.log_softmax(dim=-1)
        share_BV = plain_BV.exp()
        parts = []
        for some_CBV in logits_CBV.split(max(1, _MOST_LOGITS // self.plain_BV.numel())):
            logprob_CBV = some_CBV.log_softmax(dim=-1)
            label_CB = _at(logprob_CBV, self.label_B)
            # a token that is ruled out has log p of minus infinity, and no share in the sum
            terms_CBV = torch.where(share_BV > 0, share_BV * (plain_BV - logprob_CBV), 0.0)
            parts.append((label_CB, terms_CBV.sum(dim=-1)))
        label_logprob_CB, kl_CB = (torch.cat(some) for some in zip(*parts, strict=True))
        return label_logprob_CB, kl_CB


class Tally:
    """The hits, flips and sums of C cells under one intervention, batch by batch."""

    def __init__(self) -> None:
        self._right_CB: list[Tensor] = []
        self._flips_C: list[Tensor] = []
        self._values_CB: dict[str, list[Tensor]] = {}

    def add(self, question: Question, logits_CBV: Tensor) -> None:
        """Count what the run says of these pairs."""
        self._right_CB.append(logits_CBV.argmax(dim=-1) == question.label_B)
        for name, value_CB in question.measures(logits_CBV).items():
            self._values_CB.setdefault(name, []).append(value_CB)
        contrast_CB = question.contrast(logits_CBV)
        if contrast_CB is not None:
            self._flips_C.append((contrast_CB > 0).sum(dim=1))

    def right(self) -> Tensor:
        """right_CB: whether the label is what the model says."""
        return torch.cat(self._right_CB, dim=1)

    def n_flips(self) -> list[int | None]:
        """How often each cell prefers the source's answer to the base's; None where they are not known."""
        n_cells = len(self._right_CB[0])
        if len(self._flips_C) < len(self._right_CB):
            return [None] * n_cells
        return [int(count) for count in torch.stack(self._flips_C).sum(dim=0).tolist()]

    def sums(self) -> Iterator[tuple[str, list[float]]]:
        """The name and each cell's value of each column of sums that all pairs are in."""
        for name in SUMMED:
            parts = self._values_CB.get(name, [])
            if parts and len(parts) == len(self._right_CB):
                value_CB = torch.cat(parts, dim=1)
                yield f"sum_{name}", value_CB.sum(dim=1).tolist()
                yield f"sum_{name}_sq", value_CB.square().sum(dim=1).tolist()


def _at(values_CBV: Tensor, token_B: Tensor) -> Tensor:
    """values_CB at each pair's token."""
    return values_CBV[:, torch.arange(len(token_B), device=token_B.device), token_B]
