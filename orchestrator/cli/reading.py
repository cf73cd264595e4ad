"""results, summary, query, report, check, doctor."""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.options import DEFAULT_SWEEPS, Json, On, Set, Source, Sweeps, Where, bounded, load, print_json
from orchestrator.store.metrics import Metric

if TYPE_CHECKING:
    import pandas as pd

    from orchestrator.cli.tables import Layout
    from orchestrator.sweep import Sweep

    View = tuple[str, pd.DataFrame, Layout]  # a heading, columns for people, and how they are laid out


class Format(StrEnum):
    """How a table is written."""

    TABLE = "table"
    CSV = "csv"
    PARQUET = "parquet"
    JSON = "json"
    MARKDOWN = "markdown"
    LATEX = "latex"


FormatOption = Annotated[Format, typer.Option("--format", help="How the table is written; latex uses booktabs.")]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", dir_okay=False, help="The file to write. Default: standard output.")
]
MetricOption = Annotated[
    Metric, typer.Option("--metric", help="What is shown of each cell; docs/statistics.md says what each is.")
]
Sort = Annotated[
    str, typer.Option("--sort", metavar="COLUMN", help="Sort by these columns; -iia begins with the highest.")
]
Limit = Annotated[int, typer.Option("--limit", metavar="N", help="Print only the first N rows; 0: all.")]
_WIDTH, _FORMATS = "5.5in", "pdf"  # a paper's figures
Wide = Annotated[bool, typer.Option("--wide", help="Print every column, one line a row, however wide it gets.")]


def results(
    source: Source,
    where: Where = None,
    metric: MetricOption = Metric.IIA,
    sort: Sort = "",
    limit: Limit = 0,
    form: FormatOption = Format.TABLE,
    output: Output = None,
    wide: Wide = False,
    sweeps: Sweeps = DEFAULT_SWEEPS,
    as_json: Json = False,
) -> None:
    """Print the rows, one per cell and setting.

    The table has the columns that fit. csv, parquet and json have all of them.

    \b
    causalsweep results demo --where setting=main --sort -iia --limit 10
    causalsweep results demo --where experiment=left_boundary --where layer=2..3
    causalsweep results demo --metric logit_diff
    causalsweep results demo --format csv -o demo.csv
    """
    from orchestrator.cli.layouts import results_view

    chosen = None if metric is Metric.IIA else metric
    frame = _ordered(load(source, sweeps).results(where=where or (), metric=chosen), sort, limit)
    _write(frame, [("", *results_view(frame, metric))], Format.JSON if as_json else form, output, wide)


def summary(
    source: Source,
    metric: MetricOption = Metric.IIA,
    sort: Sort = "",
    limit: Limit = 0,
    form: FormatOption = Format.TABLE,
    output: Output = None,
    wide: Wide = False,
    sweeps: Sweeps = DEFAULT_SWEEPS,
    as_json: Json = False,
) -> None:
    """Print the paper's table: for each map its maximum, variance, and correlation with the baseline's map.

    The maximum's place and its controls are beside it: no intervention (`none`), a random rotation of the learned
    width (`random`), the whole vector swapped (`whole`). csv, parquet and json have all columns of
    `orchestrator.report.summary`, and --sort takes their names.

    \b
    causalsweep summary demo --sort -maximum
    causalsweep summary demo --format latex -o table.tex
    """
    from orchestrator.cli.layouts import summary_views

    frame = _ordered(load(source, sweeps).summary(metric=metric), sort, limit)
    _write(frame, list(summary_views(frame)), Format.JSON if as_json else form, output, wide)


def query(
    source: Source,
    sql: Annotated[str, typer.Argument(help="SQL over the views `results` and `cells`.")],
    form: FormatOption = Format.TABLE,
    output: Output = None,
    wide: Wide = False,
    sweeps: Sweeps = DEFAULT_SWEEPS,
    as_json: Json = False,
) -> None:
    """Run an SQL query on the rows, with DuckDB. A cell has a row for each setting; the training one is `main`.

    \b
    causalsweep query demo "SELECT experiment, max(iia) FROM results WHERE setting = 'main' GROUP BY experiment"
    """
    from orchestrator.cli.tables import Layout

    frame = load(source, sweeps).query(sql)
    _write(frame, [("", frame, Layout())], Format.JSON if as_json else form, output, wide)


