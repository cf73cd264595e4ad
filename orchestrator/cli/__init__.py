"""The command line: each command is one call into `orchestrator.Sweep`, and this is the only place that prints.

Exit codes: 0 done, 1 not done (or stopped), 2 bad input. Nothing heavy is imported before a command runs, so that
--help answers at once.
"""

from __future__ import annotations

import logging
import sys
from typing import Annotated

import typer

from orchestrator import __version__
from orchestrator.cli import reading, running, steering, watching

app = typer.Typer(
    name="causalsweep",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Find where inside a language model an algorithm lives: Boundless DAS over grids of hypotheses, layers and "
    "token positions, on this machine, on SLURM or on Ray.",
    epilog="Begin with: causalsweep run examples/demo.yaml",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"causalsweep {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """The options that belong to no command."""


for module in (running, watching, steering, reading):
    for command in module.COMMANDS:
        app.command()(command)


def main() -> None:
    """Run the command line; what the orchestrator or a backend raises becomes a message and an exit code."""
    from cluster.backend import ClusterError
    from orchestrator.errors import RepeatedBug, SweepError

    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        app(prog_name="causalsweep")  # whichever way it was started: the completion asks for it by this name
    except RepeatedBug as error:
        print(f"stopped: {error}", file=sys.stderr)
        sys.exit(1)
    except (SweepError, ClusterError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
