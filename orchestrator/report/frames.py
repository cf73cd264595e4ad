"""What a sweep has found, as tables: rows, planned cells with their state, SQL over both, the report, the check."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.errors import SpecError, StorageError
from orchestrator.grid.expand import Grid, cell_fields
from orchestrator.grid.file import cells_table
from orchestrator.spec.filters import CELL_FIELDS, CellFilter
from orchestrator.spec.schema import SweepSpec
from orchestrator.status.cell_state import CellState
from orchestrator.status.states import SweepStatus
from orchestrator.store.metrics import NUMBERS, Metric
from orchestrator.store.store import Store
from orchestrator.wording import counted
from workers.files.folder import SweepFolder
from workers.files.metrics import IIA, METRICS
from workers.files.place import AXES
from workers.files.traces import read_traces
from workers.methods.settings import METHODS

if TYPE_CHECKING:
    import pandas as pd

    from orchestrator.report.comparison import Comparison
    from orchestrator.report.traces import Traces

    # A sweep in a comparison: its spec, its folder, its rows and its planned cells.
    Found = tuple[SweepSpec, SweepFolder, pd.DataFrame, pd.DataFrame]

# The controls of a row as shares of its pairs, and their counts, the last one first.
CONTROL_RATES = {"iia_full": "n_correct_full", "iia_random": "n_correct_random", "iia_none": "n_correct_none"}
ROW_FIELDS = (*CELL_FIELDS, "setting", "status", "sweep", "task", "engine", "job", "host")


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """Whether a sweep is whole. `problems` prevent it; `remarks` do not."""

    is_done: bool
    n_cells: int
    n_done: int
    problems: tuple[str, ...]
    remarks: tuple[str, ...]


def rows(store: Store, grid: Grid, where: Iterable[str]) -> pd.DataFrame:
    """The rows of the grid's cells that match `where`, with `CONTROL_RATES` and the grid's names of models. Raises:
    SpecError."""
    chosen = CellFilter.from_options(where, fields=ROW_FIELDS)
    table = with_control_rates(store.table())
    planned = pa.array([cell.key for _, cell in grid.cells()])
    table = with_model_names(table.filter(pc.is_in(table["cell_key"], planned)), grid)
    if chosen.conditions:
        names = _models_by_key(grid)
        fields = [
            row | {"model": names[key]}
            for row, key in zip(table.select(list(ROW_FIELDS)).to_pylist(), table["cell_key"].to_pylist(), strict=True)
        ]
        chosen.check_values([*_planned_fields(grid), *fields])
        table = table.filter(pa.array([chosen.matches(row) for row in fields], type=pa.bool_()))
    return _to_pandas(table)


def with_model_names(table: pa.Table, grid: Grid) -> pa.Table:
    """Rows whose column `model` has the grid's names, where the grid has several models: two revisions of one model are
    then two. Where it has one, the column says what the worker wrote; so it does for cells that are not planned."""
    if len(grid.models) == 1:
        return table
    names, keys, found = _models_by_key(grid), table["cell_key"].to_pylist(), table["model"].to_pylist()
    column = pa.array([names.get(key, name) for key, name in zip(keys, found, strict=True)], type=pa.string())
    return table.set_column(table.schema.get_field_index("model"), "model", column)


def _models_by_key(grid: Grid) -> dict[str, str]:
    return {cell.key: strand.model for strand, cell in grid.cells()}


def with_control_rates(table: pa.Table) -> pa.Table:
    """Rows with their controls as shares, computed from the counts. A reading has `reading` and `null` instead: what
    its metric says, and its own null."""
    is_iia = pc.fill_null(pc.equal(table["metric"], IIA), True)
    n_total = pc.cast(table["n_total"], pa.float64())
    for name, count in CONTROL_RATES.items():
        share = pc.divide(pc.cast(table[count], pa.float64()), n_total)
        share = pc.if_else(is_iia, share, pa.scalar(None, pa.float64()))
        table = table.add_column(table.schema.get_field_index("iia") + 1, name, share)
    for name, control in (("null", "_random"), ("reading", "")):
        found: Any = pa.nulls(table.num_rows, pa.float64())
        for metric, about in METRICS.items():
            column = table[f"sum_{about.measure}{control}" if about.measure else f"n_correct{control}"]
            mean = pc.divide(pc.cast(column, pa.float64()), n_total)
            found = pc.if_else(pc.fill_null(pc.equal(table["metric"], metric), False), mean, found)
        found = pc.if_else(is_iia, pa.scalar(None, pa.float64()), found)
        table = table.add_column(table.schema.get_field_index("metric") + 1, name, found)
    return table


def _planned_fields(grid: Grid) -> Iterator[dict[str, Any]]:
    """What `where` may name of cells without a row."""
    for strand, cell in grid.cells():
        yield dict.fromkeys(ROW_FIELDS) | cell_fields(strand, cell)


def cells(grid: Grid, status: SweepStatus) -> pd.DataFrame:
    """One line a planned cell: cell_key, experiment, task, hypothesis, layer, position, token, seed, method, model,
    strand, metric (of its method), state, reason, job."""
    table = cells_table(grid)
    metrics = [METHODS[strand.stream.method["name"]].metric for strand, _ in grid.cells()]
    table = table.append_column("metric", pa.array(metrics, type=pa.string()))
    found = [status.cells[key] for key in table["cell_key"].to_pylist()]
    for name in ("state", "reason", "job"):
        table = table.append_column(name, pa.array([str(getattr(cell, name)) for cell in found], type=pa.string()))
    return _to_pandas(table)


def query(sql: str, *, results: pa.Table, cells: pd.DataFrame) -> pd.DataFrame:
    """DuckDB's answer to `sql` over the views `results` and `cells`. Raises: SpecError with its message."""
    import duckdb

    with duckdb.connect(config={"autoinstall_known_extensions": "false"}) as connection:
        connection.register("results", with_control_rates(results))
        connection.register("cells", cells)
        try:
            answer = connection.sql(sql)
            if answer is None:
                raise SpecError(f"query: {sql!r} gives no table; expected a SELECT")
            frame: pd.DataFrame = answer.df()
        except duckdb.Error as error:
            raise SpecError(f"query: {error}; the views are `results` and `cells`") from error
    return frame


