"""Loss and IIA of the cells of a cohort while they learn, at a cost of less than a fiftieth of the training.

The loss is known at each step: its mean over each of `N_PARTS` equal parts of the training is kept. IIA costs a run of
the validation pairs without gradient. It is measured at up to `N_POINTS` steps, on as many pairs as `BUDGET` pays for.

Nothing here changes what is learned: no random number is drawn, and no gradient is taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

N_PARTS: Final = 20
N_POINTS: Final = 10
FEWEST_PAIRS: Final = 25  # on fewer a share says too little
# The share of a training that its points may cost. A pair without a gradient takes a third of one with it in theory,
# and is counted as half; benchmarks/curves.py measures what it comes to.
BUDGET: Final = 0.015
_FORWARD_SHARE: Final = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """After which steps IIA is measured, and on how many validation pairs."""

    steps: tuple[int, ...]
    n_pairs: int

    @classmethod
    def of(cls, *, n_steps: int, batch_size: int, n_validation: int, every: int) -> Schedule:
        """Every `every` steps on all pairs where the user says so; else within the budget."""
        if every:
            return cls(steps=tuple(range(every, n_steps + 1, every)), n_pairs=n_validation)
        affordable = int(BUDGET / _FORWARD_SHARE * n_steps * batch_size)  # pairs, over all points
        n_pairs = min(n_validation, max(FEWEST_PAIRS, affordable // N_POINTS))
        n_points = min(N_POINTS, affordable // n_pairs, n_steps) if n_pairs else 0
        return cls(steps=tuple(n_steps * point // n_points for point in range(1, n_points + 1)), n_pairs=n_pairs)


@dataclass(frozen=True, slots=True, kw_only=True)
class CellCurve:
    """One cell's: the last step of each part with its mean loss, and the right answers after some steps."""

    loss_step: tuple[int, ...]
    loss: tuple[float, ...]
    iia_step: tuple[int, ...]
    iia_n_correct: tuple[int, ...]
    iia_n_total: int

    def columns(self) -> dict[str, Any]:
        """As `workers.files.traces` has it."""
        return {name: getattr(self, name) for name in self.__slots__}


class Curves:
    """The curves of some groups of cells, growing. `sizes` are the numbers of cells of the groups."""

    def __init__(self, sizes: Sequence[int], schedule: Schedule, n_steps: int, device: torch.device) -> None:
        self.schedule, self._n_steps = schedule, n_steps
        self._n_parts = min(N_PARTS, n_steps)
        self._loss_CK = [torch.zeros(size, self._n_parts, device=device) for size in sizes]
        self._n_in_part = [0] * self._n_parts
        n_points = len(schedule.steps)
        self._correct_CP = [torch.full((size, n_points), -1, dtype=torch.int32, device=device) for size in sizes]

    def add_losses(self, step: int, losses: Sequence[Tensor]) -> None:
        """Take in loss_C of each group at `step`, counted from 0."""
        part = step * self._n_parts // self._n_steps
        self._n_in_part[part] += 1
        for total_CK, loss_C in zip(self._loss_CK, losses, strict=True):
            total_CK[:, part] += loss_C

    def is_due(self, n_steps_done: int) -> bool:
        """Whether IIA is to be measured after this number of steps."""
        return n_steps_done in self.schedule.steps

    def add_correct(self, n_steps_done: int, correct: Sequence[Tensor]) -> None:
        """Take in n_correct_C of each group."""
        point = self.schedule.steps.index(n_steps_done)
        for all_CP, one_C in zip(self._correct_CP, correct, strict=True):
            all_CP[:, point] = one_C.to(all_CP)

    def state(self) -> dict[str, Tensor]:
        """What to write into a checkpoint."""
        tensors = {"curve.parts": torch.tensor(self._n_in_part, dtype=torch.int32)}
        for index, (loss_CK, correct_CP) in enumerate(zip(self._loss_CK, self._correct_CP, strict=True)):
            tensors |= {f"curve.{index}.loss": loss_CK, f"curve.{index}.correct": correct_CP}
        return tensors

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Continue from `state`. An earlier version's checkpoint has none: the curves then begin where it ends."""
        if "curve.parts" not in tensors:
            return
        self._n_in_part = tensors["curve.parts"].tolist()
        for index, (loss_CK, correct_CP) in enumerate(zip(self._loss_CK, self._correct_CP, strict=True)):
            loss_CK.copy_(tensors[f"curve.{index}.loss"])
            correct_CP.copy_(tensors[f"curve.{index}.correct"])

    def of_group(self, group: int) -> tuple[CellCurve, ...]:
        """The curves of a group's cells; parts and points that nothing is known of are left out."""
        parts = [part for part, n in enumerate(self._n_in_part) if n]
        ends = tuple(-(-(part + 1) * self._n_steps // self._n_parts) for part in parts)
        loss_CK, correct_CP = self._loss_CK[group].tolist(), self._correct_CP[group].tolist()
        return tuple(
            CellCurve(
                loss_step=ends,
                loss=tuple(loss_K[part] / self._n_in_part[part] for part in parts),
                iia_step=tuple(step for step, n in zip(self.schedule.steps, correct_P, strict=True) if n >= 0),
                iia_n_correct=tuple(n for n in correct_P if n >= 0),
                iia_n_total=self.schedule.n_pairs,
            )
            for loss_K, correct_P in zip(loss_CK, correct_CP, strict=True)
        )
