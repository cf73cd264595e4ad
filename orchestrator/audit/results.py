"""Whether the rows of the shards are those of the planned cells, and one measurement counts for each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from orchestrator.audit.evidence import PLANNED, REUSED, Evidence, Row
from orchestrator.audit.findings import Finding, damage, remark
from orchestrator.grid.expand import Grid, Strand
from workers.files.job import JobCell, canonical_json
from workers.files.metrics import IIA
from workers.files.place import Place
from workers.files.shard import RUN_COLUMNS

_MOST: Final = 5  # examples of one kind
_ROUNDING: Final = 1e-9
_NAMES: Final = frozenset({"experiment", "token"})  # what people call a cell: another sweep may call it otherwise


def of_rows(evidence: Evidence, grid: Grid) -> Iterator[Finding]:
    """What is wrong with rows, those of one kind and shard together. Raises: NewerFile."""
    planned = {cell.key: (strand, cell) for strand, cell in grid.cells()}
    found: dict[tuple[str, str], list[str]] = {}
    for key, rows in evidence.rows.items():
        for row in rows:
            for kind, said in _problems(evidence, row, planned.get(key)):
                found.setdefault((row.source, kind), []).append(said)
    for (where, kind), cases in found.items():
        examples = "; ".join(cases[:_MOST]) + (f"; and {len(cases) - _MOST} more" if len(cases) > _MOST else "")
        yield damage(where, f"{len(cases)} rows {kind}: {examples}", "move the shard away and `resume`, or restore it")
    strange = Counter(row.shard for key, rows in evidence.rows.items() if key not in planned for row in rows)
    for shard, n_rows in strange.items():
        yield remark(f"shards/{shard}", f"{n_rows} of its rows are of cells that are not planned (any more)")
    yield from _of_repeats(evidence, planned)


def _problems(evidence: Evidence, row: Row, planned: tuple[Strand, JobCell] | None) -> Iterator[tuple[str, str]]:
    """What is wrong with a row: a kind, and the case."""
    values, key = row.values, row.values["cell_key"][:12]
    if planned is not None:
        expected = science_columns(*planned)
        wrong = [name for name, value in expected.items() if values[name] is not None and values[name] != value]
        for name in wrong:
            yield "are not of the cell that their key names", f"{key} {name} {values[name]!r} for {expected[name]!r}"
    n_correct, n_total, iia = values["n_correct"], values["n_total"], values["iia"]
    if values["status"] == "done" and n_correct is not None and n_total is not None:
        is_share = values["metric"] in (None, IIA) and iia is not None
        if not 0 <= n_correct <= n_total or (is_share and abs(iia * n_total - n_correct) > _ROUNDING * n_total):
            yield "have numbers that cannot be", f"{key} {values['setting']} {n_correct} of {n_total}, iia {iia}"
    if row.shard.startswith(REUSED):
        return
    name, _, attempt = row.shard.removesuffix(".parquet").rpartition("-")
    if (values["job"], values["attempt"]) != (name, int(attempt)):
        yield "are of another attempt than their file", f"{key} of {values['job']} attempt {values['attempt']}"
    elif name in evidence.jobs and name not in evidence.jobs_of_cells.get(values["cell_key"], ()):
        yield f"are of cells that the job {name} does not have", key
    elif name not in evidence.jobs and name != PLANNED and f"jobs/{name}.json" not in evidence.unreadable:
        yield f"are of the job {name}, whose file is gone", key


def science_columns(strand: Strand, cell: JobCell) -> dict[str, Any]:
    """The columns of a row that its cell's key decides. The name of a set of places is for people."""
    stream = strand.stream
    return {
        **(cell.place.columns() if isinstance(cell.place, Place) else {}),
        "hypothesis": stream.hypothesis,
        "seed": stream.seed,
        "engine": stream.engine,
        "model_fingerprint": str(stream.model["fingerprint"]),
        "task_settings": canonical_json(dict(stream.task)),
        "method_settings": canonical_json(dict(stream.method)),
    }


def _of_repeats(evidence: Evidence, planned: Mapping[str, Any]) -> Iterator[Finding]:
    """Cells that were measured more than once: whether the measurements agree."""
    n_equal, differing = 0, []
    for key, rows in evidence.rows.items():
        by_setting: dict[str, list[Row]] = {}
        for row in rows if key in planned else ():
            if row.values["status"] == "done":
                by_setting.setdefault(row.values["setting"], []).append(row)
        for setting, several in by_setting.items():
            names = _differences(several) if len(several) > 1 else None
            n_equal += names == []
            if names:
                differing.append((key, setting, several, names))
    if n_equal:
        yield remark("shards", f"{n_equal} rows were measured more than once, with equal results; one of each counts")
    for key, setting, several, names in differing[:_MOST]:
        shards = ", ".join(row.source for row in several)
        kinds = {row.values["gpu_name"] for row in several}
        said = f"cell {key[:12]}, {setting}: {len(several)} measurements differ in {', '.join(names[:4])} ({shards})"
        if len(kinds) == 1:
            yield damage("shards", f"{said}, on one kind of device", "the first that finished counts; find out why")
        else:
            yield remark("shards", f"{said}, on {len(kinds)} kinds of device; the first that finished counts")
    if len(differing) > _MOST:
        yield remark("shards", f"{len(differing) - _MOST} more cells and settings have measurements that differ")


def _differences(rows: Sequence[Row]) -> list[str]:
    """The columns in which rows of one cell and setting differ, other than those of the run itself."""
    first = rows[0].values
    names = [name for name in first if name not in RUN_COLUMNS | _NAMES]
    return [name for name in names if any(not _same(row.values[name], first[name]) for row in rows[1:])]


def _same(one: Any, other: Any) -> bool:
    return bool(one == other or (one != one and other != other))
