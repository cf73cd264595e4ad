"""Boundless DAS: masks, schedule, micro-batches, cohorts, checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.unit.workers.tiny import SilentMonitor, make_cohort, make_context, ragged_pairs, random_pairs, tiny_model
from workers.engine.reference import ReferenceEngine
from workers.engine.suffix import SuffixEngine
from workers.methods import boundless_das, training
from workers.methods.alignment import Column
from workers.methods.base import Interrupted
from workers.methods.boundless_das import soft_masks
from workers.methods.training import batch_rows

POINTS = [(layer, position) for position in (8, 11) for layer in (0, 1, 2)]


def fitted(folder: Path, points: list[tuple[int, int]], *, n_pairs: int = 64, **options: Any) -> list[Column]:
    cohort = make_cohort(points, epochs=1, batch_size=16, **options)
    return boundless_das.fit(make_context(folder, cohort, tiny_model("llama"), random_pairs(n_pairs, 12, n_prefix=3)))


def learned(columns: list[Column]) -> dict[str, tuple[torch.Tensor, Any]]:
    """Rotation and facts of each cell by key."""
    return {
        cell.key: (column.learned.directions_CDK[index], column.facts[index])
        for column in columns
        for index, cell in enumerate(column.cells)
    }


def assert_equal_to_the_last_bit(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert found.keys() == wanted.keys()
    for key, (directions, facts) in wanted.items():
        assert torch.equal(found[key][0], directions), key
        assert found[key][1] == facts, key


def test_the_mask_is_the_papers() -> None:
    """m_i = sigmoid(i / t) sigmoid((b d - i) / t) for i = 0..d-1."""
    mask = soft_masks(torch.tensor([0.5]), 1, 2.0, 8)[0, 0]
    wanted = [torch.sigmoid(torch.tensor(i / 2.0)) * torch.sigmoid(torch.tensor((4.0 - i) / 2.0)) for i in range(8)]
    torch.testing.assert_close(mask, torch.stack(wanted))


def test_two_variables_get_adjacent_masks_of_half_the_width() -> None:
    """b d = 8 dimensions: the first variable takes 0..3 (0 by half), the second 4..7 (4 by half)."""
    mask = soft_masks(torch.tensor([0.5]), 2, 1e-3, 16)[0].round(decimals=3)
    assert mask[0].tolist() == [0.5, 1, 1, 1, 0.5] + [0] * 11
    assert mask[1].tolist() == [0] * 4 + [0.5, 1, 1, 1, 0.5] + [0] * 7


def test_an_epochs_order_depends_on_seed_and_epoch_alone() -> None:
    """Every pair comes once an epoch, in another order for another epoch or seed."""
    first = [row.tolist() for row in batch_rows(10, 4, seed=1, epoch=0)]
    assert sorted(pair for row in first for pair in row) == list(range(10))
    assert [len(row) for row in first] == [4, 4, 2]
    assert first == [row.tolist() for row in batch_rows(10, 4, seed=1, epoch=0)]
    assert first != [row.tolist() for row in batch_rows(10, 4, seed=1, epoch=1)]
    assert first != [row.tolist() for row in batch_rows(10, 4, seed=2, epoch=0)]


def test_positions_train_as_if_alone(tmp_path: Path) -> None:
    """A cohort of two positions equals two cohorts of one position, to the last bit."""
    together = learned(fitted(tmp_path, POINTS))
    alone = learned(fitted(tmp_path, POINTS[:3])) | learned(fitted(tmp_path, POINTS[3:]))
    assert_equal_to_the_last_bit(together, alone)


def test_a_cohort_of_six_equals_six_cohorts_of_one(tmp_path: Path) -> None:
    """Layers of one position share a call of the model; each trains as it does alone, but for rounding."""
    together = learned(fitted(tmp_path, POINTS))
    alone = {key: value for point in POINTS for key, value in learned(fitted(tmp_path, [point])).items()}
    assert together.keys() == alone.keys()
    for key, (directions, facts) in alone.items():
        torch.testing.assert_close(together[key][0], directions, rtol=0, atol=2e-3)  # Adam lifts rounding errors
        assert together[key][1].loss == pytest.approx(facts.loss, rel=1e-4)


def test_micro_batches_add_up_to_the_batch(tmp_path: Path) -> None:
    """16 pairs at once or 4 x 4: the same training but for rounding."""
    model, pairs = tiny_model("llama"), random_pairs(64, 12)
    cohort = make_cohort([(0, 11)], epochs=1, batch_size=16)
    whole, parts = (
        learned(boundless_das.fit(make_context(tmp_path, cohort, model, pairs, micro_batch=size)))["0.11"]
        for size in (16, 4)
    )
    torch.testing.assert_close(parts[0], whole[0], rtol=1e-3, atol=1e-3)
    assert parts[1].loss == pytest.approx(whole[1].loss, rel=1e-4)


@pytest.mark.parametrize("stop_after", [1, 3])
@pytest.mark.parametrize("is_ragged", [False, True])
def test_an_interrupted_training_ends_as_an_undisturbed_one(tmp_path: Path, stop_after: int, is_ragged: bool) -> None:
    """Stopped after 1 or 3 of 8 steps, resumed from the checkpoint: equal to the last bit, prompts of unequal length
    too."""
    model, pairs = tiny_model("llama"), ragged_pairs(64) if is_ragged else random_pairs(64, 12)
    points = [(0, 1), (1, 1), (1, 2)] if is_ragged else POINTS
    cohort = make_cohort(points, epochs=2, batch_size=16)
    engine = SuffixEngine(model, places=[cell.place for cell in cohort.cells], call_cost=20)

    def fitted(folder: str, monitor: SilentMonitor) -> list[Column]:
        return boundless_das.fit(make_context(tmp_path / folder, cohort, model, pairs, engine=engine, monitor=monitor))

    undisturbed = learned(fitted("a", SilentMonitor()))
    (tmp_path / "b").mkdir()
    with pytest.raises(Interrupted):
        fitted("b", SilentMonitor(stop_after=stop_after))
    monitor = SilentMonitor()
    resumed = fitted("b", monitor)
    assert monitor.n_steps == 8 - stop_after
    assert_equal_to_the_last_bit(learned(resumed), undisturbed)


def test_the_reference_rotation_resumes_too(tmp_path: Path) -> None:
    """The same for torch's parametrisation under the reference engine."""
    model, pairs = tiny_model("llama"), random_pairs(32, 12)
    cohort = make_cohort([(0, 11), (1, 11)], epochs=1, batch_size=16, engine="reference")

    def context(folder: Path, stop_after: int | None = None) -> Any:
        monitor = SilentMonitor(stop_after=stop_after)
        return make_context(folder, cohort, model, pairs, engine=ReferenceEngine(model), monitor=monitor)

    undisturbed = learned(boundless_das.fit(context(tmp_path / "a")))
    (tmp_path / "b").mkdir()
    with pytest.raises(Interrupted):
        boundless_das.fit(context(tmp_path / "b", stop_after=1))
    assert_equal_to_the_last_bit(learned(boundless_das.fit(context(tmp_path / "b"))), undisturbed)


