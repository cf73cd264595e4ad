"""The seam of methods: cells of a cohort go in, fitted columns come out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from workers.data.pairs import PairSet
from workers.engine.base import AbstractEngine, TokenBatch
from workers.files.folder import SweepFolder
from workers.files.job import Cohort
from workers.files.place import Place
from workers.methods.alignment import CellGroup, Column, groups_of
from workers.methods.checkpoint import CheckpointFile


class Monitor(Protocol):
    """What a method tells the job while it works; the job writes it to the progress file."""

    def timed(self, name: str) -> AbstractContextManager[None]:
        """Time spent inside counts as `name`: shared_forward, tails, rotation, evaluation, data."""

    def advance(self, *, cell_steps: int, pairs: int) -> None:
        """Count further cell-steps and cell-pairs. Raises: Interrupted when the job was asked to stop."""

    def resumed(self, *, cell_steps: int) -> None:
        """The training resumes from a checkpoint after this number of steps."""

    def checkpoint_due(self) -> bool:
        """Whether the method should write its checkpoint now."""

    def checkpoint_written(self, seconds: float) -> None:
        """The method wrote its checkpoint, which took so long."""

    def report(self, metrics: Mapping[str, float]) -> None:
        """Intermediate measures, `iia` among them."""


class Interrupted(Exception):
    """The job was asked to stop; the method has written its checkpoint."""


class NotApplicable(ValueError):
    """The method has no meaning for these cells; the message says why. They are recorded as skipped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FitContext:
    """All that a method may use. `micro_batch` is the number of pairs a forward pass takes; it never changes a result
    but for rounding."""

    cohort: Cohort
    engine: AbstractEngine
    width_of: Callable[[Place], int]  # how many numbers a token has at a place
    variables: tuple[str, ...]  # the hypothesis's
    train: PairSet
    validation: PairSet
    device: torch.device
    micro_batch: int
    checkpoint: CheckpointFile
    monitor: Monitor
    folder: SweepFolder | None = None  # the sweep's own, for a method that reads what the sweep carries

    @property
    def settings(self) -> Mapping[str, Any]:
        """The method's settings."""
        return self.cohort.stream.method

    @property
    def groups(self) -> list[CellGroup]:
        """The cohort's cells as they go through a tail together."""
        return groups_of(self.cohort.cells, width_of=self.width_of, join_places=self.engine.joins_places)

    @property
    def n_variables(self) -> int:
        """How many variables the hypothesis aligns."""
        return len(self.variables)


class AbstractMethod(Protocol):
    """A module in this folder is a method when it has this function."""

    def fit(self, context: FitContext) -> list[Column]:
        """The fitted columns of the cohort's cells. Raises: Interrupted, NotApplicable."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Some pairs on the device; the fields are those of `PairSet`."""

    base: TokenBatch
    source: TokenBatch
    label_B: Tensor
    variable_B: Tensor
    value_B: Tensor
    base_answer_B: Tensor | None = None
    source_answer_B: Tensor | None = None

    def __len__(self) -> int:
        return len(self.label_B)


def to_device(pairs: PairSet, device: torch.device) -> Batch:
    """`pairs` as tensors on `device`."""
    values = (pairs.label_B, pairs.variable_B, pairs.value_B)
    tensors = (torch.from_numpy(np.ascontiguousarray(part)).to(device) for part in values)
    answers = (
        None if part is None else torch.from_numpy(np.ascontiguousarray(part)).to(device)
        for part in (pairs.base_answer_B, pairs.source_answer_B)
    )
    return Batch(TokenBatch.of(pairs.base, device), TokenBatch.of(pairs.source, device), *tensors, *answers)


def rows_of(batch: Batch, start: int, stop: int) -> Batch:
    """The pairs from `start` to before `stop`."""
    values = (part[start:stop] for part in (batch.label_B, batch.variable_B, batch.value_B))
    answers = (None if part is None else part[start:stop] for part in (batch.base_answer_B, batch.source_answer_B))
    return Batch(batch.base.rows(start, stop), batch.source.rows(start, stop), *values, *answers)
