"""Where the numbers come from: model, versions, code, machines, time."""

from __future__ import annotations

import json
from collections.abc import Iterable

import pandas as pd


def provenance(rows: pd.DataFrame) -> dict[str, str]:
    """Facts about the rows as text, by name; what no row knows is not there."""
    facts = {
        "Model": _listed(rows["model"]),
        "Revision": _listed(rows["model_revision"]),
        "Fingerprint of the weights": _listed(rows["model_fingerprint"]),
        "Compute": compute_text(rows),
        "Measured": _period(rows),
        "Devices": _listed(rows["gpu_name"]),
        "Hosts": _listed(rows["host"]),
        "Backends": _listed(rows["backend"]),
        "Engines": _listed(rows["engine"]),
        "Sweeps": _listed(rows["sweep"]),
        "Code": _listed(rows["git_sha"]),
        "Versions": "; ".join(_versions(text) for text in _distinct(rows["versions"])),
        "Rows in the store": f"{len(rows):,}",
    }
    return {name: value for name, value in facts.items() if value}


def compute_text(rows: pd.DataFrame) -> str:
    """The hours of the rows' cells, each attempt at a cell counted once however many settings it was evaluated on.

    Time that left no row (an attempt that was killed, work done again) is not in it.
    """
    seconds = rows.assign(gpu_seconds=rows["gpu_seconds"].astype("float64"))
    per_cell = seconds.groupby(["cell_key", "job", "attempt"])["gpu_seconds"].max()
    if not per_cell.notna().any():
        return ""
    unit = "GPU-hours" if set(_distinct(rows["gpu_name"])) - {"cpu"} else "CPU worker-hours"
    hours = float(per_cell.sum()) / 3600
    return f"{hours:,.2f} {unit}" if hours < 100 else f"{hours:,.0f} {unit}"


def _distinct(column: Iterable[object]) -> list[str]:
    return list(dict.fromkeys(value for value in column if isinstance(value, str) and value))


def _listed(column: Iterable[object], most: int = 8) -> str:
    values = _distinct(column)
    more = f" and {len(values) - most:,} more" if len(values) > most else ""
    return ", ".join(values[:most]) + more


def _period(rows: pd.DataFrame) -> str:
    started, ended = rows["started"].dropna(), rows["ended"].dropna()
    if started.empty or ended.empty:
        return ""
    return f"{started.min():%Y-%m-%d %H:%M} to {ended.max():%Y-%m-%d %H:%M} UTC"


def _versions(text: str) -> str:
    """`name version` pairs of the canonical JSON that a worker wrote; the text itself where it is none."""
    try:
        versions = json.loads(text)
    except ValueError:
        return text
    return ", ".join(f"{name} {version}" for name, version in versions.items()) if isinstance(versions, dict) else text
