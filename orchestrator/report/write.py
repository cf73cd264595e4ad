"""The report of a sweep: pictures and one HTML page, from the store and the planned grid."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import pandas as pd

from orchestrator.report import figures
from orchestrator.report.asked import Asked
from orchestrator.report.heatmap import Axis, HeatMap, Over, Scale, drawn_maps, shown_name, value_range
from orchestrator.report.model_curves import draw_models, model_lines
from orchestrator.report.page import page_content, render
from orchestrator.report.site_bars import draw_sites
from orchestrator.report.traces import Traces
from orchestrator.store.metrics import Metric
from workers.files.folder import replace_file
from workers.files.job import MAIN_SETTING
from workers.files.metrics import DECODING, IIA
from workers.files.place import BLOCK_OUTPUT


def write_report(
    rows: pd.DataFrame,
    grid: pd.DataFrame,
    folder: Path,
    *,
    title: str,
    baselines: Mapping[str, str] | None = None,
    metric: Metric = Metric.IIA,
    asked: Asked | None = None,
    traces: Traces | None = None,
) -> Path:
    """The path of `index.html` in `folder`, written anew with the pictures in `folder/figures`.

    `rows` is the store (columns of `workers.files.shard.SHARD_SCHEMA`, one row a cell key and setting). `grid` has one
    line a planned cell: cell_key, experiment, hypothesis, layer, position, token, seed, method, state, reason, job, and
    perhaps `metric`, what its method measures, and `model`, what its model is called. Its order is the order of the
    maps, and its names are those shown.
    `baselines`, `metric`: see `summary`. `asked`, `traces`: the spec and a prompt, and how cells learned, for the page.

    Raises: OSError when the folder cannot be written; ValueError for a baseline that is no experiment, or where two
    cells of the grid would be one place and seed of one map.
    """
    content = page_content(rows, grid, title=title, baselines=baselines, metric=metric, asked=asked, traces=traces)
    drawn = _draw_all(drawn_maps(content.maps), folder) | _draw_sites(content.summary, folder)
    drawn |= _draw_models(content.summary, folder)
    content = replace(content, figures=drawn)
    path = folder / "index.html"
    replace_file(path, render(content))
    return path


def _draw_all(maps: Sequence[HeatMap], folder: Path) -> dict[str, dict[str, str]]:
    """The pictures of each method and setting: what one shows, and its path in `folder`."""
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    limits = {
        (metric, scale): value_range([item for item in maps if item.metric == metric], scale)
        for metric in {item.metric for item in maps}
        for scale in Scale
    }
    drawn: dict[str, dict[str, str]] = {}
    models = list(dict.fromkeys(item.model for item in maps))
    slugs = _slugs(models)

    def picture_of(item: HeatMap) -> tuple[Any, ...]:
        is_further = item.setting != MAIN_SETTING
        return models.index(item.model), item.method, is_further, item.setting, *_where(item)

    for (_, method, _, setting, *_), group in groupby(sorted(maps, key=picture_of), key=picture_of):
        panels = list(group)
        paths = drawn[_heading(panels[0])] = {}
        for scale, over in _pictures(panels):
            figure = figures.draw(panels, scale=scale, over=over, limits=limits[panels[0].metric, scale])
            place = "".join(f"_{part}" for part in _where(panels[0]) if part not in ("", BLOCK_OUTPUT))
            model = slugs[panels[0].model]
            stem = f"{panels[0].metric}_{model}{method}_{setting}{place}_{scale.name.lower()}_{over}"
            for suffix in _suffixes(panels[0], over):
                path = f"figures/{re.sub(r'[^A-Za-z0-9._-]', '-', stem)}.{suffix}"
                figures.save(figure, folder / path)
                paths[f"{scale.name.lower()}, {over}{'' if suffix == 'png' else ' (PDF)'}"] = path
    return drawn


def _draw_sites(summary: pd.DataFrame, folder: Path) -> dict[str, dict[str, str]]:
    """A picture of the sites side by side for each method, as trained; none where a method has one site."""
    drawn: dict[str, dict[str, str]] = {}
    if summary.empty:
        return drawn
    mains, slugs = summary[summary["setting"] == MAIN_SETTING], _slugs(summary["model"])
    for (model, method), lines in mains.groupby(["model", "method"], sort=False):
        if lines["site"].nunique() > 1:
            metric, which = lines["metric"].iloc[0], f"{slugs[model]}{method}"
            name = f"sites_{which}" if metric in (IIA, DECODING) else f"sites_{metric}_{which}"
            stem = re.sub(r"[^A-Za-z0-9._-]", "-", name)
            paths = {"png": f"figures/{stem}.png", "PDF": f"figures/{stem}.pdf"}
            figure = draw_sites(lines)
            for path in paths.values():
                figures.save(figure, folder / path)
            drawn[f"{f'{model}, ' if model else ''}{shown_name(str(method))}, sites side by side"] = paths
    return drawn


def _draw_models(summary: pd.DataFrame, folder: Path) -> dict[str, dict[str, str]]:
    """A picture of the models side by side for each method; none where the sweep has one model."""
    drawn: dict[str, dict[str, str]] = {}
    every = model_lines(summary)
    if every.empty:
        return drawn
    for (method, metric), lines in every.groupby(["method", "metric"], sort=False):
        stem = re.sub(r"[^A-Za-z0-9._-]", "-", f"models_{metric}_{method}")
        paths = {"png": f"figures/{stem}.png", "PDF": f"figures/{stem}.pdf"}
        figure = draw_models(lines)
        for path in paths.values():
            figures.save(figure, folder / path)
        drawn[f"{shown_name(str(method))}, models side by side"] = paths
    return drawn


def _slugs(models: Iterable[str]) -> dict[str, str]:
    """What stands for each model in a file's name: its own name where that is one, and its number where two would be
    one; nothing where there is one model."""
    named = {model: re.sub(r"[^A-Za-z0-9._-]", "-", model) for model in dict.fromkeys(models) if model}
    taken = Counter(named.values())
    numbered = {model: slug if taken[slug] == 1 else f"{slug}-{at}" for at, (model, slug) in enumerate(named.items())}
    return {"": ""} | {model: f"{slug}_" for model, slug in numbered.items()}


def _where(item: HeatMap) -> tuple[str, str]:
    """The site of a map, and the position of one of units: the maps of one picture share both."""
    return item.site, f"p{item.cells['position'].iloc[0]:04d}" if item.axis is Axis.UNIT else ""


def _heading(item: HeatMap) -> str:
    parts = [item.model] if item.model else []
    parts += [shown_name(item.method), "as trained" if item.setting == MAIN_SETTING else shown_name(item.setting)]
    parts += [shown_name(item.site)] if item.site != BLOCK_OUTPUT else []
    parts += [f"{item.unit_name}s at position {item.at}"] if item.axis is Axis.UNIT else []
    return ", ".join(parts)


def _pictures(panels: Sequence[HeatMap]) -> Iterator[tuple[Scale, Over]]:
    """Every scale for the main setting, raw and normalised for others; the mean where there are seeds.

    A reading has no task accuracy to be scaled by; where it has a null of its own, it is shown above it too. A site has
    as many maps of units as there are positions: each gets one picture.
    """
    if panels[0].axis is Axis.UNIT:
        yield Scale.RAW, Over.MAXIMUM
        return
    is_main = panels[0].setting == MAIN_SETTING
    for scale in Scale if is_main else (Scale.RAW, Scale.NORMALISED):
        has_values = any(item.cells[scale.value].notna().any() for item in panels)
        if scale is Scale.RAW or panels[0].metric == IIA or has_values:
            yield scale, Over.MAXIMUM
            if is_main and max(len(item.seeds) for item in panels) > 1:
                yield scale, Over.MEAN


def _suffixes(item: HeatMap, over: Over) -> tuple[str, ...]:
    """PNG; for what goes into a paper also PDF."""
    return ("png", "pdf") if item.setting == MAIN_SETTING and over is Over.MAXIMUM else ("png",)
