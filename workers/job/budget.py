"""A job keeps to the sweep's budget: it begins nothing once that is spent. What it has begun is finished."""

from __future__ import annotations

import time
from typing import Final

from workers.files.budget import Meter, read_budget, why_reached
from workers.files.folder import SweepFolder

_EVERY_S: Final = 10.0  # between two looks: cells of some methods take less than a second


class BudgetSpent(Exception):
    """Nothing new may begin in this sweep."""


class BudgetWatch:
    """Asked before each group of cells."""

    def __init__(self, folder: SweepFolder) -> None:
        self._folder, self._meter = folder, Meter(folder)
        self._looked = -_EVERY_S

    def check(self) -> None:
        """Raises: BudgetSpent. A budget that cannot be read counts as spent: nobody meant no limit by it."""
        now = time.monotonic()
        if now - self._looked < _EVERY_S:
            return
        self._looked = now
        try:
            budget = read_budget(self._folder)
        except (OSError, ValueError) as error:
            raise BudgetSpent(
                f"{error}; write it anew: causalsweep limit {self._folder.root.name} --gpu-hours H"
            ) from None
        if budget is not None and (why := why_reached(budget, self._meter.spent_h())):
            raise BudgetSpent(f"{why}; to raise it: causalsweep limit {self._folder.root.name} --gpu-hours H")
