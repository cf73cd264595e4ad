"""The paper's figure with matplotlib: the experiments side by side, layer by token position, one shared colour bar.

Drawn without pyplot and without the user's matplotlibrc, with the fonts that matplotlib ships: the same picture on
any machine. A place without a number is grey and hatched by its state; no colour of the scale ever stands for it.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

import matplotlib
import numpy as np
from matplotlib import font_manager, style
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from numpy.typing import NDArray

from orchestrator.report.heatmap import Axis, HeatMap, Over, Scale, shown_name
from orchestrator.status.cell_state import MARKS
from orchestrator.store.statistics import ALPHA
from workers.files.folder import replace_file
from workers.files.job import MAIN_SETTING
from workers.files.metrics import METRICS
from workers.files.place import BLOCK_OUTPUT

DPI: Final = 200
COLOURS: Final = {Scale.RAW: "viridis", Scale.NORMALISED: "viridis", Scale.EXCESS: "RdBu_r"}
STYLE: Final[dict[str, Any]] = {
    "font.size": 8,
    "font.family": "DejaVu Sans",
    "axes.titlesize": 9,
    "axes.linewidth": 0.6,
    "axes.edgecolor": "#444444",
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "hatch.linewidth": 0.5,
    "pdf.fonttype": 42,  # TrueType, embedded: what journals ask for
    "svg.fonttype": "path",
}
_CELL_IN: Final = (0.19, 0.30)  # width and height of one place
_MARGINS_IN: Final = {"left": 0.5, "right": 0.72, "top": 0.86, "gap": 0.2}
_MIN_WIDTH_IN: Final = 4.9  # width of the legend's longest line
_LETTER_IN: Final = 0.068  # width of a letter of an axis label, rounded up
_LEGEND_IN: Final = {"line": 0.19, "pad": 0.1}
_LEGEND_COLUMNS: Final = 6  # states a line: what the narrowest figure holds
_MAX_LABEL: Final = 18  # letters
_INK, _FAINT, _GRID_LINE = "#1a1a1a", "#666666", "#ffffff"


def draw(maps: Sequence[HeatMap], *, scale: Scale, over: Over, limits: tuple[float, float]) -> Figure:
    """The figure of maps that share model, method, setting and metric. `limits` are the ends of the colour scale."""
    with style.context(["default", STYLE]):
        entries = _legend_entries(maps, over)
        figure, panels, bar = _frame(maps, legend_lines=len(entries))
        colours = matplotlib.colormaps[COLOURS[scale]].with_extremes(bad=(0, 0, 0, 0))
        for index, (axes, item) in enumerate(zip(panels, maps, strict=True)):
            values = item.values(scale, over)
            numbers = np.ma.masked_invalid(values)
            axes.pcolormesh(numbers, cmap=colours, vmin=limits[0], vmax=limits[1], edgecolors=_GRID_LINE, linewidth=0.5)
            draw_states(axes, item.states(over))
            draw_better(axes, item.better(over))
            _label(axes, item, values, scale=scale, is_first=index == 0)
        figure.colorbar(panels[0].collections[0], cax=bar).outline.set_visible(False)
        _head(figure, maps, scale, over)
        _legend(figure, entries)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write the figure to `path`, whole or not at all, in the format of its suffix. Raises: OSError."""
    content = io.BytesIO()
    metadata = {"CreationDate": None} if path.suffix == ".pdf" else {}  # equal results, equal bytes
    with style.context(["default", STYLE]):
        figure.savefig(content, format=path.suffix[1:], dpi=DPI, metadata=metadata)
    replace_file(path, content.getvalue())


def unit_name(metric: str, scale: Scale) -> str:
    """What the numbers of a map are, for a colour bar."""
    about = METRICS[metric]
    if scale is Scale.NORMALISED:
        return f"{about.title}, normalised (0 = majority label, 1 = task accuracy)"
    if scale is Scale.RAW:
        return about.label
    if about.changes_model:
        return f"{about.title} above its controls"
    return f"{about.title}: {'below' if about.best == 'lowest' else 'above'} {about.null}"


def described(maps: Sequence[HeatMap], over: Over) -> list[str]:
    """What maps of one picture share beside their unit: model, method, choice over seeds, setting, site, units."""
    first, n_seeds = maps[0], max(len(item.seeds) for item in maps)
    parts = [first.model] if first.model else []
    parts += [shown_name(first.method), f"{over.value} over {n_seeds} seeds" if n_seeds > 1 else "one seed"]
    if first.setting != MAIN_SETTING:
        parts.append(f"setting {shown_name(first.setting)}")
    if first.site != BLOCK_OUTPUT:
        parts.append(shown_name(first.site))
    if first.axis is Axis.UNIT:
        parts.append(f"{first.unit_name}s at position {first.at}")
    elif first.unit_name:
        parts.append(f"the best {first.unit_name} of each place")
    return parts


def _frame(maps: Sequence[HeatMap], *, legend_lines: int) -> tuple[Figure, list[Any], Any]:
    """A figure in inches, so that each place is as large as any other whatever the grid; its panels; its colour bar."""
    cell_w, cell_h = _CELL_IN
    margin = _MARGINS_IN
    widths = [max(2.47, cell_w * len(item.columns)) for item in maps]
    height = max(1.2, cell_h * max(len(item.layers) for item in maps))
    longest = max(len(label) for item in maps for label in axis_labels(item))
    bottom = longest * _LETTER_IN + (legend_lines + 0.5) * _LEGEND_IN["line"] + _LEGEND_IN["pad"]
    total_w = max(_MIN_WIDTH_IN, margin["left"] + sum(widths) + margin["gap"] * (len(maps) - 1) + margin["right"])
    total_h = bottom + height + margin["top"]
    figure = Figure(figsize=(total_w, total_h), facecolor="white")
    panels, left = [], margin["left"]
    for width in widths:
        panels.append(figure.add_axes((left / total_w, bottom / total_h, width / total_w, height / total_h)))
        left += width + margin["gap"]
    bar_left = left - margin["gap"] + 0.15
    bar = figure.add_axes((bar_left / total_w, bottom / total_h, 0.11 / total_w, height / total_h))
    return figure, panels, bar


