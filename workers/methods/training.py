"""Learning rotations by gradient: the cells of a cohort side by side, one optimizer, one schedule, one checkpoint.

For each cell: rotate the base's and the source's hidden state at (layer, position), take what the masks let through
from the source, rotate back, run on; move the rotation so that the model then says the causal model's counterfactual
label. What the masks are is the method's: `AbstractMasks` has a form that learns its width (`boundless_das`) and a
fixed one (`das`). One variable or several: each pair interchanges one, through that variable's mask.

Source: Geiger, Wu, Potts, Icard, Goodman, "Finding Alignments Between Interpretable Causal Variables and Distributed
Neural Representations", 2023, section 3; batches and schedule of Wu et al., "Interpretability at Scale", NeurIPS 2023.

Shapes, by suffix: C cells at one position, B pairs, D width of their sites, V variables.
"""

from __future__ import annotations

import logging
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from workers.engine.base import AbstractForward
from workers.files.job import content_key
from workers.methods.alignment import (
    MASK_FLOOR,
    Alignment,
    CellFacts,
    CellGroup,
    Column,
    Learned,
    part_names,
    random_rotation,
    together,
)
from workers.methods.base import Batch, FitContext, Interrupted, rows_of, to_device
from workers.methods.checkpoint import Checkpoint
from workers.methods.curve import Curves, Schedule
from workers.methods.rotation import AbstractRotation, ParametrizedRotation, TangentRotation

ROTATIONS: Final[Mapping[str, type[Any]]] = {"suffix": TangentRotation, "reference": ParametrizedRotation}

log = logging.getLogger(__name__)


class AbstractMasks(ABC):
    """The masks of C cells at one position: how much of each rotated dimension a variable takes from the source."""

    parameter: nn.Parameter | None = None  # what they learn, and how fast
    learning_rate: float = 0.0

    @abstractmethod
    def at(self, share: float) -> Tensor:
        """mask_CVD when `share` (0 to 1) of the training is over, differentiable in the parameter."""

    def final(self) -> Tensor:
        """mask_CVD of what has been learned."""
        return self.at(1.0)

    @abstractmethod
    def penalty(self, share: float) -> Tensor:
        """penalty_C, added to the loss when `share` of the training is over."""

    @abstractmethod
    def finish_step(self) -> None:
        """Bring the parameter back into its range after the optimizer has moved it."""

    @property
    @abstractmethod
    def n_directions(self) -> int:
        """How many of the rotated dimensions, the first ones, an alignment must keep."""

    @abstractmethod
    def widths(self) -> list[tuple[tuple[float, ...], int]]:
        """Each cell's boundary (a fraction of D for each variable; empty where none is learned) and dimensions."""


MakeMasks = Callable[[int, int], AbstractMasks]
MakeRotations = Callable[[FitContext, Sequence[CellGroup]], list[AbstractRotation]]


class _ColumnTraining:
    """Cells of one position and width while they learn. Every sum is over one cell: none sees another."""

    def __init__(self, group: CellGroup, masks: AbstractMasks, rotation: AbstractRotation) -> None:
        self.group, self.cells, self.masks, self.rotation = group, group.cells, masks, rotation

    def logits(self, forward: AbstractForward, variable_B: Tensor, share: float) -> Tensor:
        """logits_CMV under the intervention, at the labels' tokens."""
        mask_CBD = self.masks.at(share)[:, variable_B]
        if self.group.n_blocks == 1:
            return forward.intervene(self.group.places, lambda base, source: self.rotation.mix(base, source, mask_CBD))

        def mix(base_1BD: Tensor, source_1BD: Tensor) -> Tensor:
            base_NBW, source_NBW = (_parts(values, self.group.n_blocks) for values in (base_1BD, source_1BD))
            return self.rotation.mix(base_NBW, source_NBW, mask_CBD).permute(1, 0, 2).flatten(1)[None]

        return forward.intervene(self.group.places, mix)

    @torch.no_grad()
    def learned(self) -> Learned:
        """What has been learned, frozen."""
        mask_CVD = self.masks.final()
        mask_CVD = torch.where(mask_CVD > MASK_FLOOR, mask_CVD, 0.0)
        learned = self.rotation.learned(mask_CVD, self.masks.n_directions)
        return together(learned) if self.group.n_blocks > 1 and isinstance(learned, Alignment) else learned

    def widths(self) -> list[tuple[tuple[float, ...], int]]:
        """Each cell's boundary and dimensions; of one with several subspaces, all boundaries and the sum."""
        widths = self.masks.widths()
        if self.group.n_blocks == 1:
            return widths
        return [(tuple(share for boundary, _ in widths for share in boundary), sum(size for _, size in widths))]


