"""The registry of tasks, and how a spec's `task:` block becomes one. A new built-in task is a file and a line here."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from workers.tasks.arithmetic import Arithmetic
from workers.tasks.base import AbstractTask, TaskError
from workers.tasks.price_tagging import PriceTagging
from workers.tasks.user_file import line_of, tasks_of_file

__all__ = ["TASKS", "AbstractTask", "TaskError", "find_task", "load_task", "make_task"]

TASKS: dict[str, type[AbstractTask]] = {
    PriceTagging.name: PriceTagging,
    Arithmetic.name: Arithmetic,
}


def load_task(settings: Mapping[str, Any]) -> AbstractTask:
    """The task that a spec's `task:` block, or a cell's science parameters, describe.

    `name` picks a built-in task; with `file` (a user's Python file, and `file_sha256` once it is part of a cell key)
    `name` picks the class of that name in it. Every other key is a setting of the task.
    Raises: TaskError naming the key, its value and what is expected.
    """
    return make_task(*find_task(settings))


def find_task(settings: Mapping[str, Any]) -> tuple[type[AbstractTask], dict[str, Any], Path | None]:
    """The task's class, the settings that it is asked for, and the user's file that defines it. Raises: TaskError."""
    options = dict(settings)
    name = options.pop("name", None)
    path, digest = options.pop("file", None), options.pop("file_sha256", None)
    file = None if path is None else Path(path)
    known = TASKS if file is None else tasks_of_file(file, digest)
    if name is None and len(known) == 1 and file is not None:
        name = next(iter(known))
    if name not in known:
        raise TaskError(f"name: got {name!r}; {_instead(str(name), known)}")
    return known[name], options, file


def make_task(kind: type[AbstractTask], options: Mapping[str, Any], file: Path | None) -> AbstractTask:
    """The task of this class with these settings. Raises: TaskError."""
    name = kind.name
    allowed = {field.name for field in fields(kind)}
    for key in options:
        if key not in allowed:
            raise TaskError(f"{key}: unknown setting of task {name!r}; {_instead(key, allowed)}")
    try:
        task = kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in options.items()})
    except TaskError:
        raise
    except Exception as error:  # a user's __post_init__ may raise anything
        place = f"{file}{line_of(error, file)}: " if file else ""
        cause = f"{place}{type(error).__name__}: {error}"
        raise TaskError(f"task {name!r} refuses its settings {options}: {cause}") from error
    _check_plain(task)
    return task


def _check_plain(task: AbstractTask) -> None:
    """Raises: TaskError where a setting has no JSON, and so no place in a cell key."""
    for key, value in task.settings().items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            right = "expected numbers, text, truth values, and lists and mappings of them"
            raise TaskError(f"{key}: got {value!r} as a setting of task {task.name!r}; {right}") from error


def _instead(word: str, known: Mapping[str, Any] | set[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"there are {', '.join(sorted(known))}"
