"""Direct logit attribution: what a component writes into the answer's logit, less what it writes into the other one's.

    x = sum of all components' outputs c          the residual stream behind the last block, at the last token
    N(x) = a * C(x) / s(x) + b                     the final norm; in some families C subtracts the mean; s is its scale
    attribution of c = (W_U[y] - W_U[y']) . (a * C(c) / s(x))

with the prompt's right answer y, the counterfactual answer y' of its pair, and the scale s(x) frozen at what it is in
the model's own run. Embeddings, attention and MLP of every block, and the norm's and the head's biases, sum to the
logit difference exactly. Heads sum to the attention's output less its bias; a neuron's share is likewise of the MLP. At
a site of the residual stream it is the attribution of all that was written so far.

A row's number is the mean over the pairs whose counterfactual answer is another one (`n_total` counts these), in logits
of the head's own output: before a family scales or soft-caps them (metric `attribution`).

Control: the same component along a random direction of the length of W_U[y] - W_U[y'].

It does not show what a component does by way of later blocks, and a component that writes to both answers alike has
none. Cells must be at the last token of each prompt, because only there is the answer read. Where a norm lies between a
part of a block and the stream (Gemma 2, OLMo 2), or its output is scaled (Granite), there is no such sum, and the cell
is skipped.

Source: Elhage et al., "A Mathematical Framework for Transformer Circuits", 2021; Wang et al., "Interpretability in the
Wild", 2022, section 3; `ActivationCache.logit_attrs` of TransformerLens.

Shapes, by suffix: C cells at one position, B prompts, D hidden size, W width of the site.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from workers.data.pairs import UNKNOWN
from workers.engine.sites import tap_of
from workers.files.job import content_key
from workers.files.place import BLOCK_OUTPUT, AnyPlace, Place, single
from workers.methods.activations import ready
from workers.methods.alignment import Column
from workers.methods.base import FitContext, NotApplicable
from workers.methods.final_norm import FinalNorm
from workers.methods.lens import final_place, is_at_last_token
from workers.methods.reading import AbstractReading, Read, Run
from workers.methods.reading_settings import BLOCK_PARTS, RESIDUAL

_TOLERANCE: Final = 1e-3  # a share of the stream's size: how exactly a block's parts must add up to its change


@dataclass(frozen=True, slots=True)
class LogitAttribution(AbstractReading):
    """The attribution of any cell: there is nothing to learn."""

    def read(self, run: Run, places: Sequence[AnyPlace]) -> Read:
        """For pairs whose counterfactual answer begins otherwise than the prompt's own. Raises: NotApplicable."""
        each = single(places)
        if not is_at_last_token(run, each[0].position):
            raise NotApplicable(
                "logit_attribution: the position is not the last token of each prompt, where the answer is"
            )
        rows, direction_BD = answer_directions(run)
        if not len(rows):
            zero_CB = torch.zeros(len(each), 0, device=run.model.device)
            return Read(n_counted=0, means_CB={"logit_diff": zero_CB}, null_means_CB={"logit_diff": zero_CB})
        final_BD = run.at([final_place(each[0].position, run.model.n_layers)])[0]
        norm = FinalNorm.of(run.model, run.unembed, final_BD)
        key = content_key(["attribution", each[0].position])  # whatever cells go through together
        generator = torch.Generator().manual_seed(int(key[:15], 16))
        random_D = nn.functional.normalize(torch.randn(final_BD.shape[1], generator=generator), dim=0)
        null_BD = random_D.to(direction_BD) * direction_BD.norm(dim=1, keepdim=True)
        written = [norm.linear(written_by(run, place))[rows] for place in each]
        found_CB, null_CB = (
            torch.stack([(component_BD * along_BD).sum(dim=1) for component_BD in written])
            for along_BD in (direction_BD, null_BD)
        )
        return Read(n_counted=len(rows), means_CB={"logit_diff": found_CB}, null_means_CB={"logit_diff": null_CB})


def fit(context: FitContext) -> list[Column]:
    """The cohort's cells, ready at once."""
    return ready(context, lambda _n_cells: LogitAttribution())


def answer_directions(run: Run) -> tuple[Tensor, Tensor]:
    """The pairs whose two answers are known and differ, and W_U[y] - W_U[y'] of each, direction_BD."""
    if run.pairs.base_answer_B is None:
        raise NotApplicable("logit_attribution: the prompts' own right answers are not known")
    own_B, other_B = run.pairs.base_answer_B, run.pairs.label_B
    rows = np.flatnonzero((own_B != other_B) & (own_B != UNKNOWN))
    weight_VD: Any = run.model.model.get_output_embeddings().weight
    answer_B, other = (torch.from_numpy(part[rows]).to(weight_VD.device) for part in (own_B, other_B))
    direction_BD = (weight_VD[answer_B].float() - weight_VD[other].float()).to(run.model.device)
    return torch.from_numpy(rows).to(run.model.device), direction_BD


def written_by(run: Run, place: Place) -> Tensor:
    """written_BD: what the component adds to the residual stream. Raises: NotApplicable."""
    own_BW = run.at([place])[0]
    if place.site in RESIDUAL:
        return own_BW
    _check_adds_up(run, place)
    if place.site in ("attention_output", "mlp_output"):
        return own_BW
    tap = tap_of(run.model, place)
    weight_XD = _weight_in_out(tap.module)[tap.start : tap.start + tap.width]
    return own_BW @ weight_XD.float().to(own_BW.device)


def _weight_in_out(module: nn.Module) -> Tensor:
    """A linear layer's weight, inputs x outputs; GPT-2 holds it that way round."""
    weight: Any = module.weight
    return weight.T if isinstance(module, nn.Linear) else weight


def _check_adds_up(run: Run, place: Place) -> None:
    """Raises: NotApplicable where attention and MLP do not add up to what the block adds to the stream."""
    before_BD, attention_BD, mlp_BD = (run.at([replace(place, site=site, unit=None)])[0] for site in BLOCK_PARTS)
    behind_BD = run.at([replace(place, site=BLOCK_OUTPUT, unit=None)])[0]
    rest_BD = behind_BD - before_BD - attention_BD - mlp_BD
    if rest_BD.abs().max() > _TOLERANCE * behind_BD.abs().max():
        kind = type(run.model.model).__name__
        raise NotApplicable(
            f"logit_attribution: a block of {kind} adds to the stream something else than its attention and MLP (a "
            f"norm or a scale lies between); expected {', '.join(RESIDUAL)}"
        )
