"""Logit lens: which next token does the model have in mind after block l? Its own head is shown the residual stream.

    lens(h) = W_U LN_f(h)        KL = sum_v p(v) (log p(v) - log softmax(lens(h))_v)

with the final norm LN_f, the head W_U, and p the model's own distribution at the same token. What the family does
behind its last block (a scale of the logits, soft-capping) is done to the lens too, because the model itself does it.

A row's number is the mean KL over the base prompts, in nats (metric `lens_kl`); low is close. The row also has the
entropy of the lens's distribution (`sum_entropy`, nats) and the log-probability that it gives the prompt's next token,
or behind the last token the right answer (`sum_label_logprob`, nats; its opposite is the cross-entropy). `n_correct` is
the number of prompts on which its first token is the model's. After the last block the KL is 0.

Control: the lens of another prompt (the one before in the batch), against this prompt's distribution. What all prompts
of the task have in common is in both.

It does not show that the model uses what the lens reads, nor that what it does not read is absent: early layers may
write in another basis, which `tuned_lens` learns. An untrained model's lens shows what the architecture gives away by
itself.

Source: nostalgebraist, "interpreting GPT: the logit lens", 2020; Belrose et al., "Eliciting Latent Predictions from
Transformers with the Tuned Lens", 2023, section 2 (the measures).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from workers.files.place import AnyPlace
from workers.methods.activations import ready
from workers.methods.alignment import Column
from workers.methods.base import FitContext
from workers.methods.lens import read_lens
from workers.methods.reading import AbstractReading, Read, Run


@dataclass(frozen=True, slots=True)
class LogitLens(AbstractReading):
    """The lens of any cell: there is nothing to learn."""

    def read(self, run: Run, places: Sequence[AnyPlace]) -> Read:
        """The lens of each cell's activation."""
        return read_lens(run, places, run.at(places))


def fit(context: FitContext) -> list[Column]:
    """The cohort's cells, ready at once."""
    return ready(context, lambda _n_cells: LogitLens())
