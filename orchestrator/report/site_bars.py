"""Sites and sets of places side by side, with matplotlib: of each the highest IIA, and the controls of that cell."""

from __future__ import annotations

from typing import Final

import matplotlib
import numpy as np
import pandas as pd
from matplotlib import style
from matplotlib.figure import Figure

from orchestrator.report.figures import STYLE
from orchestrator.report.heatmap import shown_name
from workers.files.metrics import METRICS, Meaning

_PANEL_IN: Final = (2.6, 2.4)
_BAR: Final = 0.72  # share of the room of one site
_MARKS: Final = {"none": ("no intervention", "_"), "random": ("random rotation", "x")}


def draw_sites(summary: pd.DataFrame) -> Figure:
    """One panel an experiment, one bar a site; `summary` has the lines of one method and setting.

    A bar's whisker is the interval of its cell. A site of which nothing is measured has no bar.
    """
    experiments = list(dict.fromkeys(summary["experiment"]))
    sites = list(dict.fromkeys(summary["site"]))
    with style.context(["default", STYLE]):
        size = (_PANEL_IN[0] * len(experiments) + 0.6, _PANEL_IN[1] + 0.9)
        figure = Figure(figsize=size, facecolor="white", layout="constrained")
        panels = figure.subplots(1, len(experiments), sharey=True, squeeze=False)[0]
        for axes, experiment in zip(panels, experiments, strict=True):
            lines = summary[summary["experiment"] == experiment].set_index("site").reindex(sites)
            _panel(axes, lines, METRICS[summary["metric"].iloc[0]])
            axes.set_title(shown_name(experiment), loc="left", parse_math=False)
        metric = METRICS[summary["metric"].iloc[0]]
        panels[0].set_ylabel(f"{metric.best} {metric.label}")
        if metric.is_share:
            panels[0].set_ylim(0, 1)
        marks, labels = panels[0].get_legend_handles_labels()
        figure.legend(marks, labels, frameon=False, fontsize=7, ncols=len(labels), loc="outside lower left")
    return figure


def _panel(axes: matplotlib.axes.Axes, lines: pd.DataFrame, metric: Meaning) -> None:
    """`lines` have the sites as their index."""
    at = np.arange(len(lines))
    best, low, high = (lines[name].to_numpy(dtype=float) for name in ("maximum", "low", "high"))
    ends = np.maximum(np.array([best - low, high - best]), 0)
    axes.bar(at, best, width=_BAR, color="#7a9cc6", yerr=ends, error_kw={"elinewidth": 0.8}, label="the cell")
    for name, (label, mark) in (_MARKS if metric.changes_model else {"random": (metric.null, "x")}).items():
        if lines[name].notna().any():  # the whole vector has no random rotation
            axes.scatter(at, lines[name].to_numpy(dtype=float), marker=mark, c="#1a1a1a", s=36, zorder=3, label=label)
    axes.set_xticks(at, [shown_name(str(site)) for site in lines.index], rotation=30, ha="right")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
