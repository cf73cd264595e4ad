"""Answers of several tokens in both engines: against plain hooks on the whole model, each pair alone and unpadded."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.unit.workers.tiny import at, make_cohort, ragged_pairs, random_pairs, tiny_model
from workers.data.answers import UNKNOWN
from workers.data.pairs import PairSet
from workers.engine.base import AbstractEngine
from workers.engine.model import LanguageModel
from workers.engine.reference import ReferenceEngine
from workers.engine.suffix import SuffixEngine
from workers.job.evaluate import count_right
from workers.methods.alignment import Alignment, CellFacts, Column
from workers.methods.base import rows_of, to_device
from workers.methods.labels import Labels

CPU = torch.device("cpu")
FAMILIES = ("llama", "gpt2", "gemma2", "gptj", "qwen3_moe")
LAYER = 1


def with_answers(pairs: PairSet, *, longest: int = 4) -> PairSet:
    """The pairs with labels of 1 to `longest` tokens, and own answers that begin like the label and then part, or are
    the label."""
    rng = np.random.default_rng(5)
    n_pairs = len(pairs)
    n_rest_B = np.arange(n_pairs) % longest
    rest_BN = rng.integers(3, 97, (n_pairs, longest - 1))
    rest_BN[np.arange(longest - 1) >= n_rest_B[:, None]] = UNKNOWN
    other_BN = rest_BN.copy()
    rows = np.flatnonzero(n_rest_B > 1)
    other_BN[rows, 1] = (rest_BN[rows, 1] + 1) % 97
    first_B = pairs.label_B.copy()
    first_B[n_rest_B == 0] += 5  # the own answers to one-token labels are other tokens at once
    return replace(
        pairs,
        base_answer_B=first_B,
        source_answer_B=pairs.label_B.copy(),
        rest={"label": rest_BN, "base_answer": other_BN, "source_answer": rest_BN},
    )


def label_of(pairs: PairSet, index: int) -> list[int]:
    answer_BN = pairs.answers("label")
    assert answer_BN is not None
    return [token for token in answer_BN[index].tolist() if token != UNKNOWN]


def hooked(model: LanguageModel, pairs: PairSet, index: int, point: int, change: Any) -> Tensor:
    """logits_NV at the label's tokens of one pair: prompt and label go through the whole model without any filling, and
    behind block `LAYER`, at the pair's point, is `change(base_D, source_D)`."""
    kept: list[Tensor] = []

    def place(prompts: Any) -> int:
        return point if prompts.place_BP is None else int(prompts.place_BP[index, point])

    def run(ids: list[int], hook: Any) -> Tensor:
        handle = model.blocks[LAYER].register_forward_hook(hook)
        try:
            logits: Tensor = model.model(torch.tensor([ids])).logits[0]
        finally:
            handle.remove()
        return logits

    def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
        kept.append((output[0] if isinstance(output, tuple) else output)[0, place(pairs.source)].clone())

    def put(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        hidden = (output[0] if isinstance(output, tuple) else output).clone()
        hidden[0, place(pairs.base)] = change(hidden[0, place(pairs.base)], kept[0])
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    base, source = (prompts.ids_BT[index, : prompts.length_B[index]].tolist() for prompts in (pairs.base, pairs.source))
    label = label_of(pairs, index)
    with torch.no_grad():
        run(source, keep)
    return run([*base, *label[:-1]], put)[-len(label) :]


def engine_of(name: str, model: LanguageModel, pairs: PairSet, n_prefix: int) -> AbstractEngine:
    """The reference, or the suffix engine: pairs of any length in one call, or (`cut`) alike ones only."""
    if name == "reference":
        return ReferenceEngine(model)
    prefix_P = torch.from_numpy(pairs.base.ids_BT[0, :n_prefix])
    return SuffixEngine(model, places=at(0, 0, LAYER, 2), prefix_P=prefix_P, call_cost=0 if name == "cut" else 1000)


@pytest.mark.parametrize(("engine", "n_prefix"), [("suffix", 0), ("suffix", 3), ("cut", 3), ("reference", 0)])
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_losses_and_gradients_are_those_of_the_whole_model(family: str, engine: str, n_prefix: int) -> None:
    """Unequal prompts with labels of 1 to 4 tokens and two variables, in micro-batches: equal to 1e-5."""
    model = tiny_model(family)
    pairs = with_answers(ragged_pairs(6, n_prefix=n_prefix, n_variables=2))
    share_VD = torch.stack([torch.linspace(0.1, 0.9, 32), torch.linspace(0.8, 0.2, 32)])
    made, batch = engine_of(engine, model, pairs, n_prefix), to_device(pairs, CPU)
    for point in range(3):
        found_VD, wanted_VD = share_VD.clone().requires_grad_(), share_VD.clone().requires_grad_()
        found, losses = [], []
        for start in (0, 4):
            part = rows_of(batch, start, start + 4)
            forward = made.forward(part.base, part.source)
            weight_BD = found_VD[part.variable_B]
            logits_CMV = forward.intervene(
                at(point, LAYER), lambda base, source, w=weight_BD: base + (source - base) * w
            )
            found.append(logits_CMV[0])
            losses.append(part.labels.cross_entropy(logits_CMV)[0])
        wanted = []
        for index, variable in enumerate(pairs.variable_B.tolist()):
            weight_D = wanted_VD[variable]
            wanted.append(
                hooked(model, pairs, index, point, lambda base, source, w=weight_D: base + (source - base) * w)
            )
        torch.testing.assert_close(torch.cat(found), torch.cat(wanted), rtol=1e-5, atol=1e-5)
        entropies = [
            nn.functional.cross_entropy(logits_NV, torch.tensor(label_of(pairs, index)))
            for index, logits_NV in enumerate(wanted)
        ]
        torch.testing.assert_close(torch.cat(losses), torch.stack(entropies), rtol=1e-5, atol=1e-5)
        torch.cat(losses).sum().backward()
        torch.stack(entropies).sum().backward()
        torch.testing.assert_close(found_VD.grad, wanted_VD.grad, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("engine", ["suffix", "cut", "reference"])
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_hits_and_sums_are_those_of_the_whole_model(family: str, engine: str) -> None:
    """A hit is every token of the label; what is summed is the label's log-probability, KL at its first token, and the
    differences where two answers part."""
    model = tiny_model(family)
    pairs = with_answers(ragged_pairs(12))
    said = [hooked(model, pairs, index, 1, lambda base, source: (base + source) / 2) for index in range(12)]
    label_BN, rest_BN = pairs.label_B.copy(), pairs.rest["label"].copy()
    for index in (1, 2, 3, 7):  # their labels are what the model says, token by token: a hit
        if index != 2:
            ids = greedy(model, pairs, index, len(label_of(pairs, index)))
            label_BN[index], rest_BN[index, : len(ids) - 1] = ids[0], ids[1:]
        else:  # and of this one all but the last token
            ids = greedy(model, pairs, index, 3)
            label_BN[index], rest_BN[index, :2] = ids[0], (ids[1], (ids[2] + 1) % 97)
    pairs = with_same_beginnings(replace(pairs, label_B=label_BN, rest=pairs.rest | {"label": rest_BN}))
    said = [hooked(model, pairs, index, 1, lambda base, source: (base + source) / 2) for index in range(12)]
    plain = [hooked(model, pairs, index, 1, lambda base, _source: base) for index in range(12)]
    half = Alignment(torch.eye(32)[None], torch.full((1, 1, 32), 0.5))
    cells = make_cohort([(LAYER, 1)]).cells
    column = Column(position=1, cells=cells, learned=half, facts=(CellFacts(),))
    ((counts,),) = count_right(engine_of(engine, model, pairs, 0), [column], to_device(pairs, CPU), micro_batch=5)
    hits = [logits_NV.argmax(dim=-1).tolist() == label_of(pairs, index) for index, logits_NV in enumerate(said)]
    assert hits[1]
    assert hits[3]
    assert not hits[2]
    assert (counts.n_correct, counts.n_total) == (sum(hits), 12)
    wanted = expected(pairs, [one.double() for one in said], [one.double() for one in plain])
    for name, value in wanted.items():
        assert counts.sums[name] == pytest.approx(value, rel=1e-3, abs=1e-4), name


def greedy(model: LanguageModel, pairs: PairSet, index: int, n_tokens: int) -> list[int]:
    """The tokens that the intervened model says one after the other."""
    said: list[int] = []
    for _ in range(n_tokens):
        rest_BN = np.full((len(pairs), max(1, len(said))), UNKNOWN)
        rest_BN[index, : len(said)] = [*said[1:], 5][: len(said)] if said else []
        label_B = pairs.label_B.copy()
        label_B[index] = said[0] if said else 5
        asked = replace(pairs, label_B=label_B, rest={"label": rest_BN})
        logits_NV = hooked(model, asked, index, 1, lambda base, source: (base + source) / 2)
        said.append(int(logits_NV[-1].argmax()))
    return said


def with_same_beginnings(pairs: PairSet) -> PairSet:
    """The pairs with the label as the source's answer, and a base's answer that is the label but for its last token."""
    label_BN = pairs.answers("label")
    assert label_BN is not None
    base_BN, rows = label_BN.copy(), np.arange(len(label_BN))
    last_B = (label_BN != UNKNOWN).sum(axis=1) - 1
    base_BN[rows, last_B] = (label_BN[rows, last_B] + 7) % 97
    answers = {"base_answer": base_BN, "source_answer": label_BN}
    first = {f"{name}_B": answer_BN[:, 0] for name, answer_BN in answers.items()}
    return replace(pairs, **first, rest=pairs.rest | {name: answer_BN[:, 1:] for name, answer_BN in answers.items()})


def expected(pairs: PairSet, said: list[Tensor], plain: list[Tensor]) -> dict[str, float]:
    """The sums, by their definitions."""
    sums = dict.fromkeys(("sum_label_logprob", "sum_logit_diff", "sum_kl", "sum_log_odds", "sum_kl_none"), 0.0)
    for index, (z, z0) in enumerate(zip(said, plain, strict=True)):
        label = label_of(pairs, index)
        last, other = len(label) - 1, (label[-1] + 7) % 97
        logp, logp0 = z.log_softmax(dim=-1), z0.log_softmax(dim=-1)
        sums["sum_label_logprob"] += sum(float(logp[at, token]) for at, token in enumerate(label))
        sums["sum_logit_diff"] += float(z[last, label[-1]] - z[last, other])
        sums["sum_kl"] += float((logp0[0].exp() * (logp0[0] - logp[0])).sum())
        moved = (logp - logp0)[last]
        sums["sum_log_odds"] += float(moved[label[-1]] - moved[other])
    return sums


@pytest.mark.parametrize("engine", ["suffix", "cut", "reference"])
def test_a_batch_of_one_token_answers_is_as_if_there_were_no_others(engine: str) -> None:
    """To the last bit, whether the matrix of answers has room for more tokens or not; no token follows the prompt."""
    model, plain = tiny_model("llama"), random_pairs(6, 12)
    wide = replace(plain, rest={"label": np.full((6, 3), UNKNOWN)})
    results = []
    for pairs in (plain, wide):
        batch = to_device(pairs, CPU)
        assert batch.base.ids_BT.shape == (6, 12)
        assert batch.base.reads is None
        forward = engine_of(engine, model, pairs, 0).forward(batch.base, batch.source)
        logits_CMV = forward.intervene(at(5, LAYER), lambda base, source: (base + source) / 2)
        hits_CB, entropy_CB = batch.labels.are_said(logits_CMV), batch.labels.cross_entropy(logits_CMV)
        results.append((logits_CMV, hits_CB, entropy_CB, forward.base_logits()))
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)
    wanted = nn.functional.cross_entropy(results[0][0][0], torch.from_numpy(plain.label_B), reduction="none")
    assert torch.equal(results[0][2][0], wanted)


@pytest.mark.parametrize("n_columns", [1, 2])
def test_an_answer_that_is_not_known_is_never_said(n_columns: int) -> None:
    """Whether other answers of the batch have several tokens or not."""
    label_BN = torch.tensor([[4, 5], [UNKNOWN, UNKNOWN]])[:, :n_columns]
    labels = Labels.of(label_BN)
    logits_1MV = torch.nn.functional.one_hot(labels.token_M.clamp_min(0), 9).float()[None]
    assert labels.are_said(logits_1MV).tolist() == [[True, False]]