def _parts(values_1BD: Tensor, n_parts: int) -> Tensor:
    """values_NBW: the parts of one cell's vector, as if each were a cell."""
    return values_1BD[0].unflatten(-1, (n_parts, -1)).permute(1, 0, 2).contiguous()


def learned_rotations(context: FitContext, groups: Sequence[CellGroup]) -> list[AbstractRotation]:
    """A rotation to learn for each cell, beginning at a random one that depends on its key alone."""
    kind = ROTATIONS[context.cohort.stream.engine]
    return [
        kind(
            torch.stack(
                [random_rotation(name, group.width // group.n_blocks, context.device) for name in part_names(group)]
            )
        )
        for group in groups
    ]


class Training:
    """A cohort's training. `make_masks` gives the masks of a number of cells of one width, `make_rotations` the bases
    of each group's cells in which they are masks."""

    def __init__(self, context: FitContext, make_masks: MakeMasks, make_rotations: MakeRotations) -> None:
        settings = context.settings
        self.context = context
        groups = context.groups
        self.columns = [
            _ColumnTraining(
                group, make_masks(len(group.cells) * group.n_blocks, group.width // group.n_blocks), rotation
            )
            for group, rotation in zip(groups, make_rotations(context, groups), strict=True)
        ]
        self.batch_size: int = min(settings["batch_size"], len(context.train))
        self.steps_per_epoch = -(-len(context.train) // self.batch_size)
        self.n_steps: int = settings["epochs"] * self.steps_per_epoch
        self.optimizer = torch.optim.Adam(list(self._parameter_groups()), fused=True)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, self._rate)
        self.step = 0
        self.tail_loss = [torch.zeros(len(column.cells), device=context.device) for column in self.columns]
        schedule = Schedule.of(
            n_steps=self.n_steps,
            batch_size=self.batch_size,
            n_validation=len(context.validation),
            every=settings["eval_every"],
        )
        sizes = [len(column.cells) for column in self.columns]
        self.curves = Curves(sizes, schedule, self.n_steps, context.device)

    def _parameter_groups(self) -> Iterator[dict[str, Any]]:
        rotations = [parameter for column in self.columns for parameter in column.rotation.parameters]
        if rotations:
            yield {"params": rotations, "lr": self.context.settings["rotation_lr"]}
        masks = [column.masks.parameter for column in self.columns if column.masks.parameter is not None]
        if masks:
            yield {"params": masks, "lr": self.columns[0].masks.learning_rate}

    def _rate(self, step: int) -> float:
        """The share of the full learning rate at `step`: linear warm-up, then linear to zero."""
        n_warmup = int(self.context.settings["warmup"] * self.n_steps)
        if step < n_warmup:
            return step / n_warmup
        return max(0.0, (self.n_steps - step) / max(1, self.n_steps - n_warmup))

    @property
    def share(self) -> float:
        """How much of the training is over, from 0 at the first step to 1 at the last."""
        return min(1.0, self.step / max(1, self.n_steps - 1))

    @property
    def n_tail_steps(self) -> int:
        """The last tenth of the steps, over which the reported loss is averaged."""
        return max(1, self.n_steps // 10)

    def train_step(self, batch: Batch) -> None:
        """One optimizer step of every cell on `batch`, in micro-batches whose gradients add up to the batch's own."""
        monitor = self.context.monitor
        losses = [torch.zeros_like(loss) for loss in self.tail_loss]
        for start in range(0, len(batch), self.context.micro_batch):
            part = rows_of(batch, start, start + self.context.micro_batch)
            with monitor.timed("shared_forward"):
                forward = self.context.engine.forward(part.base, part.source)
            with monitor.timed("tails"):
                for column, loss_C in zip(self.columns, losses, strict=True):
                    loss_C += self._backward(column, forward, part, len(batch))
        with monitor.timed("rotation"):
            self._move()
        if self.step >= self.n_steps - self.n_tail_steps:
            for total_C, loss_C in zip(self.tail_loss, losses, strict=True):
                total_C += loss_C / self.n_tail_steps
        self.curves.add_losses(self.step, losses)
        self.step += 1

    def _backward(self, column: _ColumnTraining, forward: AbstractForward, part: Batch, n_pairs: int) -> Tensor:
        """loss_C of this part of a batch of `n_pairs`; its gradients are added up."""
        entropy_CB = part.labels.cross_entropy(column.logits(forward, part.variable_B, self.share))
        loss_C = entropy_CB.sum(dim=1) / n_pairs
        (loss_C.sum() + (column.masks.penalty(self.share) * (len(part) / n_pairs)).sum()).backward()
        return loss_C.detach()

    def _move(self) -> None:
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)
        for column in self.columns:
            column.rotation.finish_step()
            column.masks.finish_step()

    def save(self) -> None:
        """Write the checkpoint. Raises: OSError."""
        tensors = {f"loss.{index}": loss for index, loss in enumerate(self.tail_loss)}
        for index, column in enumerate(self.columns):
            if column.masks.parameter is not None:
                tensors[f"mask.{index}"] = column.masks.parameter.detach()
            tensors |= {f"column.{index}.{name}": tensor for name, tensor in column.rotation.state().items()}
        tensors |= self.curves.state()
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"adam.{index}.{name}": tensor for name, tensor in state.items()}
        started = time.perf_counter()
        self.context.checkpoint.write(Checkpoint(step=self.step, tensors=tensors))
        self.context.monitor.checkpoint_written(time.perf_counter() - started)

    def load(self, checkpoint: Checkpoint) -> None:
        """Continue from `checkpoint` as if there had been no break."""
        tensors = checkpoint.tensors
        for index, column in enumerate(self.columns):
            self.tail_loss[index].copy_(tensors[f"loss.{index}"])
            if column.masks.parameter is not None:
                with torch.no_grad():
                    column.masks.parameter.copy_(tensors[f"mask.{index}"])
            prefix = f"column.{index}."
            column.rotation.restore(
                {name.removeprefix(prefix): part for name, part in tensors.items() if name.startswith(prefix)}
            )
        self.curves.restore(tensors)
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith("adam."):
                _, index_text, key = name.split(".")
                state.setdefault(int(index_text), {})[key] = tensor
        whole = self.optimizer.state_dict()
        self.optimizer.load_state_dict({"state": state, "param_groups": whole["param_groups"]})
        self.step = checkpoint.step
        self.schedule.last_epoch = checkpoint.step
        for group, base_rate in zip(self.optimizer.param_groups, self.schedule.base_lrs, strict=True):
            group["lr"] = base_rate * self._rate(checkpoint.step)

    def fitted(self) -> list[Column]:
        """The fitted columns; a cell whose loss is not finite has its failure set."""
        return [
            Column(
                position=column.group.position,
                cells=column.cells,
                learned=column.learned(),
                facts=tuple(
                    self._facts(loss, *widths) for loss, widths in zip(loss_C.tolist(), column.widths(), strict=True)
                ),
                curves=self.curves.of_group(group),
            )
            for group, (column, loss_C) in enumerate(zip(self.columns, self.tail_loss, strict=True))
        ]

    def _facts(self, loss: float, boundary: tuple[float, ...], n_dimensions: int) -> CellFacts:
        if not np.isfinite([loss, *boundary]).all():
            return CellFacts(steps=self.step, failure=f"diverged: loss {loss}, boundary {list(boundary)}")
        return CellFacts(boundary=boundary, subspace_dim=n_dimensions, loss=loss, steps=self.step)


def batch_rows(n_pairs: int, batch_size: int, seed: int, epoch: int) -> list[NDArray[np.int64]]:
    """The pairs of each batch of an epoch, in an order that depends on seed and epoch alone."""
    order = list(range(n_pairs))
    random.Random(int(content_key(["order", seed, epoch]), 16)).shuffle(order)
    return [np.array(order[start : start + batch_size]) for start in range(0, n_pairs, batch_size)]


def _batches_from(training: Training) -> Iterator[Batch]:
    """The batches of the whole training from its present step on."""
    context, first = training.context, training.step
    for epoch in range(first // training.steps_per_epoch, context.settings["epochs"]):
        rows = batch_rows(len(context.train), training.batch_size, context.cohort.stream.seed, epoch)
        for some in rows[max(0, first - epoch * training.steps_per_epoch) :]:
            with context.monitor.timed("data"):
                batch = to_device(context.train.take(some).by_length(), context.device)
            yield batch


def train(
    context: FitContext, make_masks: MakeMasks, make_rotations: MakeRotations = learned_rotations
) -> list[Column]:
    """The cohort's cells, trained side by side from the furthest checkpoint on. Raises: Interrupted."""
    training = _resumed(context, make_masks, make_rotations)
    monitor, n_cells = context.monitor, len(context.cohort.cells)
    monitor.resumed(cell_steps=training.step * n_cells)
    for batch in _batches_from(training):
        training.train_step(batch)
        if training.curves.is_due(training.step):
            with monitor.timed("validation"):
                monitor.report(_validation_iia(training))
        try:
            monitor.advance(cell_steps=n_cells, pairs=len(batch) * n_cells)
        except Interrupted:
            training.save()
            raise
        if monitor.checkpoint_due():
            training.save()
    return training.fitted()


def _resumed(context: FitContext, make_masks: MakeMasks, make_rotations: MakeRotations) -> Training:
    """The training as the furthest checkpoint left it; from its beginning where there is none that fits."""
    training = Training(context, make_masks, make_rotations)
    checkpoint = context.checkpoint.furthest()
    if checkpoint is None:
        return training
    try:
        training.load(checkpoint)
    except (KeyError, RuntimeError, ValueError) as error:  # another version's tensors, other names or shapes
        if isinstance(error, torch.OutOfMemoryError):
            raise
        log.warning("a checkpoint of %d steps is set aside, its cells begin again: %s", checkpoint.step, error)
        return Training(context, make_masks, make_rotations)
    log.info("resumed at step %d of %d", training.step, training.n_steps)
    return training


@torch.no_grad()
def _validation_iia(training: Training) -> Mapping[str, float]:
    """The best cell's IIA on the validation pairs, and the mean over cells; each cell's goes into the curves."""
    context, n_pairs = training.context, training.curves.schedule.n_pairs
    pairs = to_device(context.validation.take(slice(n_pairs)).by_length(), context.device)
    correct: list[Tensor] = [torch.zeros(len(column.cells), device=context.device) for column in training.columns]
    for start in range(0, n_pairs, context.micro_batch):
        part = rows_of(pairs, start, start + context.micro_batch)
        forward = context.engine.forward(part.base, part.source)
        for column, n_correct_C in zip(training.columns, correct, strict=True):
            n_correct_C += part.labels.are_said(column.logits(forward, part.variable_B, training.share)).sum(dim=1)
    training.curves.add_correct(training.step, correct)
    shares = torch.cat(correct) / n_pairs
    return {"iia": float(shares.max()), "iia_mean": float(shares.mean())}
