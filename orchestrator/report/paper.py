"""Maps for a paper or a notebook: one row of panels at a given width, no letter below 7 pt, values in small maps.

The page's pictures (`figures`) take the room that they need; here the width is given, and the rest follows from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib
import numpy as np
from matplotlib import style
from matplotlib.figure import Figure

from orchestrator.report.figures import (
    COLOURS,
    STYLE,
    axis_labels,
    described,
    draw_better,
    draw_states,
    drawable,
    save,
    unit_name,
)
from orchestrator.report.heatmap import HeatMap, Over, Scale, shown_name, value_range
from workers.files.metrics import DECODING, IIA
from workers.files.place import BLOCK_OUTPUT

SMALLEST_PT: Final = 7.0
_STYLE: Final[dict[str, Any]] = STYLE | {"font.size": SMALLEST_PT, "axes.titlesize": 8}
_PT_IN: Final = 1 / 72
_LETTER_IN: Final = 0.62 * SMALLEST_PT * _PT_IN  # width of a letter, on average
_LINE_IN: Final = 1.25 * SMALLEST_PT * _PT_IN
_VALUE_IN: Final = 3.4 * _LETTER_IN  # what `.81` needs
_LEFT_IN, _RIGHT_IN, _GAP_IN, _TOP_IN = 0.42, 0.62, 0.16, 0.5
_CELL_H_IN: Final = 0.2
_MOST_H_IN: Final = 4.0


def draw_row(
    maps: Sequence[HeatMap], *, width_in: float, scale: Scale, over: Over, limits: tuple[float, float]
) -> Figure:
    """Maps side by side in a figure of this width, with one colour bar.

    Raises: ValueError where the panels would be narrower than an inch.
    """
    panel_in = (width_in - _LEFT_IN - _RIGHT_IN - _GAP_IN * (len(maps) - 1)) / len(maps)
    if panel_in < 1.0:
        raise ValueError(f"width: {width_in:g} in for {len(maps)} maps; each needs an inch beside the margins")
    height_in = min(_CELL_H_IN * max(len(item.layers) for item in maps), _MOST_H_IN)
    longest = max(len(label) for item in maps for label in axis_labels(item))
    bottom_in = longest * _LETTER_IN + 0.12
    total_in = bottom_in + height_in + _TOP_IN
    with style.context(["default", _STYLE]):
        figure = Figure(figsize=(width_in, total_in), facecolor="white")
        for index, item in enumerate(maps):
            left = _LEFT_IN + index * (panel_in + _GAP_IN)
            box = (left / width_in, bottom_in / total_in, panel_in / width_in, height_in / total_in)
            axes = figure.add_axes(box)
            draw_panel(axes, item, scale=scale, over=over, limits=limits)
            axes.set_ylabel("layer" if index == 0 else "")
            if index:
                axes.set_yticklabels([])
        bar_left = (width_in - _RIGHT_IN + 0.1) / width_in
        bar = figure.add_axes((bar_left, bottom_in / total_in, 0.1 / width_in, height_in / total_in))
        figure.colorbar(figure.axes[0].collections[0], cax=bar).outline.set_visible(False)
        figure.text(_LEFT_IN / width_in, 1 - 0.06 / total_in, _head(maps, scale, over), va="top", parse_math=False)
    return figure


def draw_panel(axes: Any, item: HeatMap, *, scale: Scale, over: Over, limits: tuple[float, float]) -> None:
    """One map in `axes` of matplotlib: fewer labels where they would touch, values where they fit."""
    values = item.values(scale, over)
    colours = matplotlib.colormaps[COLOURS[scale]].with_extremes(bad=(0, 0, 0, 0))
    numbers = np.ma.masked_invalid(values)
    mesh = axes.pcolormesh(numbers, cmap=colours, vmin=limits[0], vmax=limits[1], edgecolors="white", linewidth=0.4)
    draw_states(axes, item.states(over))
    n_layers, n_columns = values.shape
    box = axes.get_window_extent().transformed(axes.figure.dpi_scale_trans.inverted())
    cell_w, cell_h = box.width / n_columns, box.height / n_layers
    if cell_w >= _VALUE_IN and cell_h >= _LINE_IN:
        _print_values(axes, values, mesh)
    else:
        draw_better(axes, item.better(over))
    axes.set_title(drawable(shown_name(item.experiment)), loc="left", parse_math=False)
    axes.set_xlim(0, n_columns)
    axes.set_ylim(0, n_layers)
    _ticks(axes.set_xticks, axis_labels(item), cell_w, rotation=90)
    _ticks(axes.set_yticks, [str(layer) for layer in item.layers], cell_h, rotation=0)
    for side in axes.spines.values():
        side.set_visible(False)


def write_figures(maps: Sequence[HeatMap], folder: Path, *, width_in: float, formats: Sequence[str]) -> list[Path]:
    """A file for each map, and one of those that differ in the experiment alone, in a row where each then has an inch
    and a half, in each format. Maps of one metric share a colour scale.

    Raises: OSError, ValueError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    alike: dict[str, list[HeatMap]] = {}
    for item in maps:
        alike.setdefault(_kind(item), []).append(item)
    rows = {f"{item.experiment}_{_kind(item)}": [item] for item in maps}
    for kind, panels in alike.items():
        if 1 < len(panels) <= (width_in - _LEFT_IN - _RIGHT_IN) / 1.5:
            rows["all" if len(alike) == 1 else f"all_{kind}"] = panels
    paths = []
    for name, panels in rows.items():
        limits = value_range([item for item in maps if item.metric == panels[0].metric], Scale.RAW)
        over = Over.MEAN if len(panels[0].seeds) > 1 else Over.MAXIMUM
        figure = draw_row(panels, width_in=width_in, scale=Scale.RAW, over=over, limits=limits)
        stem = "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in name)
        for form in formats:
            paths.append(folder / f"{stem}.{form}")
            save(figure, paths[-1])
    return paths


def _kind(item: HeatMap) -> str:
    """What tells maps of an experiment apart, for a file's name."""
    site = "" if item.site == BLOCK_OUTPUT else f"_{item.site}"
    model = f"{item.model}_" if item.model else ""
    return f"{model}{item.method}{site}" + ("" if item.metric in (IIA, DECODING) else f"_{item.metric}")


def _print_values(axes: Any, values: np.ndarray[Any, Any], mesh: Any) -> None:
    """Each value in its cell, dark on light colours and light on dark ones."""
    for (layer, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            red, green, blue, _ = mesh.cmap(mesh.norm(value))
            ink = "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else "white"
            text = f"{value:.2f}".replace("0.", ".", 1)
            axes.text(column + 0.5, layer + 0.5, text, ha="center", va="center", color=ink, fontsize=SMALLEST_PT)


def _ticks(set_ticks: Any, labels: Sequence[str], room_in: float, *, rotation: int) -> None:
    """The labels, every n-th of them where they would touch, counted from the last one."""
    every = max(1, int(np.ceil(_LINE_IN / room_in)))
    chosen = sorted(range(len(labels) - 1, -1, -every))
    set_ticks([at + 0.5 for at in chosen], [labels[at] for at in chosen], rotation=rotation, parse_math=False)


def _head(maps: Sequence[HeatMap], scale: Scale, over: Over) -> str:
    return drawable(", ".join([unit_name(maps[0].metric, scale), *described(maps, over)]))
