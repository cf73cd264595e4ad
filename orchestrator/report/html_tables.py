"""The page's tables as HTML, readable without a script. Every text of a user or a worker is escaped here."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import pandas as pd

from orchestrator.report.heatmap import HeatMap, is_share, shown_name, shown_token, site_maps
from orchestrator.report.model_curves import model_lines
from orchestrator.status.cell_state import MAPPED
from workers.data.sites import SITES
from workers.files.job import MAIN_SETTING
from workers.files.metrics import DECODING, IIA, METRICS
from workers.files.place import BLOCK_OUTPUT

NOTHING: Final = "–"


def page_tables(
    maps: Sequence[HeatMap],
    summary: pd.DataFrame,
    provenance: Mapping[str, str],
    figures: Mapping[str, Mapping[str, str]],
    n_unplanned: int,
) -> dict[str, str]:
    """The HTML of each table and list of the page, by its slot in the template."""
    is_main = summary["setting"] == MAIN_SETTING if len(summary) else pd.Series(dtype=bool)
    is_causal = summary["metric"].map(lambda name: METRICS[name].changes_model) if len(summary) else is_main
    return {
        "tiles": _tiles(maps, provenance),
        "summary_table": _summary_table(summary[is_main & is_causal]),
        "decoding_section": _reading_sections(summary[~is_causal]),
        "models_section": _models_section(summary[is_main]),
        "sites_section": _sites_section(summary[is_main & is_causal]),
        "settings_section": _settings_section(summary[~is_main & is_causal]),
        "states_table": _states_table(maps, n_unplanned),
        "provenance_list": definitions(provenance),
        "figures_list": _figures(figures),
    }


def rate(value: Any, digits: int = 3) -> str:
    """A number with `digits` decimals, or a dash where there is none."""
    return f"{value:.{digits}f}".replace("-", "−") if _is_number(value) else NOTHING


def _is_number(value: Any) -> bool:
    return value is not None and math.isfinite(value)


def with_detail(value: str, detail: str) -> str:
    """A number and, below it and smaller, what it is made of."""
    return f"{value}<small>{detail}</small>" if value != NOTHING else NOTHING


def html_table(head: Sequence[str], lines: Iterable[Sequence[str]], empty: str) -> str:
    """A table of cells that are HTML already; the sentence `empty` where there are no lines."""
    body = "".join(
        f'<tr><th scope="row">{first}</th>' + "".join(f"<td>{cell}</td>" for cell in rest) + "</tr>"
        for first, *rest in lines
    )
    if not body:
        return f"<p>{empty}</p>"
    top = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    return f'<div class="scroll" tabindex="0"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def _name(line: Mapping[str, Any]) -> str:
    site = "" if line["site"] == BLOCK_OUTPUT else f", {shown_name(line['site'])}"
    detail = f"{_by(line, shown_name(line['method']))}{site}, {line['n_measured']:,} of {line['n_places']:,} places"
    return with_detail(html.escape(shown_name(line["experiment"])), html.escape(detail))


def _by(line: Mapping[str, Any], text: str) -> str:
    """The text behind the name of the line's model, where the sweep has several."""
    return f"{line['model']}, {text}" if line["model"] else text


def _whose(line: Mapping[str, Any]) -> str:
    """Experiment, method and, where it is not the usual one, site."""
    site = "" if line["site"] == BLOCK_OUTPUT else f", {shown_name(line['site'])}"
    return f"{shown_name(line['experiment'])}, {shown_name(line['method'])}{site}"


def _named(summary: pd.DataFrame) -> str:
    """What the numbers of these lines are called in a heading."""
    return METRICS[summary["metric"].iloc[0] if len(summary) else IIA].words


