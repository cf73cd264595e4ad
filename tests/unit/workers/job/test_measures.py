"""What is summed of each run: against hooks on the whole model, closed forms of the hand-wired one, and zero."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.unit.workers.planted import VOCABULARY, Planted, planted_model, save_planted
from tests.unit.workers.tiny import at, make_cohort, ragged_pairs, tiny_model
from workers.data.layout import read_layout
from workers.data.pairs import UNKNOWN, PairSet, make_pairs
from workers.data.tokenizer import Tokenizer
from workers.engine.base import AbstractEngine, AbstractForward, Mix
from workers.engine.model import LanguageModel, wrap_model
from workers.engine.reference import ReferenceEngine
from workers.engine.suffix import SuffixEngine
from workers.files.place import AnyPlace, Place
from workers.files.shard import SUM_COLUMNS
from workers.job import evaluate
from workers.job.evaluate import Counts, FullSwap, count_right, random_control
from workers.methods.alignment import Alignment, CellFacts, Column, WholeVector
from workers.methods.base import to_device

CPU = torch.device("cpu")
POINT, LAYER = 1, 1


def column_of(learned: Alignment | WholeVector, *, point: int = POINT, layer: int = LAYER) -> Column:
    """One cell that learned this."""
    cells = make_cohort([(layer, point)]).cells
    return Column(position=point, cells=cells, learned=learned, facts=(CellFacts(),))


def answered_pairs(n_pairs: int) -> PairSet:
    """Arbitrary prompts of unequal length with arbitrary answers, a third of them equal."""
    rng = np.random.default_rng(3)
    base_answer_B, source_answer_B = rng.integers(3, 6, (2, n_pairs))
    return replace(ragged_pairs(n_pairs), base_answer_B=base_answer_B, source_answer_B=source_answer_B)


def hooked_logits(model: LanguageModel, pairs: PairSet, index: int, change: Any) -> np.ndarray[Any, Any]:
    """The last token's logits_V of one base in the whole model, alone and unpadded; behind block `LAYER`, at the pair's
    point, is `change(base_D, source_D)`."""

    def run(prompts: Any, hook: Any) -> Tensor:
        ids = torch.from_numpy(prompts.ids_BT[index : index + 1, : prompts.length_B[index]])
        handle = model.blocks[LAYER].register_forward_hook(hook)
        try:
            logits: Tensor = model.model(ids).logits[0, -1]
        finally:
            handle.remove()
        return logits

    kept: list[Tensor] = []
    source_at, base_at = pairs.source.place_BP[index, POINT], pairs.base.place_BP[index, POINT]
    run(pairs.source, lambda _m, _i, output: kept.append(hidden(output)[0, source_at].clone()))

    def put(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        changed = hidden(output).clone()
        changed[0, base_at] = change(changed[0, base_at], kept[0])
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    return run(pairs.base, put).double().numpy()


def hidden(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


def expected(logits_BV: np.ndarray[Any, Any], plain_BV: np.ndarray[Any, Any], pairs: PairSet) -> dict[str, float]:
    """The sums of what is defined of each pair, in float64 and by the definitions as they are written."""
    found: dict[str, list[float]] = {name: [] for name in ("label_logprob", "logit_diff", "kl", "log_odds")}
    for index, (z, z0) in enumerate(zip(logits_BV, plain_BV, strict=True)):
        p, p0 = (np.exp(one) / np.exp(one).sum() for one in (z, z0))
        label, base, source = pairs.label_B[index], pairs.base_answer_B[index], pairs.source_answer_B[index]
        found["label_logprob"].append(math.log(p[label]))
        found["logit_diff"].append(z[label] - z[base])
        found["kl"].append(float((p0 * np.log(p0 / p)).sum()))
        found["log_odds"].append(math.log(p0[base] * p[source] / (p0[source] * p[base])))
    sums = {f"sum_{name}": sum(values) for name, values in found.items()}
    return sums | {f"sum_{name}_sq": sum(value**2 for value in values) for name, values in found.items()}


@pytest.mark.parametrize("engine", ["suffix", "reference"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
@torch.no_grad()
def test_the_sums_are_those_of_hooks_on_the_whole_model(family: str, engine: str) -> None:
    """Measures of the cell, the whole vector, the random rotation and no intervention, in unequal micro-batches."""
    model, pairs = tiny_model(family), answered_pairs(12)
    generator = torch.Generator().manual_seed(0)
    directions_DK = torch.linalg.qr(torch.randn(32, 3, generator=generator))[0]
    learned = Alignment(directions_DK[None], torch.tensor([[[1.0, 0.5, 0.25]]]))
    column = column_of(learned)
    made: AbstractEngine = (
        SuffixEngine(model, places=at(POINT, LAYER)) if engine == "suffix" else ReferenceEngine(model)
    )
    ((counts,),) = count_right(made, [column], to_device(pairs, CPU), micro_batch=5)
    control = random_control(column)
    assert control is not None

    def subspace(alignment: Alignment) -> Any:
        w, m = alignment.directions_CDK[0], alignment.mask_CVK[0, 0]
        return lambda base, source: base + (((source - base) @ w) * m) @ w.T

    changes = {
        "": subspace(learned),
        "_random": subspace(control),
        "_full": lambda _base, source: source,
        "_none": lambda base, _source: base,
    }
    logits = {
        name: np.stack([hooked_logits(model, pairs, index, change) for index in range(len(pairs))])
        for name, change in changes.items()
    }
    wanted = {
        f"{column}{name}": value
        for name, logits_BV in logits.items()
        for column, value in expected(logits_BV, logits["_none"], pairs).items()
    }
    assert counts.sums.keys() == wanted.keys() == set(SUM_COLUMNS)
    for name, value in wanted.items():
        assert counts.sums[name] == pytest.approx(value, rel=2e-4, abs=2e-5), name
    rows = np.arange(len(pairs))
    flips = logits[""][rows, pairs.source_answer_B] > logits[""][rows, pairs.base_answer_B]
    assert counts.n_flips == flips.sum()
    assert counts.n_correct == (logits[""].argmax(axis=1) == pairs.label_B).sum()


def planted_counts(folder: Path, **changes: Any) -> tuple[PairSet, Counts]:
    """300 pairs of the hand-wired model's left boundary, and the counts of a swap of all that its last token holds."""
    task, tokenizer = Planted(), Tokenizer.load(save_planted(folder))
    hypothesis = task.hypotheses["left_boundary"]
    pairs = make_pairs(task, hypothesis, tokenizer, read_layout(task, tokenizer), n_pairs=300, split="test", seed=1)
    column = column_of(WholeVector(), point=4, layer=0)
    engine = SuffixEngine(wrap_model(planted_model()), places=at(4, 0))
    ((counts,),) = count_right(engine, [column], to_device(replace(pairs, **changes), CPU), micro_batch=100)
    return pairs, counts


