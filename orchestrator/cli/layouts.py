"""Which columns of results and summaries people see, in which order, and which give way where there is little room."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from orchestrator.cli.tables import Layout
from orchestrator.store.metrics import NUMBERS, Metric
from workers.files.job import MAIN_SETTING
from workers.files.metrics import CLASS_SCORES, IIA, METRICS, Meaning
from workers.files.place import BLOCK_OUTPUT, INSIDE, UNIT_LETTERS

if TYPE_CHECKING:
    import pandas as pd

_WHICH: Final = ("experiment", "setting", "method", "seed")
_PLACE: Final = (*INSIDE, "place")  # shown where some cell is not at the output of a block
_WHERE: Final = ("layer", "position", "token")
_RATES: Final = ("iia", "iia_none", "iia_random", "iia_full")
_COUNTS: Final = ("n_correct", "n_total")
_MORE: Final = (
    *("iia_normalized", "status", *_COUNTS, "task_accuracy", "dummy_accuracy", "subspace_dim", "loss", "steps"),
    *("gpu_seconds", "job", "host", "metric", "reading", "null", "cell_key"),
)
RESULTS: Final = Layout(secondary=_MORE, shareable=(*_WHICH, *_PLACE, "status", "metric", "host"))

_SUMMARY_TITLES: Final = {"task": "task acc.", "full": "whole", "variance_x100": "var. x 100", "correlation": "corr."}
_SUMMARY: Final = Layout(
    secondary=("mean", "better", "correlation", "token", "task", "variance_x100"),
    shareable=("model", "method", "setting", "site", "task"),
    decimals=3,
)


def results_view(frame: pd.DataFrame, metric: Metric = Metric.IIA) -> tuple[pd.DataFrame, Layout]:
    """The columns of the rows for people, the rates being those of the metric; those of the site
    and the model only where they tell cells apart."""
    places: list[str] = []
    if not (frame["site"] == BLOCK_OUTPUT).all():
        places = [name for name in _PLACE if frame[name].notna().any()]
    rates = _RATES if metric is Metric.IIA else (metric.value, *(f"{metric}_{name}" for name in NUMBERS[1:]))
    models = ["model"] if frame["model"].nunique() > 1 else []
    first = [*models, *_WHICH, *places, *_WHERE, *rates]
    layout = RESULTS
    is_reading = frame["metric"].notna() & (frame["metric"] != IIA)
    if metric is Metric.IIA and is_reading.any():  # a reading has no IIA, but a number of its own, and counts
        first += ["metric", "reading", "null", *_COUNTS]
        layout = replace(RESULTS, secondary=tuple(name for name in _MORE if name not in first))
    elif (frame["status"] != "done").any():
        first.append("status")
    return frame[[*first, *(name for name in _MORE if name not in first)]], layout


def summary_views(summary: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame, Layout]]:
    """The paper's table with its heading. The readings of each metric have their own: their numbers are no IIA, and two
    metrics share no unit."""
    if summary.empty:  # the metric is one of interventions, and all methods are readings
        yield "", summary, _SUMMARY
        return
    is_causal = summary["metric"].map(lambda name: METRICS[name].changes_model).astype(bool)
    causal, readings = summary[is_causal], summary[~is_causal]
    if len(causal) or not len(readings):
        name = Metric(causal["metric"].iloc[0]) if len(causal) else Metric.IIA
        yield "", *_summary_view(causal, f"max {'IIA' if name is Metric.IIA else name}")
    for metric, lines in readings.groupby("metric", sort=False):
        meaning = METRICS[str(metric)]
        yield f"{meaning.label} ({meaning.changed})", *_reading_view(lines, meaning)


def _reading_view(summary: pd.DataFrame, metric: Meaning) -> tuple[pd.DataFrame, Layout]:
    frame, layout = _summary_view(summary, metric.best)
    scores = [*(["dummy"] if summary["dummy"].notna().any() else []), *CLASS_SCORES]
    columns = [name for name in frame.columns if name not in ("none", "full")]
    columns += [name for name in scores if summary[name].notna().any()]
    titles = {**layout.titles, "random": "null", "dummy": "majority"}
    return frame.assign(**{name: summary[name] for name in scores})[columns], replace(layout, titles=titles)


def _summary_view(summary: pd.DataFrame, highest: str) -> tuple[pd.DataFrame, Layout]:
    frame = summary.copy()
    records = frame.to_dict("records")
    frame["setting"] = frame["setting"].where(frame["setting"] != MAIN_SETTING, "")
    frame["at"] = [best_place(line) for line in records]
    frame["better"] = [f"{line['n_better']}/{line['n_tested']}" if line["n_tested"] else "" for line in records]
    sites = ["site"] if (frame["site"] != BLOCK_OUTPUT).any() else []
    models = ["model"] if frame["model"].any() else []
    which = [*models, "experiment", "method", "setting", *sites]
    rates = ["maximum", "at", "none", "random", "full"]
    columns = [*which, *rates, *(name for name in _SUMMARY.secondary)]
    return frame[columns], replace(_SUMMARY, titles=_SUMMARY_TITLES | {"maximum": highest})


def best_place(line: dict[Any, Any]) -> str:
    """Where the highest value is: `L2 p81`, `L2 h3 p81`; of a set of places that follows the grid's positions `p81`,
    and empty of another one, and where nothing is measured."""
    parts = (("L", "layer"), (UNIT_LETTERS.get(line["site"], "u"), "unit"), ("p", "position"))
    found = ((letter, line[name]) for letter, name in parts)
    return " ".join(f"{letter}{int(number)}" for letter, number in found if number is not None and number == number)
