"""status, logs, errors; and the live display that `run` shares with `status --watch`."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any, Self

import typer

from orchestrator.cli.options import DEFAULT_SWEEPS, Json, Source, Sweeps, bounded, load, print_json

if TYPE_CHECKING:
    from orchestrator.status.states import SweepStatus
    from orchestrator.sweep import Sweep


class Display:
    """A table that is redrawn on a terminal; where the output goes elsewhere, one line per change."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._live: Any = None
        self._last_line = ""

    def __enter__(self) -> Self:
        from orchestrator.cli.render import out

        if not self._quiet and out.is_terminal:
            from rich.live import Live

            self._live = Live(console=out, refresh_per_second=4, transient=True)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, status: SweepStatus) -> None:
        """Show the status of this moment."""
        from orchestrator.cli.render import out, status_line, status_view

        if self._quiet:
            return
        if self._live is not None:
            self._live.update(status_view(status, live=True))
            return
        counts = str(sorted(status.counts.items()))
        if counts != self._last_line:
            self._last_line = counts
            out.print(status_line(status))

    def say(self, line: str) -> None:
        """A line that stays, on standard error."""
        print(line, file=sys.stderr, flush=True)


def status(
    source: Source,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Watch until no job is waiting or running.")] = False,
    poll_s: Annotated[float, typer.Option(help="Seconds between two checks with --watch.")] = 5.0,
    sweeps: Sweeps = DEFAULT_SWEEPS,
    as_json: Json = False,
) -> None:
    """Show cells by state. Show for each job its state, node, GPU, cells, speed, time left and reason for waiting.

    \b
    causalsweep status demo --watch
    causalsweep status demo --json | jq .cells
    """
    from orchestrator.cli.documents import status_document
    from orchestrator.cli.render import out, status_view

    bounded("--poll-s", poll_s, "SecondsOrNone")
    sweep = load(source, sweeps)
    if not watch:
        found = sweep.status()
        print_json(status_document(found)) if as_json else out.print(status_view(found))
        return
    with Display(quiet=as_json) as display:
        for found in sweep.watch(poll_s=poll_s):
            display.show(found)
    print_json(status_document(found)) if as_json else out.print(status_view(found))


def logs(
    source: Source,
    job: Annotated[
        str, typer.Argument(help="The name of a job, as `status` shows it. Default: the job with the latest log.")
    ] = "",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Keep printing as the log grows.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", help="Print only this number of last lines; 0: all.")] = 0,
    sweeps: Sweeps = DEFAULT_SWEEPS,
    as_json: Json = False,
) -> None:
    """Print a job's log, which holds all its attempts.

    \b
    causalsweep logs demo r1-0001 -f
    """
    bounded("--lines", lines, "CountOrNone")
    sweep = load(source, sweeps)
    path = sweep.log(job) if job else _latest(sweep)
    if as_json:
        print_json({"path": str(path), "text": _text(path)})
        return
    text = _text(path)
    sys.stdout.write("".join(text.splitlines(keepends=True)[-lines:]) if lines else text)
    if follow:
        for part in _growth(sweep, path, job, len(text.encode())):
            sys.stdout.write(part)
            sys.stdout.flush()


def errors(
    source: Source,
    traceback: Annotated[bool, typer.Option("--traceback", "-t", help="Print the traceback of each fault.")] = False,
    sweeps: Sweeps = DEFAULT_SWEEPS,
    as_json: Json = False,
) -> None:
    """Show what failed. Equal faults are grouped.

    \b
    causalsweep errors demo --traceback
    """
    from orchestrator.cli.documents import faults_document
    from orchestrator.cli.render import faults_view, out, skipped_lines

    sweep = load(source, sweeps)
    status = sweep.status()
    faults = sweep.errors(status)
    if as_json:
        print_json(faults_document(faults))
        return
    out.print(faults_view(faults, with_traceback=traceback), *skipped_lines(status), sep="\n")


def _latest(sweep: Sweep) -> Path:
    from orchestrator.errors import SweepNotFound
    from workers.files.folder import visible_files

    found = sorted(visible_files(sweep.folder.logs, ".log"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise SweepNotFound(f"{sweep.spec.name}: no job has begun yet, so there is no log")
    return found[-1]


def _text(path: Path) -> str:
    from orchestrator.errors import StorageError

    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""  # the job waits
    except OSError as error:
        raise StorageError(f"{path}: not readable: {error.strerror}") from error


def _growth(sweep: Sweep, path: Path, job: str, offset: int) -> Iterator[str]:
    """What is added to the log, until the job neither waits nor runs."""
    name = job or path.stem
    while True:
        if path.exists():
            with open(path, "rb") as file:
                file.seek(offset)
                added = file.read()
            offset += len(added)
            yield added.decode(errors="replace")
        if not any(one.name == name and one.holds_cells for one in sweep.status().jobs):
            return
        time.sleep(1.0)