def test_fast_and_reference_train_alike(tmp_path: Path) -> None:
    """8 steps of both engines, each with its own rotation: losses within 1 %."""
    model, pairs = tiny_model("llama"), random_pairs(128, 12)
    losses = []
    for engine in ("suffix", "reference"):
        cohort = make_cohort([(0, 11), (1, 9)], epochs=1, batch_size=16, engine=engine)
        plain = ReferenceEngine(model) if engine == "reference" else None
        columns = boundless_das.fit(make_context(tmp_path, cohort, model, pairs, engine=plain))
        losses.append({key: facts.loss for key, (_, facts) in learned(columns).items()})
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)


def test_a_boundary_at_its_limit_can_come_back(tmp_path: Path) -> None:
    """Driven to the least by the penalty and started there: without the penalty it grows again."""
    stuck = fitted(tmp_path / "a", [(0, 11)], boundary_start=0.01, boundary_penalty=100.0, boundary_lr=0.1)
    width = stuck[0].facts[0].boundary[0]
    assert width == pytest.approx(1e-3)
    options = {"boundary_start": 1e-3, "boundary_penalty": 0.0, "boundary_lr": 0.1, "temperature_start": 500.0}
    assert fitted(tmp_path / "b", [(0, 11)], n_pairs=256, **options)[0].facts[0].boundary[0] > 2e-3


def test_a_diverging_cell_fails_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cell whose rotation turns to NaN says so; the others end as without it."""
    plain = training.random_rotation

    def poisoned(seed_text: str, size: int, device: torch.device) -> torch.Tensor:
        return plain(seed_text, size, device) * (float("nan") if seed_text == "1.8" else 1.0)

    wanted = learned(fitted(tmp_path, POINTS))
    monkeypatch.setattr(training, "random_rotation", poisoned)
    found = learned(fitted(tmp_path, POINTS))
    assert "diverged" in found.pop("1.8")[1].failure
    wanted.pop("1.8")
    assert_equal_to_the_last_bit(found, wanted)


def test_evaluation_in_training_reports_iia(tmp_path: Path) -> None:
    """Every second of 4 steps: two reports with an IIA between 0 and 1."""
    monitor = SilentMonitor()
    cohort = make_cohort([(0, 11)], epochs=1, batch_size=16, eval_every=2)
    boundless_das.fit(make_context(tmp_path, cohort, tiny_model("llama"), random_pairs(64, 12), monitor=monitor))
    assert len(monitor.reports) == 2
    assert all(0 <= report["iia"] <= 1 for report in monitor.reports)
