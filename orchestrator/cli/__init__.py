"""The command line: each command is one call into `orchestrator.Sweep`, and only this package prints.

Exit codes: 0 done, 1 not done (or stopped), 2 bad input or output that cannot be written, 130 interrupted. Nothing
heavy is imported before a command runs, so that --help answers at once.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from typing import Annotated, Any, Final, NoReturn

import typer
from typer.core import TyperGroup

from orchestrator import __version__
from orchestrator.cli import auditing, exporting, finding, reading, running, steering, watching

GROUPS: Final = {
    "Prepare a sweep": (finding.init, running.prompt, finding.methods, running.plan, reading.doctor),
    "Run it": (running.run, running.submit, running.resume),
    "While it runs": (
        *(finding.list_sweeps, watching.status, watching.logs, watching.errors),
        *(steering.cancel, steering.hold, steering.release, steering.limit),
    ),
    "Read what it found": (
        *(reading.results, reading.summary, reading.query, reading.report, reading.check),
        exporting.export,
    ),
    "Ask why": (auditing.explain, auditing.fsck),
}


class Grouped(TyperGroup):
    """The commands in the order of a sweep's life, each with its whole first sentence."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write one section for each group."""
        for title, functions in GROUPS.items():
            lines = []
            for name in map(_name, functions):
                command = self.get_command(ctx, name)
                assert command is not None
                lines.append((name, (command.help or "").split("\n\n")[0].replace("\n", " ")))
            with formatter.section(title):
                formatter.write_dl(lines)


def _name(command: Any) -> str:
    return str(command.__name__).removesuffix("_sweeps")


app = typer.Typer(
    cls=Grouped,
    name="causalsweep",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Find where inside a language model an algorithm lives: Boundless DAS over grids of hypotheses, layers and "
    "token positions, on this machine, on SLURM or on Ray.",
    epilog="Begin with: causalsweep run examples/demo.yaml, or with your model: causalsweep init MODEL",
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


for functions in GROUPS.values():
    for function in functions:
        app.command(_name(function))(function)


def main() -> None:
    """Run the command line; what the orchestrator or a backend raises becomes a message and an exit code."""
    from cluster.backend import ClusterError
    from orchestrator.cli.output import guarded
    from orchestrator.errors import BudgetReached, RepeatedBug, SweepError

    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        with guarded():
            app(prog_name="causalsweep")  # whichever way it was started: the completion asks for it by this name
    except (RepeatedBug, BudgetReached) as error:
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
