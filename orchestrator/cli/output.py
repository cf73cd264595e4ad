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


class _StandardOutput(io.FileIO):
    """The file behind standard output. A reader that has gone, as in `| head`, stays a BrokenPipeError."""

    def write(self, data: Any, /) -> int:
        """Raises: StorageError, BrokenPipeError."""
        try:
            return super().write(data)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise StorageError(f"standard output: cannot write: {error.strerror}") from error


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """Inside, and when it ends, a write that standard output cannot take raises StorageError.

    Where nobody reads any more the command ends with 1, quietly.
    """
    before = sys.stdout
    if before is sys.__stdout__ and before is not None:  # else somebody has put his own in its place
        raw: Any = _StandardOutput(before.fileno(), "w", closefd=False)
        sys.stdout = io.TextIOWrapper(
            io.BufferedWriter(raw), before.encoding, before.errors, line_buffering=before.isatty()
        )
    try:
        try:
            yield
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except BrokenPipeError:
        _discard()
        sys.exit(1)
    except StorageError:
        _discard()
        raise
    finally:
        sys.stdout = before


def _discard() -> None:
    """Send what is still buffered nowhere, so that Python does not fail on it when it ends."""
    if isinstance(sys.stdout, io.TextIOWrapper) and isinstance(sys.stdout.buffer.raw, _StandardOutput):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
