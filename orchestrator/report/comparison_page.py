"""The page of two compared sweeps: one HTML file that opens offline, like a sweep's own."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from orchestrator.report.comparison import BOTH, SIDES, Comparison, only_in_one
from orchestrator.report.figures import COLOURS, unit_name
from orchestrator.report.heatmap import Scale, range_of, shown_name, shown_token
from orchestrator.report.html_tables import definitions, html_table, rate, with_detail
from orchestrator.report.measured import MAP_KEYS
from orchestrator.report.page import PLOTLY, colours, filled, grid_values, resource, script_json, state_colours
from orchestrator.report.provenance import provenance
from orchestrator.status.cell_state import MAPPED
from workers.data.sites import SITES
from workers.files.folder import replace_file
from workers.files.job import MAIN_SETTING
from workers.files.metrics import METRICS
from workers.files.place import BLOCK_OUTPUT

_RATES: Final = {
    **{
        f"{side}{end}": f"{name}_{side}"
        for side in SIDES
        for end, name in (("", "value"), ("_low", "low"), ("_high", "high"))
    },
    **{name: name for name in ("difference", "difference_low", "difference_high")},
}
_LABELS: Final = {state.value: state.label for state in MAPPED}
_RECORD: Final = ("seed", "token", "a_state", "b_state", "is_same", *_RATES)


def write_comparison(found: Comparison, folder: Path) -> Path:
    """The path of `index.html` in `folder`, with `cells.csv` beside it: a line a cell. Raises: OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "index.html"
    replace_file(folder / "cells.csv", found.cells.to_csv(index=False).encode())
    replace_file(path, render_comparison(found))
    return path


def render_comparison(found: Comparison) -> str:
    """The page's HTML."""
    a, b = (html.escape(side.name) for side in found.sides)
    parts = {
        "title": f"{a} and {b}",
        "lead": _lead(found),
        "a": a,
        "b": b,
        "made": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "style": state_colours() + resource("page.css"),
        "script": resource("base.js") + resource("comparison.js"),
        "plotly": resource(PLOTLY),
        "data": script_json(payload(found)),
        "maps_table": _maps_table(found),
        "specs_table": _specs_table(found),
        "provenance": "".join(
            f"<h3>{html.escape(side.name)}</h3>{definitions(provenance(side.rows))}" for side in found.sides
        ),
    }
    return filled(resource("comparison.html"), parts)


def _lead(found: Comparison) -> str:
    if found.is_one_model:
        return "Two sweeps of one model, map by map: each sweep's numbers, and the difference where both have measured."
    models = " and ".join(
        f"{html.escape(side.name)}: {html.escape(', '.join(sorted(set(side.rows['model'].dropna()))))}, "
        f"{', '.join(found[:12] for _, found in side.fingerprints)}"
        for side in found.sides
    )
    return (
        f"Two sweeps of two models ({models}). A layer or a token of one is none of the other, so that nothing is "
        "subtracted here, and each sweep has a colour scale of its own."
    )


def payload(found: Comparison) -> dict[str, Any]:
    """What the script draws from: plain JSON values, absent numbers as null."""
    texts: dict[str, int] = {}
    drawn = list(_drawn(found))
    kinds = list(dict.fromkeys(kind for kind, _, _ in drawn))
    metrics = dict.fromkeys(found.cells["metric"]) if len(found.cells) else {}
    return {
        "names": dict(zip(SIDES, (side.name for side in found.sides), strict=True)),
        "is_one_model": found.is_one_model,
        "record": _RECORD,
        "kinds": kinds,
        "colours": {side: colours(COLOURS[Scale.RAW]) for side in SIDES}
        | {"difference": colours(COLOURS[Scale.EXCESS])},
        "scales": {metric: _scales(found, metric) for metric in metrics},
        "maps": [_map(cells, kinds.index(kind), counts, texts) for kind, counts, cells in drawn],
        "texts": list(texts),
    }


