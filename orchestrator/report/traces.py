"""What a pinned place tells beside its numbers: how its cells learned, what they do on a few pairs, and how to load
what they learned. As data for the page's script: texts, pairs and steps that cells share are there once."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

_SHARED: Final = ("base", "source", "variable", "label")


@dataclass(frozen=True, slots=True, kw_only=True)
class Traces:
    """Each cell's trace (`workers.files.traces`) by its key, and the cells whose alignment can be loaded."""

    cells: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    aligned: Collection[str] = frozenset()


class TracePayload:
    """The traces of the cells that a page asks for."""

    def __init__(self, traces: Traces) -> None:
        self._traces = traces
        self._texts: dict[str, int] = {}
        self._pairs: dict[str, int] = {}
        self._steps: dict[str, int] = {}
        self._cells: list[list[Any]] = []
        self._number_of: dict[str, int] = {}

    def number_of(self, key: str) -> int | None:
        """The number of a cell's entry; None where nothing is known of it."""
        trace = self._traces.cells.get(key)
        is_aligned = key in self._traces.aligned
        if trace is None and not is_aligned:
            return None
        if key not in self._number_of:
            self._number_of[key] = len(self._cells)
            self._cells.append([int(is_aligned), *self._entry(trace or {})])
        return self._number_of[key]

    def document(self) -> dict[str, Any]:
        """Plain values. A cell is [is_aligned, loss steps, losses, IIA steps, right answers, of how many, pairs,
        answers before, answers after], with numbers of steps, pairs and texts in place of these."""
        return {
            "texts": list(self._texts),
            "pairs": [json.loads(pairs) for pairs in self._pairs],
            "steps": [json.loads(steps) for steps in self._steps],
            "cells": self._cells,
        }

    def _entry(self, trace: Mapping[str, Any]) -> list[Any]:
        losses = [float(f"{loss:.4g}") for loss in trace.get("loss") or ()]
        return [
            self._shared(self._steps, trace.get("loss_step")),
            losses,
            self._shared(self._steps, trace.get("iia_step")),
            trace.get("iia_n_correct") or [],
            trace.get("iia_n_total") or 0,
            self._shared(self._pairs, self._examples(trace)),
            *([self._text(text) for text in trace.get(name) or ()] for name in ("before", "after")),
        ]

    def _examples(self, trace: Mapping[str, Any]) -> list[list[int]] | None:
        """Base, source, variable and label of each pair, as numbers of texts."""
        if not trace.get("base"):
            return None
        return [[self._text(text) for text in texts] for texts in zip(*(trace[name] for name in _SHARED), strict=True)]

    def _text(self, text: str) -> int:
        return self._texts.setdefault(text, len(self._texts))

    @staticmethod
    def _shared(known: dict[str, int], value: Any) -> int | None:
        """The number of a value that many cells have."""
        return known.setdefault(json.dumps(value), len(known)) if value else None
