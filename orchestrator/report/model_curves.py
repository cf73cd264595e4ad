"""The models side by side, in the order of the spec: of each the best value of a map, and the controls of that cell.

A curve over the checkpoints of a training, or the sizes of a family. A map of which nothing is measured has no point.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import pandas as pd
from matplotlib import style
from matplotlib.figure import Figure

from orchestrator.report.figures import STYLE, drawable
from orchestrator.report.heatmap import shown_name
from workers.files.job import MAIN_SETTING
from workers.files.metrics import METRICS, Meaning
from workers.files.place import BLOCK_OUTPUT

_PANEL_IN: Final = (2.8, 2.3)
_POINT_IN: Final = 0.34  # room of a model, at least
_COLOURS: Final = ("#3b6ea5", "#b5651d", "#4a8a57", "#7d5ba6", "#8f3a3a", "#4c8f95")
_CONTROLS: Final = {"none": ("no intervention", "_"), "random": ("random rotation", "x")}
_POINT: Final = ("maximum", "low", "high", "none", "random")


def model_lines(summary: pd.DataFrame) -> pd.DataFrame:
    """The lines of the summary that curves are drawn from; none where the sweep has one model."""
    if summary.empty or not summary["model"].any():
        return summary.iloc[:0]
    return summary[summary["setting"] == MAIN_SETTING]


def curves(summary: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """For the page: a curve for each experiment, method and site, its points in the order of the models."""
    lines = model_lines(summary)
    if lines.empty:
        return
    models = list(dict.fromkeys(lines["model"]))
    for (experiment, method, site), part in lines.groupby(["experiment", "method", "site"], sort=False):
        about = METRICS[part["metric"].iloc[0]]
        points = part.set_index("model").reindex(models)[list(_POINT)].astype("float64")
        values = {name: [None if np.isnan(one) else round(one, 4) for one in points[name]] for name in _POINT}
        controls = _CONTROLS if about.changes_model else {"random": (about.null, "x")}
        yield {
            "name": shown_name(str(experiment)),
            "detail": ", ".join([shown_name(str(method)), *([] if site == BLOCK_OUTPUT else [shown_name(str(site))])]),
            "models": models,
            "unit": f"{about.best} {about.label}",
            "is_share": about.is_share,
            "controls": {name: label for name, (label, _) in controls.items() if label},
            **values,
        }


def draw_models(lines: pd.DataFrame) -> Figure:
    """One panel an experiment, one line a site; `lines` are `model_lines` of one method and metric.

    A point's whisker is the interval of its cell; the marks below it are the controls of that cell.
    """
    models, sites = list(dict.fromkeys(lines["model"])), list(dict.fromkeys(lines["site"]))
    experiments = list(dict.fromkeys(lines["experiment"]))
    about = METRICS[lines["metric"].iloc[0]]
    with style.context(["default", STYLE]):
        width = max(_PANEL_IN[0], _POINT_IN * len(models) + 0.4)
        size = (width * len(experiments) + 0.6, _PANEL_IN[1] + 1.1)
        figure = Figure(figsize=size, facecolor="white", layout="constrained")
        panels = figure.subplots(1, len(experiments), sharey=True, squeeze=False)[0]
        for axes, experiment in zip(panels, experiments, strict=True):
            for colour, site in enumerate(sites):
                here = lines[(lines["experiment"] == experiment) & (lines["site"] == site)]
                _line(axes, here.set_index("model").reindex(models), about, _COLOURS[colour % len(_COLOURS)], str(site))
            axes.set_title(drawable(shown_name(experiment)), loc="left", parse_math=False)
            axes.set_xticks(np.arange(len(models)), [drawable(model) for model in models], rotation=30, ha="right")
            axes.set_xlim(-0.5, len(models) - 0.5)
            for side in ("top", "right"):
                axes.spines[side].set_visible(False)
        panels[0].set_ylabel(f"{about.best} {about.label}")
        if about.is_share:
            panels[0].set_ylim(0, 1.02)
        marks, labels = panels[0].get_legend_handles_labels()
        named = dict(zip(labels, marks, strict=True))  # each once: the controls of all sites have the same marks
        figure.legend(named.values(), named.keys(), frameon=False, fontsize=7, ncols=4, loc="outside lower left")
    return figure


def _line(axes: Any, points: pd.DataFrame, about: Meaning, colour: str, site: str) -> None:
    """`points` have the models as their index."""
    at = np.arange(len(points))
    best, low, high = (points[name].to_numpy(dtype=float) for name in ("maximum", "low", "high"))
    ends = np.maximum(np.array([best - low, high - best]), 0)
    label = shown_name(site)
    axes.errorbar(at, best, yerr=ends, color=colour, marker="o", markersize=3.5, linewidth=1, label=label, zorder=3)
    for name, (control, mark) in (_CONTROLS if about.changes_model else {"random": (about.null, "x")}).items():
        values = points[name].to_numpy(dtype=float)
        if control and np.isfinite(values).any():
            axes.scatter(at, values, marker=mark, c=colour, s=26, linewidths=1, label=control, zorder=2)
