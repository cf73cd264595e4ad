"""Requests to stop. This module imports nothing slow: a signal that comes while torch loads finds its handler."""

from __future__ import annotations

import signal
import time
from types import FrameType


class StopRequest:
    """Set by SIGTERM, SIGUSR2 or SIGINT; the training loop ends at its next step, with a checkpoint."""

    def __init__(self) -> None:
        self.signal_name = ""
        self.at = 0.0

    def install(self) -> None:
        """Catch the signals. Call from the main thread."""
        for number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if not self.signal_name:
            self.signal_name, self.at = signal.Signals(number).name, time.time()
