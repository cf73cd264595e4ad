"""Tuned lens, reading vectors, skill neurons and the nulls of probes: planted truths and closed forms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.unit.workers.planted import P, Planted, planted_model, save_planted
from tests.unit.workers.tiny import at, make_cohort, make_context, random_pairs, states_of, tiny_model
from workers.data.layout import read_layout
from workers.data.pairs import PairSet, make_pairs
from workers.data.tokenizer import Tokenizer
from workers.engine.model import wrap_model
from workers.engine.reference import ReferenceEngine
from workers.engine.suffix import SuffixEngine
from workers.job.evaluate import Counts
from workers.job.reading_counts import count_read
from workers.job.saved import load_columns, save_columns
from workers.methods import linear_probe, reading_vector, skill_neurons, sparse_probe, tuned_lens
from workers.methods.alignment import Column
from workers.methods.lens import final_place, read_lens
from workers.methods.logit_lens import LogitLens
from workers.methods.null_probe import ProbeWithNull
from workers.methods.reading_vector import reading_direction
from workers.methods.skill_neurons import accuracies
from workers.methods.tuned_lens import TunedLens

MODULES: dict[str, Any] = {
    "linear_probe": linear_probe,
    "sparse_probe": sparse_probe,
    "reading_vector": reading_vector,
    "skill_neurons": skill_neurons,
}


class Affine(nn.Module):
    """A block that adds an affine map of the stream to it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.map = nn.Linear(width, width)

    def forward(self, hidden: Tensor, *_args: Any, **_kwargs: Any) -> Tensor:
        return hidden + self.map(hidden)


def planted_counts(folder: Path, name: str) -> tuple[Column, Counts]:
    """A probe fitted on the hand-wired model after block 0 at the last position, and its counts on fresh prompts."""
    task, model = Planted(), wrap_model(planted_model())
    tokenizer = Tokenizer.load(save_planted(folder))
    layout, hypothesis = read_layout(task, tokenizer), task.hypotheses["left_boundary"]

    def pairs(split: str) -> PairSet:
        return make_pairs(task, hypothesis, tokenizer, layout, n_pairs=400, split=split, seed=1)

    (column,) = MODULES[name].fit(make_context(folder, make_cohort([(0, 4)], method=name), model, pairs("train")))
    ((counts,),) = count_read(states_of(SuffixEngine(model, places=at(4, 0)), pairs("test"), at(4, 0)), [column])
    return column, counts


def test_a_tuned_lens_begins_as_the_logit_lens() -> None:
    """With zeros for its translator every number is the same."""
    model, pairs = tiny_model("llama"), random_pairs(6, 12)
    places = [*at(9, 0, 1), final_place(9, 3)]
    with torch.no_grad():
        ((_, run),) = states_of(SuffixEngine(model, places=places), pairs, places).runs()
        tuned = TunedLens(torch.zeros(2, 32, 32), torch.zeros(2, 32)).read(run, places[:2])
        plain = LogitLens().read(run, places[:2])
    for name, value_CB in plain.means_CB.items():
        torch.testing.assert_close(tuned.means_CB[name], value_CB, equal_nan=True)


def test_a_tuned_lens_learns_an_affine_rest_of_the_model(tmp_path: Path) -> None:
    """The blocks behind the first add affine maps: the KL goes to 0, and what was learned reads it back from a file."""
    torch.manual_seed(0)
    inner = tiny_model("llama").model
    for index in (1, 2):
        inner.model.layers[index] = Affine(32)
    model = wrap_model(inner)
    train, test = random_pairs(256, 8), random_pairs(64, 8, seed=1)
    cohort = make_cohort([(0, 6)], method="tuned_lens", epochs=60, learning_rate=1e-2)
    places = [*at(6, 0), final_place(6, 3)]
    context = make_context(tmp_path, cohort, model, train, engine=ReferenceEngine(model), micro_batch=256)
    columns = tuned_lens.fit(context)
    save_columns(tmp_path / "saved", cohort, columns, variables=("P",), indices=(), whole=False)
    (read_back,) = load_columns(tmp_path / "saved", context.groups, torch.device("cpu"))
    with torch.no_grad():
        ((_, run),) = states_of(ReferenceEngine(model), test, places, micro_batch=64).runs()
        before = read_lens(run, at(6, 0), run.at(at(6, 0))).means_CB["kl"].mean()
        (after,) = [one.learned.read(run, at(6, 0)).means_CB["kl"].mean() for one in (read_back,)]
    assert after < 0.02 * before


def test_a_reading_vector_is_the_planted_direction() -> None:
    """Up to scale: classes two apart along one direction in noise, and each prompt on its side."""
    generator = torch.Generator().manual_seed(0)
    direction = nn.functional.normalize(torch.randn(16, generator=generator), dim=0)
    above = torch.arange(200) % 2 == 0
    hidden = 0.05 * torch.randn(200, 16, generator=generator) + (2.0 * above[:, None] - 1) * direction
    found = reading_direction(hidden, above)
    assert abs(float(found @ direction)) == pytest.approx(1, abs=1e-3)
    assert bool(((hidden @ direction > 0) == above).all())


def test_the_planted_neuron_has_predictivity_one_half() -> None:
    """It fires on one class alone; noise predicts nothing."""
    generator = torch.Generator().manual_seed(0)
    above = torch.arange(400) % 2 == 0
    hidden = torch.randn(400, 8, generator=generator)
    hidden[:, 5] = -1.0 * above
    predictivity = (accuracies(hidden, above) - 0.5).abs()
    assert int(predictivity.argmax()) == 5
    assert float(predictivity[5]) == 0.5
    assert float(predictivity[[0, 1, 2, 3, 4, 6, 7]].max()) < 0.15


def test_skill_neurons_find_the_planted_neuron(tmp_path: Path) -> None:
    """Dimension P, right on every fresh prompt; the random one is not."""
    column, counts = planted_counts(tmp_path, "skill_neurons")
    assert isinstance(column.learned, ProbeWithNull)
    assert column.learned.weight_CVD[0, 0].nonzero().flatten().tolist() == [P]
    assert counts.n_correct == counts.n_total == 400


@pytest.mark.parametrize("name", ["linear_probe", "sparse_probe"])
def test_a_null_reads_less_than_the_planted_variable(tmp_path: Path, name: str) -> None:
    """Shuffled labels, random neurons: each right on fewer prompts; the classes' counts add up."""
    _, counts = planted_counts(tmp_path, name)
    assert counts.n_correct is not None
    assert counts.n_correct_random is not None
    assert counts.n_correct_random < counts.n_correct == 400
    assert [sum(column) for column in zip(*counts.classes, strict=True)] == [400, 400, 400]


def test_shuffled_labels_teach_nothing(tmp_path: Path) -> None:
    """A probe of noise is at chance, and so is its null: within four standard errors of one half."""
    train, test = random_pairs(400, 8), random_pairs(400, 8, seed=3)
    model = tiny_model("llama")
    (column,) = linear_probe.fit(make_context(tmp_path, make_cohort([(0, 3)], method="linear_probe"), model, train))
    ((counts,),) = count_read(states_of(SuffixEngine(model, places=at(3, 0)), test, at(3, 0)), [column])
    assert counts.n_correct_random is not None
    assert abs(counts.n_correct_random / 400 - 0.5) < 4 * 0.5 / 20
