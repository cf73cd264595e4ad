"""What several commands share: arguments and options, loading a sweep, printing a document."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from cluster.registry import BACKENDS

if TYPE_CHECKING:
    from orchestrator.sweep import Sweep

Source: TypeAlias = Annotated[
    str, typer.Argument(metavar="SWEEP", help="A spec file, a sweep's folder, or the name of a sweep.")
]
Sweeps: TypeAlias = Annotated[
    Path,
    typer.Option(
        "--sweeps", envvar="CAUSALSWEEP_SWEEPS", file_okay=False, help="The folder that holds the sweeps' folders."
    ),
]
Set: TypeAlias = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the spec. Repeatable.")
]
On: TypeAlias = Annotated[str, typer.Option("--on", metavar="|".join(BACKENDS), help="Where the jobs run.")]
Where: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--where",
        metavar="KEY=VALUE",
        help="Only these: layer=0..3, site=head_output, experiment!=a,b; may be repeated.",
    ),
]
WhereToRun: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--where",
        metavar="KEY=VALUE",
        help="Run only these cells: layer=0..3, experiment!=a,b; may be repeated. The others stay as they are.",
    ),
]
Json: TypeAlias = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Yes: TypeAlias = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]
Reuse: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--reuse", metavar="SWEEP", help="Copy the rows of the same cells from another sweep. Repeatable."),
]
Auto: TypeAlias = Annotated[
    bool,
    typer.Option("--auto", help="Add a follow-up job that resumes the sweep while a retry may succeed (SLURM)."),
]

DEFAULT_SWEEPS = Path("sweeps")


def load(source: str, sweeps: Path, overrides: Sequence[str] | None = None) -> Sweep:
    """The sweep that a command is about. Raises: SweepError."""
    from orchestrator.sweep import Sweep

    return Sweep.load(source, overrides=overrides or (), sweeps=sweeps)


def bounded(name: str, value: Any, kind: str) -> Any:
    """The number of an option or argument, where it keeps to the bounds of that kind of `values.numbers`.

    Raises: SpecError.
    """
    from pydantic import TypeAdapter, ValidationError

    from orchestrator.errors import SpecError
    from values import numbers
    from values.problems import right

    try:
        return TypeAdapter(getattr(numbers, kind)).validate_python(value)
    except ValidationError as error:
        raise SpecError(f"{name}: got {value!r}; expected {right(error.errors()[0])}") from None


def print_json(document: Any) -> None:
    """One JSON document on standard output."""
    json.dump(document, sys.stdout, indent=1, default=str)
    sys.stdout.write("\n")
