"""Function vectors: the heads that carry a task's mark from few-shot prompts, their mean outputs added to a prompt.

1. For each attention head (l, j) its mean output at the cell's position (the last token, in the source) over the
   training pairs' sources, few-shot prompts.
2. Its causal indirect effect on the validation pairs: how much more likely the label becomes when the base's own output
   of the head is replaced by this mean, CIE(l, j) = mean of p(label | mean) - p(label).
3. The `n_heads` heads of the largest effect are taken; each one's mean output goes through its slice of the output
   projection, without the bias, and their sum is the vector v.
4. h <- h + v at the cell's place.

The bases of the training and validation pairs are prompts that lack what the sources show: few-shot prompts with
shuffled labels, or prompts without examples. The label is the right answer to the base.

Unit: the share of prompts answered as the label says; `subspace_dim` is 1, the vector. Control of its own: the sum over
as many random other heads. It does not show that these heads work alone, nor that they do in a prompt with examples
what their mean does here.

Source: Todd, Li, Sharma, Mueller, Wallace, Bau, "Function Vectors in Large Language Models", ICLR 2024, section 3.

Shapes, by suffix: C cells, B pairs, H heads of all layers, W width of a head, D hidden size, M tokens that
are read.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from workers.engine.base import AbstractEngine, Mix
from workers.engine.check import why_not_exact
from workers.engine.model import LanguageModel
from workers.engine.reference import ReferenceEngine
from workers.engine.sites import SiteError, n_units, tap_of
from workers.engine.suffix import SuffixEngine
from workers.files.job import content_key
from workers.files.place import Place
from workers.methods.alignment import LARGEST_GROUP, Addition, CellFacts, CellGroup, Column
from workers.methods.base import FitContext, NotApplicable, rows_of, to_device
from workers.methods.labels import Labels

_NORMS_BEHIND: Final = ("post_feedforward_layernorm", "post_self_attn_layernorm")  # Gemma 2 and OLMo 2; GLM-4


@torch.no_grad()
def fit(context: FitContext) -> list[Column]:
    """The cohort's cells. Raises: Interrupted; only the passes over the pairs are lost. NotApplicable."""
    model, n_heads = context.engine.language_model, context.settings["n_heads"]
    columns: list[Column] = []
    for position in sorted({group.position for group in context.groups}):
        heads = heads_of(model, position)
        if 2 * n_heads > len(heads):
            right = f"the model has {len(heads)} heads, and as many others are needed for the null"
            raise NotApplicable(f"n_heads: got {n_heads}; {right}")
        engine = _engine_at(context.engine, heads)
        mean_HW = _mean_outputs(context, engine, heads)
        order = _effects(context, engine, heads, mean_HW).argsort(descending=True, stable=True).tolist()
        written_HD = _written(model, heads, mean_HW)
        groups = [group for group in context.groups if group.position == position]
        columns += [_column(group, written_HD, order, n_heads=n_heads) for group in groups]
    context.monitor.advance(cell_steps=len(context.cohort.cells), pairs=0)
    return columns


def heads_of(model: LanguageModel, position: int) -> list[Place]:
    """Every attention head of the model at `position`. Raises: NotApplicable where heads write by way of a norm or a
    scale."""
    kind = type(model.model).__name__
    if getattr(model.model.config.get_text_config(), "residual_multiplier", 1.0) != 1.0:
        raise NotApplicable(f"{kind} scales the attention's output, so that heads write something else into the stream")
    if any(hasattr(block, norm) for block in model.blocks for norm in _NORMS_BEHIND):
        raise NotApplicable(
            f"{kind} has a norm behind the attention's output, so that heads do not add up in the stream"
        )
    try:
        counts = [n_units(model, layer, "head_output") or 0 for layer in range(model.n_layers)]
        places = [
            Place(layer=layer, position=position, site="head_output", unit=unit)
            for layer, count in enumerate(counts)
            for unit in range(count)
        ]
        for place in places:
            tap_of(model, place)
    except SiteError as error:
        raise NotApplicable(str(error)) from error
    return places