def _drawn(found: Comparison) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Each map to draw: what kind it is of, its counts in words, and its cells; those of units by position."""
    names = [side.name for side in found.sides]
    groups = dict(list(found.cells.groupby([*MAP_KEYS, "metric"], sort=False)))
    for line in found.maps.to_dict("records"):
        cells = groups[tuple(line[key] for key in (*MAP_KEYS, "metric"))]
        cells = cells[cells["layer"].notna()]  # a set of places has nothing to draw
        counts = _counts(line, names, is_one_model=found.is_one_model)
        parts = [shown_name(line["method"])]
        parts += [shown_name(line["site"])] if line["site"] != BLOCK_OUTPUT else []
        parts.append("as trained" if line["setting"] == MAIN_SETTING else shown_name(line["setting"]))
        has_units = cells["unit"].notna()
        if (~has_units).any():
            yield ", ".join(parts), counts, cells[~has_units]
        for position, part in cells[has_units].groupby("position"):
            yield ", ".join([*parts, f"at position {position}"]), counts, part


def _counts(line: Mapping[str, Any], names: Sequence[str], *, is_one_model: bool) -> str:
    if not is_one_model:
        return ", ".join(
            f"{line[f'n_{side}'] + line['n_both']:,} cells in {name}" for side, name in zip(SIDES, names, strict=True)
        )
    alone = only_in_one(line, names)
    return f"{line['n_both']:,} cells in both" + (f", {alone}" if alone else "")


def _scales(found: Comparison, metric: str) -> dict[str, Any]:
    cells, about = found.cells[found.cells["metric"] == metric], METRICS[metric]
    values = [cells[f"value_{side}"].dropna() for side in SIDES]
    pooled = [pd.concat(values)] * 2 if found.is_one_model else values
    ranges = [range_of(one, metric, Scale.RAW) for one in pooled]
    ranges.append(range_of(cells["difference"].dropna(), metric, Scale.EXCESS))
    ends = {name: [round(end, 4) for end in ends] for name, ends in zip((*SIDES, "difference"), ranges, strict=True)}
    titles = {"title": about.title, "unit": unit_name(metric, Scale.RAW)}
    return ends | titles | {"is_share": about.is_share, "best": about.best}


def _map(cells: pd.DataFrame, kind: int, counts: str, texts: dict[str, int]) -> dict[str, Any]:
    """One map: its axes, the grids, and the cells of each place in the order of `_RECORD`."""
    column = "unit" if cells["unit"].notna().any() else "position"
    layers, columns = (sorted(map(int, cells[name].unique())) for name in ("layer", column))
    at_layer, at_column = ({value: at for at, value in enumerate(values)} for values in (layers, columns))
    places: dict[tuple[int, int], list[dict[str, Any]]] = {}
    for line in cells.sort_values("seed", kind="stable").to_dict("records"):
        places.setdefault((at_layer[line["layer"]], at_column[line[column]]), []).append(line)
    shape = (len(layers), len(columns))
    grids = {name: np.full(shape, math.nan) for name in (*SIDES, "difference")}
    marks = np.full(shape, "", dtype=object)
    records: list[list[list[Any]]] = [[[] for _ in columns] for _ in layers]
    tokens: dict[int, str] = {}
    for (y, x), lines in places.items():
        for name, value in _shown(lines).items():
            grids[name][y, x] = value
        marks[y, x] = _mark(lines)
        records[y][x] = [_record(line, texts) for line in lines]
        tokens.setdefault(columns[x], shown_token(lines[0]["token"]))
    first = cells.iloc[0]
    labels = [f"{at} {tokens[at]}" if column == "position" else str(at) for at in columns]
    unit = SITES[first["site"]].unit_name if first["site"] in SITES else "unit"
    return {
        "kind": kind,
        "name": shown_name(first["experiment"]),
        "metric": first["metric"],
        "counts": counts,
        "column_name": "position" if column == "position" else unit,
        "layers": layers,
        "columns": columns,
        "labels": labels,
        **{name: grid_values(grid) for name, grid in grids.items()},
        "mark": marks.tolist(),
        "cells": records,
    }


def _shown(lines: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """What a place shows: the means over the seeds that both sweeps have, or over its own where there is none."""
    both = [line for line in lines if line["where"] == BOTH]
    means = {side: _mean([line[f"value_{side}"] for line in both or lines]) for side in SIDES}
    return means | {"difference": _mean([line["difference"] for line in both])}


def _mean(values: Iterable[float]) -> float:
    known = [value for value in values if math.isfinite(value)]
    return sum(known) / len(known) if known else math.nan


def _mark(lines: Sequence[Mapping[str, Any]]) -> str:
    """`differs`, the sweep that alone has measured a place, or nothing."""
    if any(line["differs"] for line in lines):
        return "differs"
    wheres = {line["where"] for line in lines} - {""}
    return wheres.pop() if len(wheres) == 1 and BOTH not in wheres else ""


def _record(line: Mapping[str, Any], texts: dict[str, int]) -> list[Any]:
    states = [line[f"state_{side}"] for side in SIDES]
    labels = [_LABELS[state] if isinstance(state, str) else "" for state in states]
    said = [texts.setdefault(text, len(texts)) for text in (shown_token(line["token"]), *labels)]
    numbers = [line[name] for name in _RATES.values()]
    rounded = [round(number, 4) if math.isfinite(number) else None for number in numbers]
    return [int(line["seed"]), *said, int(line["key_a"] == line["key_b"]), *rounded]


def _maps_table(found: Comparison) -> str:
    a, b = (html.escape(side.name) for side in found.sides)
    head = ["Experiment", "Cells in both", f"Best, {a}", f"Best, {b}", f"Mean, {a}", f"Mean, {b}"]
    if found.is_one_model:
        head += ["Mean difference", "Cells that differ", "Correlation"]
    return html_table(head, (_maps_line(found, line) for line in found.maps.to_dict("records")), "No cells.")


def _maps_line(found: Comparison, line: Mapping[str, Any]) -> list[str]:
    names = [html.escape(side.name) for side in found.sides]
    parts = [shown_name(line["method"])]
    parts += [shown_name(line["site"])] if line["site"] != BLOCK_OUTPUT else []
    parts += [shown_name(line["setting"])] if line["setting"] != MAIN_SETTING else []
    parts.append(METRICS[line["metric"]].title)
    counts = [f"{line['n_same_key']:,} with the same key"] if line["n_same_key"] else []
    counts += [alone] if (alone := only_in_one(line, names)) else []
    told = [
        with_detail(html.escape(shown_name(line["experiment"])), html.escape(", ".join(parts))),
        with_detail(f"{line['n_both']:,}", "<br>".join(counts)),
        *(rate(line[f"{name}_{side}"]) for name in ("best", "mean") for side in SIDES),
    ]
    if found.is_one_model:
        ends = f"{_signed(line['difference_low'])} to {_signed(line['difference_high'])}"
        told.append(with_detail(_signed(line["difference"]), ends))
        told += [f"{line['n_differ']:,}", rate(line["correlation"], 2)]
    return told


def _signed(value: float) -> str:
    return ("+" if value > 0 else "") + rate(value)


def _specs_table(found: Comparison) -> str:
    head = ["Key", *(html.escape(side.name) for side in found.sides)]
    lines = [[f"<code>{html.escape(key)}</code>", *map(_code, values)] for key, *values in found.specs]
    return html_table(head, lines, "Nothing but the name.")


def _code(text: str) -> str:
    return f"<code class='value'>{html.escape(text)}</code>" if text else "–"