def _summary_table(summary: pd.DataFrame) -> str:
    name = _named(summary)
    head = [
        *("Experiment", "Task accuracy", f"Highest {name}", "Where", "Normalised"),
        *("No intervention", "Whole vector", "Random rotation", "Above no intervention"),
        *(f"Mean {name}", "Variance × 100", "SD over seeds", "Correlation"),
    ]
    return html_table(head, map(_summary_line, summary.to_dict("records")), "No cell of these is measured yet.")


def _summary_line(line: Mapping[str, Any]) -> list[str]:
    return [
        _name(line),
        with_detail(rate(line["task"]), _counts(line["task_n_correct"], line["task_n_total"])),
        _highest(line),
        _where(line),
        rate(line["normalised"]),
        *(rate(line[control]) for control in ("none", "full", "random")),
        with_detail(f"{line['n_better']:,}", f"of {line['n_tested']:,} cells") if line["n_tested"] else NOTHING,
        rate(line["mean"]),
        rate(line["variance_x100"], 2),
        _seeds(line),
        _baseline(line),
    ]


def _highest(line: Mapping[str, Any]) -> str:
    if not _is_number(line["maximum"]):
        return NOTHING
    interval = f"{rate(line['low'])} to {rate(line['high'])}"
    counts = _counts(line["n_correct"], line["n_total"]) if line["metric"] in (IIA, DECODING) else ""
    if not METRICS[line["metric"]].changes_model and not counts:
        counts = f"{int(line['n_total']):,} prompts"
    return with_detail(f"<b>{rate(line['maximum'])}</b>", f"{counts}<br>{interval}" if counts else interval)


def _where(line: Mapping[str, Any]) -> str:
    if not _is_number(line["maximum"]):
        return NOTHING
    token = html.escape(shown_token(line["token"] or ""))
    position = "" if _is_nothing(line["position"]) else f"position {int(line['position'])} "
    at = f"{position}<code>{token}</code><br>seed {int(line['seed'])}"
    if _is_nothing(line["layer"]):
        return with_detail(html.escape(shown_name(line["site"])), at)
    unit = "" if _is_nothing(line["unit"]) else f", {_unit_name(line)} {int(line['unit'])}"
    return with_detail(f"layer {int(line['layer'])}{unit}", at)


def _is_nothing(value: Any) -> bool:
    return value is None or math.isnan(value)


def _unit_name(line: Mapping[str, Any]) -> str:
    return SITES[line["site"]].unit_name if line["site"] in SITES else "unit"


def _models_section(summary: pd.DataFrame) -> str:
    """The best value of each model, in the order of the spec, as curves and a table; nothing where there is one."""
    lines = model_lines(summary)
    if lines.empty:
        return ""
    head = ["Model", "Experiment", "Task accuracy", "Best", "No intervention", "Random", "Where"]
    rows = (
        [
            html.escape(line["model"]),
            with_detail(
                html.escape(shown_name(line["experiment"])),
                html.escape(", ".join([shown_name(line["method"]), METRICS[line["metric"]].words])),
            ),
            with_detail(rate(line["task"]), _counts(line["task_n_correct"], line["task_n_total"])),
            _highest(line),
            rate(line["none"]),
            rate(line["random"]),
            _where(line),
        ]
        for line in lines.to_dict("records")
    )
    return (
        "<section id='models'><h2>Models</h2><p>Of each model the best value of its map, over all its layers, "
        "positions and seeds, with the interval and the controls of that one cell, in the order of the spec. The maps "
        "themselves are above: choose a model.</p><div id='curves'></div>" + html_table(head, rows, "") + "</section>"
    )


