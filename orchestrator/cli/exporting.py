"""export: what a sweep found, in the formats of other tools."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.options import DEFAULT_SWEEPS, Json, Source, Sweeps, Where, load, print_json


class ExportFormat(StrEnum):
    """What a sweep can be exported as."""

    MIB = "mib"


def export(
    form: Annotated[ExportFormat, typer.Argument(metavar="mib", help="The format: mib.")],
    source: Source,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", file_okay=False, help="The folder. Default: SWEEP/mib.")
    ] = None,
    where: Where = None,
    task: Annotated[str, typer.Option("--task", help="MIB's name of the task. Default: the sweep's own.")] = "",
    position: Annotated[
        list[str] | None,
        typer.Option("--position", metavar="OURS=THEIRS", help="MIB's name of a position. Repeatable."),
    ] = None,
    variable: Annotated[
        list[str] | None,
        typer.Option("--variable", metavar="OURS=THEIRS", help="MIB's name of a variable. Repeatable."),
    ] = None,
    sweeps: Sweeps = DEFAULT_SWEEPS,
    as_json: Json = False,
) -> None:
    """Write what the cells have learned as featurizers for MIB's leaderboard of causal variables.

    Of each model unit one cell is exported: choose by --where. docs/mib.md says what each file holds.

    \b
    causalsweep export mib demo --where seed=42 --task arithmetic --variable P=ones_carry
    causalsweep export mib demo --where layer=5 --position 81=last_token -o submission
    """
    sweep = load(source, sweeps)
    done = sweep.export_mib(
        output,
        where=where or (),
        task=task,
        positions=_pairs("--position", position or ()),
        variables=_pairs("--variable", variable or ()),
    )
    if as_json:
        print_json({"folders": list(map(str, done.folders)), "n_units": done.n_units, "notes": list(done.notes)})
        return
    print("\n".join([*map(str, done.folders), f"{done.n_units} units", *(f"note: {note}" for note in done.notes)]))


def _pairs(option: str, given: Sequence[str]) -> dict[str, str]:
    """The names by ours. Raises: SpecError."""
    from orchestrator.errors import SpecError

    found: dict[str, str] = {}
    for text in given:
        ours, equals, theirs = (part.strip() for part in text.rpartition("="))
        if not (equals and ours and theirs):
            raise SpecError(f"{option}: got {text!r}; expected OURS=THEIRS")
        found[ours] = theirs
    return found
