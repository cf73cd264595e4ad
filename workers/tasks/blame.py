"""Where in a user's file a mistake of a task lies. Functions, not methods: names of a task are its writer's."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from workers.tasks.base import AbstractTask, TaskError
from workers.tasks.user_file import hint_of


def place_of(task: AbstractTask, part: Any) -> str:
    """`FILE:LINE: ` of a part of the task (a method, a property, a function of a causal model) that a user's file
    defines; nothing for a built-in one."""
    code = getattr(part.fget if isinstance(part, property) else part, "__code__", None)
    if code is None or type(task).__module__.startswith("workers."):
        return ""
    return f"{code.co_filename}:{code.co_firstlineno}: "


@contextmanager
def blamed(task: AbstractTask) -> Iterator[None]:
    """Inside, whatever the task's own code raises becomes a TaskError with the innermost line of its file."""
    try:
        yield
    except (TaskError, MemoryError):
        raise
    except Exception as error:  # whatever a user's task raises
        module = sys.modules[type(task).__module__]
        file = getattr(module, "__source_file__", None) or getattr(module, "__file__", "")
        frames = traceback.extract_tb(error.__traceback__)
        place = ([frame for frame in frames if frame.filename == file] or frames)[-1]
        cause = f"{type(error).__name__}: {error}{hint_of(error)}"
        raise TaskError(f"task {task.name!r}: {place.filename}:{place.lineno}, {place.name}: {cause}") from error