def _sites_section(summary: pd.DataFrame) -> str:
    """The highest accuracy of each site, as bars side by side; nothing where the grid has one site."""
    if summary.empty or summary["site"].nunique() < 2:
        return ""
    name = _named(summary)
    head = ["Experiment", "Site", f"Highest {name}", "", "No intervention", "Random rotation", "Where"]
    lines = (
        [
            with_detail(
                html.escape(shown_name(line["experiment"])), html.escape(_by(line, shown_name(line["method"])))
            ),
            html.escape(shown_name(line["site"])),
            _highest(line),
            _bar(line["maximum"]) if is_share(line["metric"]) else "",
            rate(line["none"]),
            rate(line["random"]),
            _where(line),
        ]
        for line in summary.to_dict("records")
    )
    return (
        f"<section id='sites'><h2>Sites</h2><p>Of each site the highest {name}, over all its layers, positions and "
        "units, and the controls of that one cell. The highest of more cells is higher by luck alone: compare with "
        "them.</p>" + html_table(head, lines, "") + "</section>"
    )


def _bar(value: Any) -> str:
    """A bar from 0 to `value` of 1."""
    return f"<meter min='0' max='1' value='{value:.4f}'></meter>" if _is_number(value) else ""


def _counts(n_correct: Any, n_total: Any) -> str:
    return f"{int(n_correct):,} of {int(n_total):,}" if _is_number(n_total) else ""


def _settings_section(summary: pd.DataFrame) -> str:
    """The robustness table: the learned alignments elsewhere, beside the maps that they should look like."""
    if summary.empty:
        return ""
    name = _named(summary)
    head = ["Setting", "Task accuracy", f"Highest {name}", "Where", "Normalised", "No intervention"]
    head += [f"Mean {name}", "Variance × 100", "Correlation with own map", "Correlation with baseline"]
    lines = (
        [
            with_detail(html.escape(shown_name(line["setting"])), html.escape(_by(line, _whose(line)))),
            with_detail(rate(line["task"]), _counts(line["task_n_correct"], line["task_n_total"])),
            _highest(line),
            _where(line),
            rate(line["normalised"]),
            rate(line["none"]),
            rate(line["mean"]),
            rate(line["variance_x100"], 2),
            with_detail(rate(line["correlation_own"], 2), f"{line['correlation_own_n']:,} places"),
            _baseline(line),
        ]
        for line in summary.sort_values("setting", kind="stable").to_dict("records")
    )
    return (
        "<section id='robustness'><h2>Robustness</h2><p>The learned alignments, evaluated without further training on "
        "other data. Where the same places are high, the correlation with the experiment's own map, as trained, is "
        "high.</p>" + html_table(head, lines, "") + "</section>"
    )


def _reading_sections(summary: pd.DataFrame) -> str:
    """A section for the readings of each metric."""
    if summary.empty:
        return ""
    parts = summary.groupby("metric", sort=False)
    return "".join(_reading_section(lines, str(metric)) for metric, lines in parts)


def _reading_section(summary: pd.DataFrame, metric: str) -> str:
    """The readings of one metric, apart from everything causal and from every other metric."""
    about = METRICS[metric]
    has_classes = summary["balanced"].notna().any()
    head = ["Reading of", "Setting", f"{about.best.capitalize()}, {about.unit or 'accuracy'}", "Where"]
    head += [about.null.capitalize()] if about.null else []
    head += ["Majority class", "Balanced accuracy", "F1", "Matthews correlation"] if has_classes else []
    head += ["Mean", "Variance × 100", "SD over seeds"]
    lines = (
        [
            _name(line),
            "as trained" if line["setting"] == MAIN_SETTING else html.escape(shown_name(line["setting"])),
            _highest(line),
            _where(line),
            *([rate(line["random"])] if about.null else []),
            *(_class_scores(line) if has_classes else []),
            rate(line["mean"]),
            rate(line["variance_x100"], 2),
            _seeds(line),
        ]
        for line in summary.to_dict("records")
    )
    title, words = html.escape(about.title if metric != DECODING else "Decoding"), html.escape(about.about)
    section = f"<section id='{html.escape(metric)}'><h2>{title}</h2><p>{words}</p>"
    return section + html_table(list(map(html.escape, head)), lines, "") + "</section>"


def _class_scores(line: Mapping[str, Any]) -> list[str]:
    balanced = with_detail(rate(line["balanced"]), f"chance {rate(line['chance'])}")
    return [rate(line["dummy"]), balanced, rate(line["f1"]), rate(line["mcc"])]


