"""The report as one HTML file that opens anywhere, offline: script, styles, data and plotly inside it.

All numbers are computed here, in Python; the script in page.js only draws and words them.
"""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import resources
from typing import Any, Final

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.colors import to_hex
from numpy.typing import NDArray

from orchestrator.report.asked import Asked, asked_section
from orchestrator.report.figures import COLOURS, unit_name
from orchestrator.report.heatmap import (
    Axis,
    HeatMap,
    Over,
    Scale,
    drawn_maps,
    heat_maps,
    shown_name,
    shown_token,
    value_range,
)
from orchestrator.report.html_tables import page_tables
from orchestrator.report.measured import measured, unplanned
from orchestrator.report.model_curves import curves
from orchestrator.report.provenance import provenance
from orchestrator.report.tables import summary_of
from orchestrator.report.traces import TracePayload, Traces
from orchestrator.status.cell_state import MARKS
from orchestrator.store.metrics import Metric
from workers.files.job import MAIN_SETTING
from workers.files.metrics import CLASS_SCORES, METRICS

# What the script is told of a cell, in this order; texts are indices into `texts`.
_TEXTS: Final = ("state", "reason", "job", "host", "gpu_name")
_COUNTS: Final = ("seed", "attempt", "n_correct", "n_total", "task_n_correct", "task_n_total", "subspace_dim", "unit")
_PAIRED: Final = ("n_only_cell", "n_only_none")
_RATES: Final = (
    *("value", "low", "high", "normalised", "none", "none_normalised", "full", "full_normalised"),
    *("random", "random_normalised", "excess", "task", "dummy", "p_holm", "q", "gpu_seconds", *CLASS_SCORES),
)
# The bundle with the charts of two axes, a third of the whole library: npm package plotly.js-cartesian-dist-min 3.7.0.
PLOTLY: Final = "vendor/plotly-cartesian.min.js"
_DRAWN: Final = ("symbol", "path", "is_filled", "is_dot")  # what the script is told of a state's mark
_RECORD: Final = (*_TEXTS, *_COUNTS, *_PAIRED, *_RATES, "trace")


@dataclass(frozen=True, slots=True, kw_only=True)
class PageContent:
    """What a page is made of. `figures` are the pictures of each method and setting: paths relative to the page,
    by what they show."""

    title: str
    maps: Sequence[HeatMap]
    summary: pd.DataFrame
    provenance: Mapping[str, str]
    n_unplanned: int
    made: datetime
    figures: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    asked: Asked | None = None
    traces: Traces = field(default_factory=Traces)


def page_content(
    rows: pd.DataFrame,
    grid: pd.DataFrame,
    *,
    title: str,
    baselines: Mapping[str, str] | None = None,
    metric: Metric = Metric.IIA,
    asked: Asked | None = None,
    traces: Traces | None = None,
) -> PageContent:
    """The content of the page of a store and its grid, without pictures. Raises: ValueError (see `write_report`)."""
    maps = heat_maps(measured(rows, grid, metric))
    return PageContent(
        title=title,
        maps=maps,
        summary=summary_of(maps, baselines=baselines),
        provenance=provenance(rows),
        n_unplanned=unplanned(rows, grid),
        made=datetime.now(UTC),
        asked=asked,
        traces=traces or Traces(),
    )


def render(content: PageContent) -> str:
    """The page's HTML."""
    traces = TracePayload(content.traces)
    parts = {
        "title": html.escape(content.title),
        "made": content.made.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "style": state_colours() + resource("page.css"),
        "script": "".join(map(resource, ("base.js", "trace.js", "card.js", "curves.js", "page.js"))),
        "plotly": resource(PLOTLY),
        "data": script_json(payload(content, traces)),
        "traces": script_json(traces.document()),
        "asked_section": asked_section(content.asked),
        **page_tables(content.maps, content.summary, content.provenance, content.figures, content.n_unplanned),
    }
    return filled(resource("page.html"), parts)


def filled(template: str, parts: Mapping[str, str]) -> str:
    """The template with each {{slot}} filled, in one pass: what is put in is never searched for further slots."""
    return re.sub(r"\{\{(\w+)\}\}", lambda slot: parts[slot[1]], template)


