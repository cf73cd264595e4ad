"""The seam of methods: cells of a cohort go in, fitted columns come out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from workers.data.answers import contrast, trimmed
from workers.data.pairs import PairSet
from workers.engine.base import AbstractEngine, TokenBatch
from workers.files.folder import SweepFolder
from workers.files.job import Cohort
from workers.files.place import AnyPlace
from workers.methods.alignment import CellGroup, Column, groups_of
from workers.methods.checkpoint import CheckpointFile
from workers.methods.labels import Labels
from workers.methods.states import PromptStates


class Monitor(Protocol):
    """What a method tells the job while it works; the job writes it to the progress file."""

    def timed(self, name: str) -> AbstractContextManager[None]:
        """Time spent inside counts as `name`: shared_forward, tails, rotation, validation, evaluation, data."""

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
    states: PromptStates  # the activations of the training pairs' base prompts
    width_of: Callable[[AnyPlace], int]  # how many numbers a token has at a place
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
    """Some pairs on the device. All but the last token of a label follow its base.

    `label_BN` has the labels' tokens, `label_B` the first of each. `to_base_B3` says where the label and the base's own
    answer are compared, `to_source_B3` the source's answer and the base's (`workers.data.answers.contrast`); None where
    that is not known of all pairs.
    """

    base: TokenBatch
    source: TokenBatch
    label_BN: Tensor
    variable_B: Tensor
    value_B: Tensor
    to_base_B3: Tensor | None = None
    to_source_B3: Tensor | None = None

    def __len__(self) -> int:
        return len(self.label_BN)

    @property
    def label_B(self) -> Tensor:  # noqa: N802
        """The first token of each label."""
        return self.label_BN[:, 0]

    @property
    def labels(self) -> Labels:
        """The labels, as the logits of an intervention are read."""
        return Labels.of(self.label_BN)


def to_device(pairs: PairSet, device: torch.device) -> Batch:
    """`pairs` as tensors on `device`."""
    label_BN, base_BN, source_BN = (pairs.answers(name) for name in ("label", "base_answer", "source_answer"))
    assert label_BN is not None
    label_BN = trimmed(label_BN)
    to_base_B3 = None if base_BN is None else contrast(label_BN, label_BN, base_BN)
    to_source_B3 = None if base_BN is None or source_BN is None else contrast(label_BN, source_BN, base_BN)
    tensors = (
        torch.from_numpy(np.ascontiguousarray(part)).to(device) for part in (label_BN, pairs.variable_B, pairs.value_B)
    )
    contrasts = (None if part is None else torch.from_numpy(part).to(device) for part in (to_base_B3, to_source_B3))
    base = TokenBatch.answered(pairs.base, label_BN, device)
    return Batch(base, TokenBatch.of(pairs.source, device), *tensors, *contrasts)


def rows_of(batch: Batch, start: int, stop: int) -> Batch:
    """The pairs from `start` to before `stop`."""
    values = (part[start:stop] for part in (batch.label_BN, batch.variable_B, batch.value_B))
    contrasts = (None if part is None else part[start:stop] for part in (batch.to_base_B3, batch.to_source_B3))
    return Batch(batch.base.rows(start, stop), batch.source.rows(start, stop), *values, *contrasts)
