"""What readings find on prompts that they were not fitted on, as counts and sums: nothing is changed in the model.

Shapes, by suffix: C cells at one position, B prompts, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from workers.job.evaluate import Counts
from workers.methods.alignment import Column
from workers.methods.reading import AbstractReading, Read
from workers.methods.states import PromptStates


@torch.no_grad()
def count_read(
    states: PromptStates, columns: Sequence[Column], *, moved: Mapping[int, int] | None = None
) -> list[list[Counts]]:
    """The counts of each cell of each column of readings, on the prompts of `states`; `moved` as for `count_right`.

    Raises: NotApplicable where a reading has no meaning for these prompts.
    """
    moved = moved or {position: position for column in columns for position in column.positions}
    tallies = [_Tally(len(column.cells)) for column in columns]
    for _, run in states.runs():
        for column, tally in zip(columns, tallies, strict=True):
            assert isinstance(column.learned, AbstractReading)
            tally.add(column.learned.read(replace(run, moved=moved), column.places(moved)))
    return [tally.counts() for tally in tallies]


class _Tally:
    """What a column has read so far, summed over prompts."""

    def __init__(self, n_cells: int) -> None:
        self._n_cells = n_cells
        self._n_total = 0
        self._sums: dict[str, Tensor] = {}  # by column of a row, one a cell
        self._classes_CK3: Tensor | None = None
        self._variable_of_K: tuple[int, ...] = ()

    def add(self, read: Read) -> None:
        """Take in a batch."""
        self._n_total += read.n_counted
        for name, right_CB in (("n_correct", read.right_CB), ("n_correct_random", read.null_right_CB)):
            if right_CB is not None:
                self._sum(name, right_CB.double())
        for control, means_CB in (("", read.means_CB), ("_random", read.null_means_CB)):
            for measure, value_CB in means_CB.items():
                self._sum(f"sum_{measure}{control}", value_CB.double())
                self._sum(f"sum_{measure}_sq{control}", value_CB.double().square())
        if read.truth_CB is not None and read.said_CB is not None:
            self._add_classes(read.truth_CB, read.said_CB, read.variable_of_class)

    def _sum(self, name: str, value_CB: Tensor) -> None:
        self._sums[name] = self._sums.get(name, 0) + value_CB.sum(dim=1)

    def _add_classes(self, truth_CB: Tensor, said_CB: Tensor, variable_of_class: tuple[int, ...]) -> None:
        self._variable_of_K = variable_of_class
        at_K = torch.arange(len(variable_of_class), device=said_CB.device)
        of_CBK, said_CBK = truth_CB.expand_as(said_CB)[..., None] == at_K, said_CB[..., None] == at_K
        found_CK3 = torch.stack([of_CBK, said_CBK, of_CBK & said_CBK], dim=-1).sum(dim=1)
        self._classes_CK3 = found_CK3 if self._classes_CK3 is None else self._classes_CK3 + found_CK3

    def counts(self) -> list[Counts]:
        """Those of each cell."""
        return [self._counts_of(cell) for cell in range(self._n_cells)]

    def _counts_of(self, cell: int) -> Counts:
        sums = {name: float(sum_C[cell]) for name, sum_C in self._sums.items()}
        n_correct, n_null = (sums.pop(name, None) for name in ("n_correct", "n_correct_random"))
        classes = () if self._classes_CK3 is None else tuple(map(tuple, self._classes_CK3[cell].tolist()))
        return Counts(
            n_total=self._n_total,
            n_correct=None if n_correct is None else int(n_correct),
            n_correct_random=None if n_null is None else int(n_null),
            n_dummy=self._n_dummy(classes) if classes else None,
            sums=sums,
            classes=classes,
        )

    def _n_dummy(self, classes: tuple[tuple[int, ...], ...]) -> int:
        """Prompts of the largest class of each variable."""
        most: dict[int, int] = {}
        for variable, (n_of_it, *_) in zip(self._variable_of_K, classes, strict=True):
            most[variable] = max(most.get(variable, 0), n_of_it)
        return sum(most.values())