def script_json(value: Any) -> str:
    """JSON that is safe inside a <script>: nothing in it can end the element or open a comment."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def payload(content: PageContent, traces: TracePayload | None = None) -> dict[str, Any]:
    """What the script draws from: plain JSON values, absent numbers as null. `traces` collects those of the cells."""
    traces = traces or TracePayload(content.traces)
    texts: dict[str, int] = {}
    drawn = drawn_maps(content.maps)
    by_metric = {metric: [item for item in drawn if item.metric == metric] for metric in METRICS}
    return {
        "record": _RECORD,
        "textual": _TEXTS,
        "main": MAIN_SETTING,
        "states": {
            state.value: {"label": state.label, **{name: getattr(mark, name) for name in _DRAWN}}
            for state, mark in MARKS.items()
        },
        "scales": {
            metric: {scale.name.lower(): _scale(maps, metric, scale) for scale in Scale}
            for metric, maps in by_metric.items()
            if maps
        },
        "metrics": {
            name: {"title": METRICS[name].title, "unit": METRICS[name].unit, "best": METRICS[name].best}
            | {"null": METRICS[name].null, "is_share": METRICS[name].is_share}
            | {"changes_model": METRICS[name].changes_model}
            for name, maps in by_metric.items()
            if maps
        },
        "colours": {scale.name.lower(): colours(COLOURS[scale]) for scale in Scale},
        "maps": [_map(item, texts, traces) for item in drawn],
        "texts": list(texts),
        "curves": list(curves(content.summary)),
    }


def state_colours() -> str:
    """The faces of the states as CSS variables, light and dark."""
    light, dark = (
        " ".join(f"--{state.value}: {getattr(mark, theme)};" for state, mark in MARKS.items())
        for theme in ("light", "dark")
    )
    return f':root {{ {light} }}\n:root[data-theme="dark"] {{ {dark} }}\n'


def _scale(maps: Sequence[HeatMap], metric: str, scale: Scale) -> dict[str, Any]:
    low, high = value_range(maps, scale)
    has_values = any(item.cells[scale.value].notna().any() for item in maps)
    return {"unit": unit_name(metric, scale), "range": [round(low, 4), round(high, 4)], "has_values": has_values}


def colours(name: str) -> list[str]:
    """21 colours of a matplotlib map: the page's colours are the picture's."""
    return [to_hex(matplotlib.colormaps[name](share)) for share in np.linspace(0, 1, 21)]


def _map(item: HeatMap, texts: dict[str, int], traces: TracePayload) -> dict[str, Any]:
    choices: list[Over | int] = [*Over, *item.seeds]
    records = _records(item, texts, traces)
    return {
        "model": item.model,
        "experiment": item.experiment,
        "name": shown_name(item.experiment),
        "method": item.method,
        "setting": item.setting,
        "metric": item.metric,
        "layers": item.layers,
        "site": item.site,
        "at": item.at,
        "column_name": item.column_name,
        "unit_name": item.unit_name,
        "columns": item.columns,
        "labels": item.axis_labels(),
        "tokens": [shown_token(token) for token in item.tokens] if item.axis is Axis.POSITION else [],
        "seeds": item.seeds,
        "values": {
            scale.name.lower(): {str(over): grid_values(item.values(scale, over)) for over in choices}
            for scale in Scale
        },
        "state": {str(over): item.states(over).tolist() for over in choices},
        "better": {str(over): item.better(over).astype(int).tolist() for over in choices},
        "cells": [[records.get((layer, position), []) for position in item.columns] for layer in item.layers],
    }


def _records(
    item: HeatMap, texts: dict[str, int], traces: TracePayload
) -> dict[tuple[int, int], list[list[int | float | None]]]:
    """The cells of each place, one a seed and in the seeds' order, each in the order of `_RECORD`."""
    lines = _shown(item).sort_values("seed", kind="stable")
    columns: list[list[Any]] = [
        *([texts.setdefault(_text(value), len(texts)) for value in lines[name]] for name in _TEXTS),
        *([_number(value, digits=0) for value in lines[name]] for name in (*_COUNTS, *_PAIRED)),
        *([_number(value, digits=4) for value in lines[name]] for name in _RATES),
        [traces.number_of(key) for key in lines["cell_key"]],
    ]
    records: dict[tuple[int, int], list[list[int | float | None]]] = {}
    for layer, position, *record in zip(lines["layer"], lines[item.axis.value], *columns, strict=True):
        records.setdefault((layer, position), []).append(record)
    return records


def _shown(item: HeatMap) -> pd.DataFrame:
    """The lines that the page tells of: one a place and seed, that of the unit with the highest accuracy."""
    best_first = item.cells.sort_values("value", ascending=item.best == "lowest", kind="stable")
    return best_first.drop_duplicates(["layer", item.axis.value, "seed"])


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _number(value: float, *, digits: int) -> int | float | None:
    if not math.isfinite(value):
        return None
    return round(value, digits) if digits else int(value)


def grid_values(values: NDArray[np.float64]) -> list[list[float | None]]:
    """A map's numbers for the script: four decimals, and null where there is none."""
    return [[_number(value, digits=4) for value in line] for line in values.tolist()]


def resource(name: str) -> str:
    """A file beside this one."""
    return resources.files("orchestrator.report").joinpath(name).read_text(encoding="utf-8")