def with_metric(rows: pd.DataFrame, metric: Metric) -> pd.DataFrame:
    """The rows with the metric behind them: `METRIC`, `METRIC_low` and `METRIC_high` (its interval), and `METRIC_none`,
    `METRIC_full`, `METRIC_random` of the controls; nothing in the rows of probes."""
    from orchestrator.store.measures import metric_numbers

    found = metric_numbers(rows, metric).where(rows["metric"] == Metric.IIA)
    names = {name: metric.value if name == "value" else f"{metric}_{name}" for name in NUMBERS}
    return rows.drop(columns=["iia"] if metric is Metric.IIA else []).join(found.rename(columns=names))


def report(
    rows: pd.DataFrame,
    cells: pd.DataFrame,
    folder: Path,
    *,
    spec: SweepSpec,
    baselines: Mapping[str, str],
    metric: Metric = Metric.IIA,
    traces: Traces,
) -> Path:
    """The path of the HTML page in `folder`. Raises: StorageError."""
    from orchestrator.report import write_report
    from orchestrator.report.asked import asked_by

    try:
        folder.mkdir(parents=True, exist_ok=True)
        asked = asked_by(spec)
        return write_report(
            rows, cells, folder, title=spec.name, baselines=baselines, metric=metric, asked=asked, traces=traces
        )
    except OSError as error:
        raise StorageError(f"{folder}: cannot write the report: {error.strerror}") from error


def traces(folder: SweepFolder, *, aligned: set[str]) -> Traces:
    """How the sweep's cells learned; those of `aligned` have an alignment."""
    from orchestrator.report.traces import Traces

    return Traces(cells=read_traces(folder), aligned=aligned)


def compare(
    first: Found, second: Found, folder: Path | None, *, metric: Metric = Metric.IIA
) -> tuple[Comparison, Path]:
    """The comparison of two sweeps, and the path of its page in `folder` (default: the first one's report/vs-NAME).

    Raises: SpecError where both are one sweep, StorageError.
    """
    from orchestrator.report.comparison import Side, compare
    from orchestrator.report.comparison_page import write_comparison

    roots = [first[1].root, second[1].root]
    if roots[0].resolve() == roots[1].resolve():
        raise SpecError(f"report: both sweeps are {roots[0]}; expected two")
    names = [first[0].name, second[0].name]
    if names[0] == names[1]:
        names = list(map(str, roots))
    sides = [
        Side(name=name, spec=spec.model_dump(mode="json"), rows=rows, cells=cells)
        for name, (spec, _, rows, cells) in zip(names, (first, second), strict=True)
    ]
    folder = folder or first[1].report / f"vs-{roots[1].name}"
    found = compare(*sides, metric=metric)
    try:
        return found, write_comparison(found, folder)
    except OSError as error:
        raise StorageError(f"{folder}: cannot write the comparison: {error.strerror}") from error


def summary(
    rows: pd.DataFrame, cells: pd.DataFrame, *, baselines: Mapping[str, str], metric: Metric = Metric.IIA
) -> pd.DataFrame:
    """The paper's table, one line a map: see `orchestrator.report.summary`."""
    from orchestrator.report.tables import summary as table

    return table(rows, cells, baselines=baselines, metric=metric)


def check(status: SweepStatus, store: Store) -> Check:
    """What is missing for a sweep that is done. The store of one that is done is gathered. Raises: StorageError."""
    said = {}
    for state in CellState:
        n_cells = status.counts[state]
        if state is not CellState.DONE and n_cells:
            reasons = {cell.reason for cell in status.cells.values() if cell.state is state and cell.reason}
            why = f", for instance: {sorted(reasons)[0]}" if reasons else ""
            said[state] = f"{counted(n_cells, 'cell')} {state.label}{why}"
    settled = [line for state, line in said.items() if state.is_remark]
    problems = [line for state, line in said.items() if not state.is_remark]
    problems += _not_gathered(store) if status.is_done else ()
    torn = tuple(f"{shard.path}: torn shard ({shard.problem}); its rows do not count" for shard in status.torn)
    return Check(
        is_done=status.is_done and not problems,
        n_cells=len(status.cells),
        n_done=status.counts[CellState.DONE],
        problems=(*problems, *torn) if problems else (),
        remarks=(
            *settled,
            *status.notes,
            *(() if problems else (f"{line}, and others have replaced them" for line in torn)),
        ),
    )


def _not_gathered(store: Store) -> Iterator[str]:
    """Why `store.path` does not hold the rows, where it does not."""
    try:
        store.gather()
    except OSError as error:
        yield f"{store.path}: the rows are in shards/, but cannot be gathered here: {error.strerror}; make it writable"


def _to_pandas(table: pa.Table) -> pd.DataFrame:
    """The table as a frame; a unit stays a whole number beside cells that have none, and so do layer and position."""
    frame: pd.DataFrame = table.to_pandas()
    names = [axis.name for axis in AXES if axis.is_number and (axis.is_optional or frame[axis.name].isna().any())]
    return frame.astype(dict.fromkeys(names, "Int64"))
