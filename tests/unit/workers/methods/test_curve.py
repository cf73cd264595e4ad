"""Curves of a training: what they cost, what they say, and that they change nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.unit.workers.tiny import SilentMonitor, make_cohort, make_context, random_pairs, tiny_model
from workers.methods import boundless_das, training
from workers.methods.alignment import Column
from workers.methods.base import Interrupted
from workers.methods.curve import BUDGET, CellCurve, Curves, Schedule

CPU = torch.device("cpu")


def fitted(folder: Path, *, monitor: SilentMonitor | None = None, **options: object) -> list[Column]:
    """Two cells, 40 steps of 64 pairs."""
    cohort = make_cohort([(0, 11), (1, 11)], epochs=40, batch_size=64, **options)
    pairs = random_pairs(64, 12)
    return boundless_das.fit(
        make_context(folder, cohort, tiny_model("llama"), pairs, monitor=monitor or SilentMonitor())
    )


@pytest.mark.parametrize(
    ("n_steps", "batch_size", "n_validation"), [(939, 64, 200), (94, 64, 200), (20, 64, 32), (3, 8, 4)]
)
def test_the_points_keep_to_their_budget(n_steps: int, batch_size: int, n_validation: int) -> None:
    """At half a pair's price without a gradient, all points cost at most the budget; the last one is the last step."""
    schedule = Schedule.of(n_steps=n_steps, batch_size=batch_size, n_validation=n_validation, every=0)
    assert len(schedule.steps) * schedule.n_pairs * 0.5 <= BUDGET * n_steps * batch_size
    assert list(schedule.steps) == sorted(set(schedule.steps))
    assert not schedule.steps or schedule.steps[-1] == n_steps


def test_the_papers_training_has_ten_points() -> None:
    """20,000 pairs in batches of 64, three times: ten points on 180 of the 200 validation pairs."""
    schedule = Schedule.of(n_steps=939, batch_size=64, n_validation=200, every=0)
    assert (len(schedule.steps), schedule.n_pairs) == (10, 180)


def test_a_users_own_points_take_every_pair() -> None:
    """`eval_every: 4` of ten steps: after 4 and 8."""
    assert Schedule.of(n_steps=10, batch_size=8, n_validation=200, every=4) == Schedule(steps=(4, 8), n_pairs=200)


def test_a_loss_is_the_mean_of_its_part() -> None:
    """Forty steps in twenty parts of two, with losses 0, 1, 2, ...: the means are 0.5, 2.5, ..."""
    curves = Curves([1], Schedule(steps=(), n_pairs=0), 40, CPU)
    for step in range(40):
        curves.add_losses(step, [torch.tensor([float(step)])])
    (curve,) = curves.of_group(0)
    assert curve.loss == tuple(0.5 + 2 * part for part in range(20))
    assert curve.loss_step == tuple(range(2, 41, 2))


def test_a_checkpoint_without_curves_begins_them_where_it_ends() -> None:
    """What an earlier version did not write is left out, and not shown as 0."""
    curves = Curves([1], Schedule(steps=(2, 4), n_pairs=9), 4, CPU)
    curves.restore({"loss.0": torch.zeros(1)})
    curves.add_losses(3, [torch.tensor([7.0])])
    curves.add_correct(4, [torch.tensor([5.0])])
    wanted = CellCurve(loss_step=(4,), loss=(7.0,), iia_step=(4,), iia_n_correct=(5,), iia_n_total=9)
    assert curves.of_group(0) == (wanted,)


def test_curves_change_nothing_that_is_learned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With and without points the rotations are equal to the last bit, and the last loss is that of the row."""
    (with_curves,) = fitted(tmp_path / "a", eval_every=1)
    assert [len(curve.iia_step) for curve in with_curves.curves] == [40, 40]
    monkeypatch.setattr(training.Schedule, "of", lambda **_: Schedule(steps=(), n_pairs=0))
    (without,) = fitted(tmp_path / "b")
    assert torch.equal(with_curves.learned.directions_CDK, without.learned.directions_CDK)
    assert with_curves.facts == without.facts
    for curve, facts in zip(with_curves.curves, with_curves.facts, strict=True):
        assert sum(curve.loss[-2:]) / 2 == pytest.approx(facts.loss)  # the last tenth of the steps


def test_curves_survive_a_break(tmp_path: Path) -> None:
    """A training that is stopped and resumed ends with the curves of one that is not."""
    (tmp_path / "b").mkdir()
    (undisturbed,) = fitted(tmp_path / "a", eval_every=8)
    with pytest.raises(Interrupted):
        fitted(tmp_path / "b", eval_every=8, monitor=SilentMonitor(stop_after=13))
    (resumed,) = fitted(tmp_path / "b", eval_every=8)
    assert resumed.curves == undisturbed.curves