def test_the_measures_of_the_hand_wired_model_have_closed_forms(tmp_path: Path) -> None:
    """It says Yes with logit 20 or 0, No with 10, all else with 0; the swap makes it say what it says of the source."""
    pairs, counts = planted_counts(tmp_path)
    assert pairs.base_answer_B is not None
    assert pairs.source_answer_B is not None
    yes, n_others = VOCABULARY.index("Yes"), len(VOCABULARY) - 2

    def logprobs(says_yes: bool) -> dict[bool | None, float]:
        """Those of Yes, No and each other word."""
        logits = {True: 20.0 if says_yes else 0.0, False: 10.0, None: 0.0}
        total = math.log(math.exp(logits[True]) + math.exp(10.0) + n_others)
        return {word: logit - total for word, logit in logits.items()}

    wanted = dict.fromkeys(("label_logprob", "logit_diff", "kl", "log_odds"), 0.0)
    n_flips = n_correct = 0
    answers = (pairs.label_B, pairs.base_answer_B, pairs.source_answer_B)
    for label, base, source in zip(*((part == yes).tolist() for part in answers), strict=True):
        before, after = logprobs(base), logprobs(source)
        wanted["label_logprob"] += after[label]
        wanted["logit_diff"] += after[label] - after[base]
        shares = {word: math.exp(value) * (n_others if word is None else 1) for word, value in before.items()}
        wanted["kl"] += sum(share * (before[word] - after[word]) for word, share in shares.items())
        wanted["log_odds"] += 20.0 if source != base else 0.0
        n_flips += source != base
        n_correct += label == source
    assert 50 < n_flips < 250
    for name, value in wanted.items():
        assert counts.sums[f"sum_{name}"] == pytest.approx(value, rel=1e-3), name
    assert counts.sums["sum_log_odds_sq"] == pytest.approx(400.0 * n_flips, rel=1e-3)
    assert (counts.n_flips, counts.n_correct) == (n_flips, n_correct)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_without_an_intervention_nothing_diverges(family: str) -> None:
    """KL and log odds of "no intervention" are 0 to the last bit, and those of an empty mask are nearly so."""
    model, pairs = tiny_model(family), answered_pairs(8)
    column = column_of(Alignment(torch.eye(32)[None, :, :2], torch.zeros(1, 1, 2)))
    engine = SuffixEngine(model, places=at(POINT, LAYER))
    ((counts,),) = count_right(engine, [column], to_device(pairs, CPU), micro_batch=4)
    for name in ("kl", "log_odds"):
        assert counts.sums[f"sum_{name}_none"] == counts.sums[f"sum_{name}_sq_none"] == 0.0
        assert counts.sums[f"sum_{name}"] == pytest.approx(0.0, abs=1e-5)


