"""The command line: each command is one call into `orchestrator.Sweep`, and only this package prints.

Exit codes: 0 done, 1 not done (or stopped), 2 bad input or output that cannot be written, 130 interrupted. Nothing
heavy is imported before a command runs, so that --help answers at once.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from typing import Annotated, NoReturn

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
    from orchestrator.cli.output import guarded
    from orchestrator.errors import RepeatedBug, SweepError

    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        with guarded():
            app(prog_name="causalsweep")  # whichever way it was started: the completion asks for it by this name
    except RepeatedBug as error:
        _end(f"stopped: {error}", 1)
    except (SweepError, ClusterError) as error:
        _end(f"error: {error}", 2)
    except Exception as error:
        if not _is_interrupted(error):
            raise
        sys.exit(130)


def _end(message: str, code: int) -> NoReturn:
    with contextlib.suppress(OSError):  # standard error may be full too
        print(message, file=sys.stderr, flush=True)
    sys.exit(code)


def _is_interrupted(error: BaseException | None) -> bool:
    """Whether Ctrl-C is behind an error: a library whose loading was interrupted raises one of its own."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__cause__ or error.__context__
    return False
