"""The metrics of cells that intervene: what results, tables and maps can show. docs/statistics.md says what each is."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from workers.files.metrics import METRICS

CONTROLS: Final = ("none", "full", "random")
NUMBERS: Final = ("value", "low", "high", *CONTROLS)  # a cell's, by a metric: the ends of its interval, its controls


class Metric(StrEnum):
    """What is shown of a cell: a share of its pairs, or a mean over them."""

    IIA = "iia"
    LABEL_LOGPROB = "label_logprob"
    LOGIT_DIFF = "logit_diff"
    KL = "kl"
    LOG_ODDS = "log_odds"
    FLIPS = "flips"

    @property
    def words(self) -> str:
        """What a reader calls it."""
        return METRICS[self].words

    @property
    def is_share(self) -> bool:
        """Whether it is a share of the pairs, from 0 to 1."""
        return METRICS[self].is_share