def _engine_at(engine: AbstractEngine, heads: Sequence[Place]) -> AbstractEngine:
    """An engine for cells at the heads: the fast one where it is what runs the cells and is exact there."""
    model = engine.language_model
    if engine.joins_places and not why_not_exact(model, heads[len(heads) // 2]):
        return SuffixEngine(model, places=heads)
    return ReferenceEngine(model)


def _parts(engine: AbstractEngine, n_heads: int) -> list[slice]:
    """The heads in parts that go through a tail together."""
    size = LARGEST_GROUP if engine.joins_places else 1
    return [slice(start, start + size) for start in range(0, n_heads, size)]


def _mean_outputs(context: FitContext, engine: AbstractEngine, heads: Sequence[Place]) -> Tensor:
    """mean_HW of each head's output over the training pairs' sources, float32."""
    pairs = to_device(context.train.by_length(), context.device)
    sums: list[Tensor] = []
    for start in range(0, len(pairs), context.micro_batch):
        part = rows_of(pairs, start, start + context.micro_batch)
        with context.monitor.timed("shared_forward"):
            forward = engine.forward(part.base, part.source)
            found = [forward.activations(heads[some])[1] for some in _parts(engine, len(heads))]
        sums.append(torch.cat(found).double().sum(dim=1))
        context.monitor.advance(cell_steps=0, pairs=0)
    return (torch.stack(sums).sum(dim=0) / len(pairs)).float()


def _effects(context: FitContext, engine: AbstractEngine, heads: Sequence[Place], mean_HW: Tensor) -> Tensor:
    """effect_H: by how much a head's mean output makes the label likelier, the mean over the validation pairs."""
    pairs = to_device(context.validation.by_length(), context.device)
    effect_H = torch.zeros(len(heads), dtype=torch.float64, device=context.device)
    for start in range(0, len(pairs), context.micro_batch):
        part = rows_of(pairs, start, start + context.micro_batch)
        with context.monitor.timed("tails"):
            forward = engine.forward(part.base, part.source)
            plain_B = _likely(forward.base_logits()[None], part.labels)[0]
            for some in _parts(engine, len(heads)):
                logits_CMV = forward.intervene(heads[some], _put(mean_HW[some]))
                effect_H[some] += (_likely(logits_CMV, part.labels) - plain_B).sum(dim=1)
        context.monitor.advance(cell_steps=0, pairs=0)
    return effect_H / len(pairs)


def _put(mean_CW: Tensor) -> Mix:
    """The intervention that puts each cell's vector in the place of the base's."""
    return lambda base_CBW, _source_CBW: mean_CW[:, None].expand_as(base_CBW)


def _likely(logits_CMV: Tensor, labels: Labels) -> Tensor:
    """probability_CB of the label: the product over its tokens, float64."""
    token_M = labels.token_M
    logprob_CMV = logits_CMV.double().log_softmax(dim=-1)
    return labels.total(logprob_CMV[:, torch.arange(len(token_M), device=token_M.device), token_M]).exp()


def _written(model: LanguageModel, heads: Sequence[Place], mean_HW: Tensor) -> Tensor:
    """written_HD: what each head's mean output writes into the residual stream, without the projection's bias."""
    rows = []
    for place, mean_W in zip(heads, mean_HW, strict=True):
        tap = tap_of(model, place)
        every = tap_of(model, Place(layer=place.layer, position=0, site="head_output"))
        input_2X = torch.zeros(2, every.width, dtype=model.dtype, device=mean_W.device)
        input_2X[1, tap.start : tap.start + tap.width] = mean_W.to(model.dtype)
        nothing_D, written_D = tap.module(input_2X).float()
        rows.append(written_D - nothing_D)
    return torch.stack(rows)


def _column(group: CellGroup, written_HD: Tensor, order: Sequence[int], *, n_heads: int) -> Column:
    """The cells with the vector of the first heads of `order`, and each one's null of random others."""
    if group.width != written_HD.shape[1]:
        raise NotApplicable(f"a function vector has {written_HD.shape[1]} numbers, and a token {group.width} here")
    nulls = []
    for cell in group.cells:
        others = list(order[n_heads:])
        random.Random(int(content_key(["function vector", cell.key]), 16)).shuffle(others)
        nulls.append(written_HD[others[:n_heads]].sum(dim=0))
    added_CD = written_HD[order[:n_heads]].sum(dim=0).expand(len(group.cells), -1).contiguous()
    return Column(
        position=group.position,
        cells=group.cells,
        learned=Addition(added_CD, torch.stack(nulls)),
        facts=(CellFacts(subspace_dim=1),) * len(group.cells),
    )
