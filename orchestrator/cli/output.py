"""Standard output that may be full or gone: what cannot be written is one message, and never a traceback.

A write error of standard output is told from one of a sweep's files here, where the bytes leave the process.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import Any

from orchestrator.errors import StorageError


class OutputError(StorageError):
    """Standard output takes no more: the disk behind it is full, for instance."""


class _StandardOutput(io.FileIO):
    """The file behind standard output. A reader that has gone, as in `| head`, stays a BrokenPipeError."""

    def write(self, data: Any, /) -> int:
        """Raises: OutputError, BrokenPipeError."""
        try:
            return super().write(data)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OutputError(f"standard output: cannot write: {error.strerror}") from error


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """Inside, and when it ends, a write that standard output cannot take raises OutputError.

    Where nobody reads any more the command ends with 1, quietly.
    """
    before = sys.__stdout__
    if before is None or before is not sys.stdout:  # somebody has put his own in its place
        yield
        return
    raw: Any = _StandardOutput(before.fileno(), "w", closefd=False)
    # a letter that the terminal does not have, such as one of a token in cp1252, is written as its number
    letters = "backslashreplace" if before.errors == "strict" else before.errors
    sys.stdout = io.TextIOWrapper(io.BufferedWriter(raw), before.encoding, letters, line_buffering=before.isatty())
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except (BrokenPipeError, OutputError) as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), before.fileno())  # what is still buffered goes nowhere
        if isinstance(error, OutputError):
            raise
        sys.exit(1)
    finally:
        sys.stdout = before