def draw_states(axes: Any, states: Any) -> None:
    """The faces of places without a number in `axes`."""
    for layer, position in zip(*np.nonzero((states != "done") & (states != "")), strict=True):
        mark = MARKS[states[layer, position]]
        corner = (position, layer)
        axes.add_patch(
            Rectangle(corner, 1, 1, facecolor=mark.light, edgecolor="#777777", hatch=mark.hatch, linewidth=0)
        )
        axes.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor="#d8d8d8", linewidth=0.5))


def draw_better(axes: Any, better: Any) -> None:
    """The dots of places that beat "no intervention"."""
    layers, positions = np.nonzero(better)
    axes.scatter(positions + 0.5, layers + 0.5, s=3.2, c="white", edgecolors="black", linewidths=0.35, zorder=3)


def _label(axes: Any, item: HeatMap, values: NDArray[np.float64], *, scale: Scale, is_first: bool) -> None:
    """The panel's name, its best place, and its axes. A `$` in a token begins no formula."""
    labels = axis_labels(item)
    axes.set_title(drawable(shown_name(item.experiment)), loc="left", pad=14, color=_INK, parse_math=False)
    if np.isfinite(values).any():
        is_lowest = item.best == "lowest" and scale is Scale.RAW
        layer, position = np.unravel_index((np.nanargmin if is_lowest else np.nanargmax)(values), values.shape)
        where = f"layer {item.layers[layer]}, {item.column_name} {labels[position]}"
        text = f"{'lowest' if is_lowest else 'highest'} {values[layer, position]:.3f}, {where}"
        style = {"fontsize": 6.5, "color": _FAINT, "parse_math": False}
        axes.annotate(text, (0, 1), (0, 4), "axes fraction", "offset points", **style)
    axes.set_xlim(0, len(item.columns))
    axes.set_ylim(0, len(item.layers))
    axes.set_xticks(np.arange(len(labels)) + 0.5, labels, rotation=90, parse_math=False)
    axes.set_yticks(np.arange(len(item.layers)) + 0.5, [str(layer) for layer in item.layers] if is_first else [])
    for side in axes.spines.values():
        side.set_visible(False)
    if is_first:
        axes.set_ylabel("layer")


def axis_labels(item: HeatMap) -> list[str]:
    """The columns' labels, each cut to a length that an axis has room for."""
    labels = [drawable(label) for label in item.axis_labels()]
    return [label if len(label) <= _MAX_LABEL else label[: _MAX_LABEL - 1] + "…" for label in labels]


def _head(figure: Figure, maps: Sequence[HeatMap], scale: Scale, over: Over) -> None:
    """What the picture shows: the unit, and below it what else its maps share."""
    width, height = figure.get_size_inches()
    left = _MARGINS_IN["left"] / width
    unit = unit_name(maps[0].metric, scale)
    figure.text(left, 1 - 0.12 / height, unit, va="top", fontweight="bold", color=_INK)
    figure.text(
        left, 1 - 0.28 / height, drawable(" · ".join(described(maps, over))), va="top", color=_FAINT, parse_math=False
    )


def _legend_entries(maps: Sequence[HeatMap], over: Over) -> list[list[Any]]:
    """The marks that occur, a list a line, lowest first; none where every place has a number and no dot."""
    lines: list[list[Any]] = []
    if any(item.better(over).any() for item in maps):
        label = f"more often right than without intervention (exact McNemar, Holm over the map, {ALPHA})"
        dot = Line2D([], [], linestyle="none", marker="o", markersize=2.6, label=label)
        dot.set(markerfacecolor="white", markeredgecolor="black", markeredgewidth=0.5)
        lines.append([dot])
    states = np.concatenate([item.states(over).ravel() for item in maps])
    patches = [
        Patch(facecolor=mark.light, edgecolor="#777777", hatch=mark.hatch, linewidth=0.4, label=state.label)
        for state, mark in MARKS.items()
        if state.value in states
    ]
    lines += [patches[start : start + _LEGEND_COLUMNS] for start in range(0, len(patches), _LEGEND_COLUMNS)]
    return lines


def _legend(figure: Figure, lines: Sequence[list[Any]]) -> None:
    width, height = figure.get_size_inches()
    for index, handles in enumerate(lines):
        corner = (_MARGINS_IN["left"] / width, (_LEGEND_IN["pad"] / 2 + index * _LEGEND_IN["line"]) / height)
        figure.legend(
            handles=handles,
            ncols=len(handles),
            loc="lower left",
            bbox_to_anchor=corner,
            columnspacing=1.4,
            handlelength=1.8 if isinstance(handles[0], Patch) else 1.0,
            frameon=False,
            fontsize=7,
            borderpad=0,
            borderaxespad=0,
        )


@cache
def _drawable_letters() -> frozenset[int]:
    font = FT2Font(font_manager.findfont("DejaVu Sans", fallback_to_default=False))
    return frozenset(font.get_charmap())


def drawable(text: str) -> str:
    """The text with letters that the font lacks as code points: a picture shows them, and draws no empty boxes."""
    return "".join(letter if ord(letter) in _drawable_letters() else f"U+{ord(letter):04X}" for letter in text)