def _seeds(line: Mapping[str, Any]) -> str:
    return with_detail(rate(line["seeds_sd"]), f"{line['n_seeds']} seeds")


def _baseline(line: Mapping[str, Any]) -> str:
    if line["experiment"] == line["baseline"] and line["setting"] == MAIN_SETTING:
        return "<small>the baseline</small>"
    baseline = html.escape(shown_name(line["baseline"]))
    return with_detail(rate(line["correlation"], 2), f"with {baseline}<br>{line['correlation_n']:,} places")


def _tiles(maps: Sequence[HeatMap], provenance: Mapping[str, str]) -> str:
    cells = _main_cells(maps)
    n_done, n_all = int((cells["state"] == "done").sum()) if len(cells) else 0, len(cells)
    n_failed = int((cells["state"] == "failed").sum()) if len(cells) else 0
    tiles = [("cells measured", f"{n_done:,} <small>of {n_all:,}</small>")]
    if n_failed:
        tiles.append(("cells failed", f"{n_failed:,}"))
    tiles.append(("experiments", f"{len({item.experiment for item in maps}):,}"))
    if "Model" in provenance:
        tiles.append(
            ("model", html.escape(", ".join(path.rsplit("/")[-1] for path in provenance["Model"].split(", "))))
        )
    if "Compute" in provenance:
        tiles.append(("compute", html.escape(provenance["Compute"])))
    return "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in tiles)


def _main_cells(maps: Sequence[HeatMap]) -> pd.DataFrame:
    mains = [item.cells for item in site_maps(maps) if item.setting == MAIN_SETTING]
    return pd.concat(mains, ignore_index=True) if mains else pd.DataFrame()


def _states_table(maps: Sequence[HeatMap], n_unplanned: int) -> str:
    """Cells by state, and by the reason that is given with them."""
    cells = _main_cells(maps)
    if cells.empty:
        return "<p>The grid has no cells.</p>"
    counts = cells["state"].value_counts()
    lines = [[state.label, f"{counts[state.value]:,}", state.meaning] for state in MAPPED if counts.get(state.value, 0)]
    if n_unplanned:
        lines.append(["not planned", f"{n_unplanned:,}", "in the store, but not of this grid; not shown"])
    table = html_table(["State", "Cells", "Meaning"], lines, "")
    reasons = cells[(cells["reason"] != "") & (cells["state"] != "done")]
    if reasons.empty:
        return table
    groups = reasons.groupby(["state", "reason"])["job"].agg(["size", "unique"]).sort_values("size", ascending=False)
    labels = {state.value: state.label for state in MAPPED}
    named = [
        [labels[state], f"{group['size']:,}", html.escape(reason), html.escape(_some(group["unique"]))]
        for (state, reason), group in groups.iterrows()
    ]
    return table + "<h3>Reasons</h3>" + html_table(["State", "Cells", "Reason", "Jobs"], named, "")


def _some(names: Iterable[str], n: int = 3) -> str:
    kept = [name for name in names if name]
    return ", ".join(kept[:n]) + (f" and {len(kept) - n} more" if len(kept) > n else "")


def definitions(provenance: Mapping[str, str]) -> str:
    """A list of names and texts."""
    pairs = "".join(f"<dt>{html.escape(key)}</dt><dd>{html.escape(value)}</dd>" for key, value in provenance.items())
    return f"<dl class='facts'>{pairs}</dl>"


def _figures(figures: Mapping[str, Mapping[str, str]]) -> str:
    items = (
        f"<dt>{html.escape(name)}</dt><dd>"
        + " · ".join(f'<a href="{html.escape(path)}">{html.escape(shown)}</a>' for shown, path in paths.items())
        + "</dd>"
        for name, paths in figures.items()
    )
    return f"<dl class='facts'>{''.join(items)}</dl>"