def report(
    source: Source,
    other: Annotated[
        str, typer.Argument(metavar="[OTHER]", show_default=False, help="A second sweep: both side by side instead.")
    ] = "",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", file_okay=False, help="The folder to write. Default: the sweep's report/."),
    ] = None,
    metric: MetricOption = Metric.IIA,
    figure: Annotated[
        bool, typer.Option("--figure", help="Draw the maps for a paper instead: no letter below 7 pt at --width.")
    ] = False,
    width: Annotated[str, typer.Option("--width", help="The width of a paper's figure: 5.5in, 14cm, 400pt.")] = _WIDTH,
    form: Annotated[
        str, typer.Option("--format", metavar="FORMATS", help="Some of pdf, svg and png, for --figure.")
    ] = _FORMATS,
    experiment: Annotated[
        list[str] | None, typer.Option("--experiment", help="Only this one's figure; may be repeated.")
    ] = None,
    sweeps: Sweeps = DEFAULT_SWEEPS,
    as_json: Json = False,
) -> None:
    """Draw the heat maps, and write an HTML page that works offline.

    With two sweeps the page has each map of both and their difference, with its interval, where both have measured.

    \b
    causalsweep report demo
    causalsweep report demo demo-2
    causalsweep report demo --metric kl -o kl
    causalsweep report demo --figure --width 5.5in --format pdf,svg --experiment left_boundary
    """
    if not figure:
        _check_figure_options(width, form, experiment)
    if other:
        _compare(load(source, sweeps), load(other, sweeps), output, metric, as_json=as_json, is_figure=figure)
        return
    if figure:
        formats = [part.strip() for part in form.split(",") if part.strip()]
        sweep = load(source, sweeps)
        paths = sweep.figures(
            output, width_in=_inches(width), formats=formats, experiments=experiment or (), metric=metric
        )
        print_json({"paths": list(map(str, paths))}) if as_json else print("\n".join(map(str, paths)))
        return
    path = load(source, sweeps).report(output, metric=metric)
    print_json({"path": str(path)}) if as_json else print(path)


def _compare(
    first: Sweep, second: Sweep, output: Path | None, metric: Metric, *, as_json: bool, is_figure: bool
) -> None:
    """Raises: SpecError, StorageError."""
    from orchestrator.errors import SpecError

    if is_figure:
        raise SpecError("--figure: draws the maps of one sweep; name one, or leave --figure out")
    found, path = first.compare(second, output, metric=metric)
    print_json(found.document() | {"path": str(path)}) if as_json else print(path)


def _check_figure_options(width: str, form: str, experiment: list[str] | None) -> None:
    """Raises: SpecError for an option that says nothing without `--figure`."""
    from orchestrator.errors import SpecError

    given = {"--width": width != _WIDTH, "--format": form != _FORMATS, "--experiment": bool(experiment)}
    if idle := [name for name, is_given in given.items() if is_given]:
        raise SpecError(f"{', '.join(idle)}: for the figures of a paper only; add --figure, or leave it out")


def _inches(text: str) -> float:
    """A width with its unit in inches. Raises: SpecError."""
    from orchestrator.errors import SpecError

    found = re.fullmatch(r"\s*(\d{1,4}(?:\.\d{1,4})?)\s*(in|cm|mm|pt)\s*", text)
    if found is None:
        raise SpecError(f"--width: got {text!r}; expected a length such as 5.5in, 14cm or 400pt")
    return float(found[1]) / {"in": 1.0, "cm": 2.54, "mm": 25.4, "pt": 72.0}[found[2]]


def check(source: Source, sweeps: Sweeps = DEFAULT_SWEEPS, as_json: Json = False) -> None:
    """Say whether every planned cell is done, and if not, why. Exit code 0 if done, 1 if not.

    \b
    causalsweep check demo && causalsweep report demo
    """
    from orchestrator.cli.documents import check_document
    from orchestrator.cli.render import check_view, out

    sweep = load(source, sweeps)
    found = sweep.check()
    print_json(check_document(found)) if as_json else out.print(check_view(found, sweep.spec.name))
    sys.exit(0 if found.is_done else 1)