def test_a_measure_that_needs_an_answer_which_is_not_known_is_left_out(tmp_path: Path) -> None:
    """One pair without the source's answer is enough for flips and log odds to be null; the base's still counts."""
    pairs, whole = planted_counts(tmp_path)
    source_answer_B = pairs.source_answer_B.copy()
    source_answer_B[217] = UNKNOWN
    _, some = planted_counts(tmp_path, source_answer_B=source_answer_B)
    assert some.n_flips is None
    gone = {name for name in SUM_COLUMNS if "log_odds" in name and not name.endswith("_random")}
    assert whole.sums.keys() - some.sums.keys() == gone
    assert some.sums["sum_logit_diff"] == whole.sums["sum_logit_diff"]
    _, none = planted_counts(tmp_path, base_answer_B=None)
    assert {name.split("_")[1] for name in none.sums} == {"label", "kl"}


class Counted(AbstractForward):
    """A forward that counts its interventions."""

    def __init__(self, forward: AbstractForward) -> None:
        self.forward, self.n_calls = forward, 0

    def intervene_apart(self, places: Sequence[Place], mix: Mix) -> Tensor:
        self.n_calls += 1
        return self.forward.intervene_apart(places, mix)

    def intervene_together(self, points: Sequence[Place], mix: Mix) -> Tensor:
        self.n_calls += 1
        return self.forward.intervene_together(points, mix)

    def base_logits(self) -> Tensor:
        return self.forward.base_logits()

    def read(self, places: Sequence[Place]) -> tuple[Tensor, Tensor]:
        return self.forward.read(places)


def test_a_whole_vector_that_is_the_cells_own_is_swapped_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Method and control of `interchange` are one run, with equal counts and sums."""
    model, pairs = tiny_model("llama"), answered_pairs(8)
    engine = SuffixEngine(model, places=at(POINT, LAYER))
    forwards: list[Counted] = []

    def forward(*batches: Any) -> Counted:
        forwards.append(Counted(SuffixEngine.forward(engine, *batches)))
        return forwards[-1]

    monkeypatch.setattr(engine, "forward", forward)
    ((counts,),) = count_right(engine, [column_of(WholeVector())], to_device(pairs, CPU), micro_batch=8)
    assert [one.n_calls for one in forwards] == [1]
    assert (counts.n_correct_full, counts.n_correct_random) == (counts.n_correct, None)
    for name in ("kl", "log_odds_sq"):
        assert counts.sums[f"sum_{name}_full"] == counts.sums[f"sum_{name}"]
        assert f"sum_{name}_random" not in counts.sums


def test_a_control_that_is_given_is_not_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cell's random rotation serves all its settings."""
    model, pairs = tiny_model("llama"), to_device(answered_pairs(8), CPU)
    column = column_of(Alignment(torch.eye(32)[None, :, :2], torch.ones(1, 1, 2)))
    engine, control = SuffixEngine(model, places=at(POINT, LAYER)), random_control(column)
    drawn = count_right(engine, [column], pairs, micro_batch=8)

    def refuse(_column: Column) -> None:
        raise AssertionError("drawn again")

    monkeypatch.setattr(evaluate, "random_control", refuse)
    assert count_right(engine, [column], pairs, micro_batch=8, controls=[control]) == drawn


def test_the_swap_of_the_whole_vector_is_run_once_for_all_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is known of these pairs at a place is taken over, and the numbers are those of a run of its own."""
    model, pairs = tiny_model("llama"), to_device(answered_pairs(8), CPU)
    half = column_of(Alignment(torch.eye(32)[None], torch.full((1, 1, 32), 0.5)))
    engine = SuffixEngine(model, places=at(POINT, LAYER))
    forwards: list[Counted] = []

    def forward(*batches: Any) -> Counted:
        forwards.append(Counted(SuffixEngine.forward(engine, *batches)))
        return forwards[-1]

    monkeypatch.setattr(engine, "forward", forward)
    known: dict[AnyPlace, FullSwap] = {}
    alone = count_right(engine, [half], pairs, micro_batch=8)
    whole = count_right(engine, [column_of(WholeVector())], pairs, micro_batch=8, full_swaps=known)
    after = count_right(engine, [half], pairs, micro_batch=8, full_swaps=known)
    assert [one.n_calls for one in forwards] == [3, 1, 2]
    assert after == alone
    assert after[0][0].n_correct_full == whole[0][0].n_correct
    assert set(known) == set(at(POINT, LAYER))
