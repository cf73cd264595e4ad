"""What a run says of its pairs beside the hit or miss of a label, as sums over pairs and sums of squares.

For a pair with label y, the base's own answer y_b and the source's own y_s, with logits z and probabilities p of the
run, and z0 and p0 of the one without intervention:

    label_logprob   log p(y), the sum over its tokens, each given those before it
    logit_diff      z(y) - z(y_b), at the first token in which the two differ
    kl              sum over the vocabulary of p0 (log p0 - log p), at the first token of the answer
    log_odds        log of p0(y_b) p(y_s) / (p0(y_s) p(y_b)), at the first token in which the two differ

The label's tokens follow the prompt, so logits are there for what is common to an answer and the label, and for the
token behind it. A measure that some pair does not have is left out for all of them.
Source: log_odds is that of Arora, Jurafsky, Potts, "CausalGym", ACL 2024, section 3.3.

Shapes, by suffix: C cells, B pairs, M tokens of all labels, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from workers.files.shard import SUMMED
from workers.methods.base import Batch
from workers.methods.labels import Labels

N_EXAMPLES: Final = 10  # pairs of which is kept what is said of them
_MOST_LOGITS: Final = 1 << 24  # their log-probabilities are taken at a time: 64 MiB


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Some pairs, what the model says of their bases without intervention, and where answers are compared."""

    labels: Labels
    to_base_B3: Tensor | None
    to_source_B3: Tensor | None
    plain_MV: Tensor

    @classmethod
    def of(cls, part: Batch, plain_MV: Tensor) -> Question:
        """The question of these pairs."""
        return cls(labels=part.labels, to_base_B3=part.to_base_B3, to_source_B3=part.to_source_B3, plain_MV=plain_MV)

    def contrast(self, logits_CMV: Tensor) -> Tensor | None:
        """contrast_CB: how far the source's answer is preferred to the base's, in logits."""
        return None if self.to_source_B3 is None else self._compared(logits_CMV, self.to_source_B3)

    def measures(self, logits_CMV: Tensor) -> dict[str, Tensor]:
        """Each measure that is known, value_CB in float64."""
        label_logprob_CB, kl_CB = self._of_distributions(logits_CMV)
        found = {"label_logprob": label_logprob_CB, "kl": kl_CB}
        if self.to_base_B3 is not None:
            found["logit_diff"] = self._compared(logits_CMV, self.to_base_B3)
        if self.to_source_B3 is not None:
            contrasts = (self._compared(one, self.to_source_B3) for one in (logits_CMV, self.plain_MV[None]))
            found["log_odds"] = next(contrasts) - next(contrasts)
        return {name: value_CB.double() for name, value_CB in found.items()}

    def _compared(self, logits_CMV: Tensor, where_B3: Tensor) -> Tensor:
        """difference_CB of the logits of two tokens, behind the label's tokens that come before them."""
        behind_B, first_B, second_B = where_B3.unbind(dim=1)
        at_B = self.labels.first_B + behind_B
        return logits_CMV[:, at_B, first_B] - logits_CMV[:, at_B, second_B]

    def _of_distributions(self, logits_CMV: Tensor) -> tuple[Tensor, Tensor]:
        """label_logprob_CB and kl_CB, some cells at a time: a vocabulary is large."""
        token_M, first_B = self.labels.token_M, self.labels.first_B
        plain_BV = self.plain_MV[first_B].log_softmax(dim=-1)
        share_BV, read_M = plain_BV.exp(), torch.arange(len(token_M), device=token_M.device)
        is_ruled_out_BV = share_BV == 0
        rules_out = bool(is_ruled_out_BV.any())
        parts = []
        for some_CMV in logits_CMV.split(max(1, _MOST_LOGITS // self.plain_MV.numel())):
            logprob_CMV = some_CMV.log_softmax(dim=-1)
            label_CB = self.labels.total(logprob_CMV[:, read_M, token_M])
            first_CBV = logprob_CMV if self.labels.of_pair_MB is None else logprob_CMV[:, first_B]
            terms_CBV = torch.sub(plain_BV, first_CBV, out=first_CBV).mul_(share_BV)  # in place: it is half the time
            if rules_out:  # such a token has log p of minus infinity, and no share in the sum
                terms_CBV.masked_fill_(is_ruled_out_BV, 0.0)
            parts.append((label_CB, terms_CBV.sum(dim=-1)))
        label_logprob_CB, kl_CB = (torch.cat(some) for some in zip(*parts, strict=True))
        return label_logprob_CB, kl_CB


class Tally:
    """The hits, flips and sums of C cells under one intervention, batch by batch."""

    def __init__(self) -> None:
        self._right_CB: list[Tensor] = []
        self._flips_C: list[Tensor] = []
        self._values_CB: dict[str, list[Tensor]] = {}
        self._said: list[list[tuple[int, ...]]] = []

    def add(self, question: Question, logits_CMV: Tensor) -> None:
        """Count what the run says of these pairs."""
        if not self._right_CB:
            self._said = question.labels.said(logits_CMV, n_pairs=N_EXAMPLES)
        self._right_CB.append(question.labels.are_said(logits_CMV))
        for name, value_CB in question.measures(logits_CMV).items():
            self._values_CB.setdefault(name, []).append(value_CB)
        contrast_CB = question.contrast(logits_CMV)
        if contrast_CB is not None:
            self._flips_C.append((contrast_CB > 0).sum(dim=1))

    def right(self) -> Tensor:
        """right_CB: whether the label is what the model says."""
        return torch.cat(self._right_CB, dim=1)

    def said(self) -> list[list[tuple[int, ...]]]:
        """Each cell's most likely tokens of the first pairs."""
        return self._said

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