def doctor(
    source: Source, on: On = "local", sets: Set = None, sweeps: Sweeps = DEFAULT_SWEEPS, as_json: Json = False
) -> None:
    """Check a backend before you use it: what it allows, what will fail, and the remedies.

    \b
    causalsweep doctor sweep.yaml --on slurm
    """
    from orchestrator.cli.documents import doctor_document
    from orchestrator.cli.render import doctor_view, out

    findings = load(source, sweeps, sets).doctor(on=on)
    print_json(doctor_document(findings)) if as_json else out.print(doctor_view(findings))
    sys.exit(0 if all(finding.ok for finding in findings) else 1)


def _ordered(frame: pd.DataFrame, sort: str, limit: int) -> pd.DataFrame:
    """The first `limit` rows (0: all) by the columns of --sort, what is absent last. Raises: SpecError."""
    from orchestrator.errors import SpecError
    from orchestrator.spec.filters import instead

    bounded("--limit", limit, "CountOrNone")
    keys = [key.strip() for key in sort.split(",") if key.strip()]
    names = [key.removeprefix("-") for key in keys]
    for key, name in zip(keys, names, strict=True):
        if name not in frame.columns:
            raise SpecError(f"--sort: got {key!r}; no such column; {instead(name, map(str, frame.columns))}")
    if keys:
        ascending = [not key.startswith("-") for key in keys]
        frame = frame.sort_values(names, ascending=ascending, kind="stable", na_position="last")
    return frame.head(limit) if limit else frame


def _write(frame: pd.DataFrame, views: Sequence[View], form: Format, output: Path | None, wide: bool) -> None:
    """`frame` as data, or `views` of it for people, on standard output or whole in a file.

    Raises: SpecError, StorageError.
    """
    from orchestrator.cli.tables import NO_LIMIT
    from orchestrator.errors import SpecError, StorageError
    from workers.files.folder import replace_file

    if form is Format.PARQUET and output is None:
        raise SpecError("--format parquet: got no file; give one with -o FILE")
    if form is Format.TABLE:
        content = _tables(views, NO_LIMIT if output else _width(), wide).encode("utf-8")
    else:
        content = _bytes(frame, views, form, wide)
    if output is None and form is Format.TABLE:
        sys.stdout.write(content.decode("utf-8"))
    elif output is None:
        sys.stdout.flush()
        sys.stdout.buffer.write(content)  # a document is UTF-8, whatever the terminal's letters are
        sys.stdout.buffer.flush()
    else:
        try:
            replace_file(output, content)
        except OSError as error:
            raise StorageError(f"{output}: cannot write: {error.strerror}") from error


def _width() -> int:
    """The columns of the terminal, or of the variable COLUMNS; a pipe has as many as it takes."""
    from orchestrator.cli.render import out
    from orchestrator.cli.tables import NO_LIMIT

    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns):
        return int(columns)
    return out.width if out.is_terminal else NO_LIMIT


def _tables(views: Sequence[View], width: int, wide: bool) -> str:
    from orchestrator.cli.tables import table

    parts = [
        "\n".join([*([heading] if heading else []), *table(frame, width=width, layout=layout, wide=wide)])
        for heading, frame, layout in views
    ]
    return "\n\n".join(parts) + "\n"


def _bytes(frame: pd.DataFrame, views: Sequence[View], form: Format, wide: bool) -> bytes:
    if form is Format.PARQUET:
        buffer = io.BytesIO()
        frame.to_parquet(buffer, index=False)
        return buffer.getvalue()
    if form is Format.CSV:
        text = frame.to_csv(index=False)
    elif form is Format.JSON:
        text = frame.to_json(orient="records", date_format="iso", indent=1) + "\n"
    else:
        from orchestrator.cli.tables import formatted, latex, markdown

        document = latex if form is Format.LATEX else markdown
        text = "\n".join(document(formatted(view, layout, wide=wide)) for _, view, layout in views)
    return str(text).encode("utf-8")
