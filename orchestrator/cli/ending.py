"""Where `run` ends: how long it took, what was found, why cells were kept out, and what to type next."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from orchestrator.cli.layouts import best_place
from orchestrator.cli.render import duration, skipped_lines, status_line
from orchestrator.status.cell_state import CellState
from orchestrator.store.statistics import CONFIDENCE, wilson_interval
from workers.files.gate import Verdict, count_interval
from workers.files.job import MAIN_SETTING
from workers.files.metrics import METRICS
from workers.files.place import BLOCK_OUTPUT
from workers.files.progress import GATE_NOTE

if TYPE_CHECKING:
    from orchestrator.status.states import SweepStatus
    from orchestrator.sweep import Sweep

_MOST_MAPS: Final = 8


def ending(sweep: Sweep, status: SweepStatus, *, wall_s: float, was_stopped: bool) -> str:
    """The last lines of `run`."""
    name = sweep.spec.name
    spent = f"{duration(wall_s)} ({duration(status.gpu_hours_used * 3600)} of workers' time in all)"
    if status.is_done:
        n_done, n_cells = status.counts[CellState.DONE], len(status.cells)
        done = f"all {n_cells} cells done" if n_done == n_cells else status_line(status).partition(": ")[2] + ";"
        return "\n".join([f"{name}: {done} in {spent}", *_found(sweep), _next(name)])
    head = f"{name}: stopped, checkpoint kept;" if was_stopped else f"{name}:"
    lines = [f"{head} {status_line(status).partition(': ')[2]}; {spent}", *skipped_lines(status), *_gate(sweep, status)]
    if status.counts[CellState.DONE]:
        lines += _found(sweep)
    if any(n_cells and (state.is_open or state.is_held) for state, n_cells in status.counts.items()):
        why = "" if was_stopped else f"; why: causalsweep errors {name}"
        lines.append(f"what is left: causalsweep resume {name}{why}")
    return "\n".join(lines)


def _next(name: str) -> str:
    return f"next: causalsweep summary {name}; causalsweep report {name}"


def _found(sweep: Sweep) -> Iterator[str]:
    """The best place of each map with its controls."""
    summary = sweep.summary()
    maps = summary[(summary["setting"] == MAIN_SETTING) & summary["maximum"].notna()]
    several = maps["method"].nunique() > 1
    for line in maps.head(_MOST_MAPS).to_dict("records"):
        method = f" ({line['method']})" if several else ""
        meaning = METRICS[line["metric"]]
        controls = ", ".join(
            f"{title} {line[name]:.3f}"
            for name, title in (("none", "no intervention"), ("random", meaning.null), ("full", "whole vector"))
            if line[name] is not None and line[name] == line[name]
        )
        site = "" if line["site"] == BLOCK_OUTPUT else f", {line['site']}"
        what = f"best {meaning.words} {line['maximum']:.3f}{f' {meaning.unit}' if meaning.unit else ''}"
        where = f" at {at}" if (at := best_place(line)) else ""
        model = f"{line['model']}, " if line["model"] else ""
        yield f"  {model}{line['experiment']}{method}{site}: {what}{where}" + (f" ({controls})" if controls else "")
    if len(maps) > _MOST_MAPS:
        yield f"  and {len(maps) - _MOST_MAPS} more maps"


def _gate(sweep: Sweep, status: SweepStatus) -> Iterator[str]:
    """Why the gate failed: its accuracy, and some of what it said instead."""
    if not status.counts[CellState.SKIPPED]:
        return
    rows = sweep.results(where=["status=skipped", f"setting={MAIN_SETTING}"]).dropna(subset=["task_n_total"])
    seen: set[tuple[Any, ...]] = set()
    for row in rows.to_dict("records"):
        n_correct, n_total = int(row["task_n_correct"]), int(row["task_n_total"])
        model = f"{row['model']}, " if len(sweep.grid.models) > 1 else ""
        if (model, row["task"], n_correct, n_total) in seen or not n_total:
            continue
        seen.add((model, row["task"], n_correct, n_total))
        right = _accuracy(row, n_correct, n_total)
        yield f"  {model}{right}; gate.task_accuracy is {sweep.spec.gate.task_accuracy}"
    notes = [note for job in status.jobs if job.progress for note in job.progress.notes if note.startswith(GATE_NOTE)]
    yield from (f"  {note.removeprefix(GATE_NOTE)}" for note in dict.fromkeys(notes))


def _accuracy(row: Mapping[str, Any], n_correct: int, n_total: int) -> str:
    """How often the model is right, with the interval of all prompts where only some were asked."""
    verdict, more = Verdict.of(str(row["reason"])), ""
    low, high = wilson_interval(n_correct, n_total)
    if verdict and verdict.n_seen and verdict.n_all:
        least, most = count_interval(n_correct, n_total, verdict.n_all, error=1 - CONFIDENCE)
        low, high, more = least / verdict.n_all, most / verdict.n_all, f", of {verdict.n_all:,} that there are"
    share = f"{n_correct / n_total:.3f} (95 % interval {low:.3f} to {high:.3f})"
    return f"{row['task']}: {n_correct:,} of {n_total:,} prompts right{more}, {share}"
