"""results, summary, query, report, check, doctor."""

from __future__ import annotations

import io
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.options import DEFAULT_SWEEPS, Json, On, Set, Source, Sweeps, Where, load, print_json

if TYPE_CHECKING:
    import pandas as pd


class Format(StrEnum):
    """How a table is written."""

    TABLE = "table"
    CSV = "csv"
    PARQUET = "parquet"
    JSON = "json"


FormatOption = Annotated[Format, typer.Option("--format", help="table, csv, parquet or json.")]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", dir_okay=False, help="The file to write. Default: standard output.")
]
SHOWN = ("experiment", "setting", "method", "seed", "layer", "position", "token", "status", "iia", "iia_normalized")
PLACE = ("site", "unit", "place")  # shown where some cell is not at the output of a block


def results(
    source: Source,
    where: Where = None,
    form: FormatOption = Format.TABLE,
    output: Output = None,
    sweeps: Sweeps = DEFAULT_SWEEPS,
    as_json: Json = False,
) -> None:
    """Print the rows, one per cell and setting.

    \b
    causalsweep results demo --where experiment=left_boundary --where layer=2..3
    causalsweep results demo --format csv -o demo.csv
    """
    frame = load(source, sweeps).results(where=where or ())
    if form is Format.TABLE and not as_json and output is None:
        frame = frame[_shown(frame)]
    _write(frame, Format.JSON if as_json else form, output)


def summary(
    source: Source,
    form: FormatOption = Format.TABLE,
    output: Output = None,
    sweeps: Sweeps = DEFAULT_SWEEPS,
    as_json: Json = False,
) -> None:
    """Print the paper's table: for each map its maximum, variance, and correlation with the baseline's map.

    --format csv, parquet and json have all columns of `orchestrator.report.summary`.

    \b
    causalsweep summary demo
    causalsweep summary demo --format csv -o table.csv
    """
    frame = load(source, sweeps).summary()
    if form is Format.TABLE and not as_json and output is None:
        from orchestrator.cli.render import out, summary_view

        out.print(summary_view(frame))
        return
    _write(frame, Format.JSON if as_json else form, output)


def query(
    source: Source,
    sql: Annotated[str, typer.Argument(help="SQL over the views `results` and `cells`.")],
    form: FormatOption = Format.TABLE,
    output: Output = None,
    sweeps: Sweeps = DEFAULT_SWEEPS,
    as_json: Json = False,
) -> None:
    """Run an SQL query on the rows, with DuckDB.

    \b
    causalsweep query demo "SELECT experiment, max(iia) FROM results GROUP BY experiment"
    """
    _write(load(source, sweeps).query(sql), Format.JSON if as_json else form, output)


def report(
    source: Source,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", file_okay=False, help="The folder to write. Default: the sweep's report/."),
    ] = None,
    sweeps: Sweeps = DEFAULT_SWEEPS,
    as_json: Json = False,
) -> None:
    """Draw the heat maps, and write an HTML page that works offline.

    \b
    causalsweep report demo
    """
    path = load(source, sweeps).report(output)
    print_json({"path": str(path)}) if as_json else print(path)


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


def _shown(frame: pd.DataFrame) -> list[str]:
    """The columns of the table for people; those of the site only where they tell cells apart."""
    from workers.files.place import BLOCK_OUTPUT

    if (frame["site"] == BLOCK_OUTPUT).all():
        return list(SHOWN)
    told = [name for name in PLACE if frame[name].notna().any()]
    at = SHOWN.index("layer") + 1
    return [*SHOWN[:at], *told, *SHOWN[at:]]


def _write(frame: pd.DataFrame, form: Format, output: Path | None) -> None:
    """The table in the wanted form, on standard output or whole in a file. Raises: SpecError, StorageError."""
    from orchestrator.errors import SpecError, StorageError
    from workers.files.folder import replace_file

    if form is Format.PARQUET and output is None:
        raise SpecError("--format parquet: got no file; give one with -o FILE")
    content = _bytes(frame, form)
    if output is None:
        sys.stdout.write(content.decode("utf-8"))
        return
    try:
        replace_file(output, content)
    except OSError as error:
        raise StorageError(f"{output}: cannot write: {error.strerror}") from error


def _bytes(frame: pd.DataFrame, form: Format) -> bytes:
    if form is Format.PARQUET:
        buffer = io.BytesIO()
        frame.to_parquet(buffer, index=False)
        return buffer.getvalue()
    if form is Format.CSV:
        text = frame.to_csv(index=False)
    elif form is Format.JSON:
        text = frame.to_json(orient="records", date_format="iso", indent=1) + "\n"
    elif frame.empty:
        text = "no rows\n"
    else:
        text = frame.to_string(index=False, na_rep="", float_format=lambda value: f"{value:.4f}") + "\n"
    return str(text).encode("utf-8")


COMMANDS = (results, summary, query, report, check, doctor)
