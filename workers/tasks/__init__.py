"""The registry of tasks, and how a spec's `task:` block becomes one. A new built-in task is a file and a line here."""

from __future__ import annotations

import difflib
import hashlib
import sys
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import Any

from workers.tasks.arithmetic import Arithmetic
from workers.tasks.base import AbstractTask, TaskError
from workers.tasks.price_tagging import PriceTagging

__all__ = ["TASKS", "AbstractTask", "TaskError", "load_task"]

TASKS: dict[str, type[AbstractTask]] = {
    PriceTagging.name: PriceTagging,
    Arithmetic.name: Arithmetic,
}


def load_task(settings: Mapping[str, Any]) -> AbstractTask:
    """The task that a spec's `task:` block, or a cell's science parameters, describe.

    `name` picks a built-in task; with `file` (a user's Python file, and `file_sha256` once it is part of a cell key)
    `name` picks the class of that name in it. Every other key is a setting of the task.
    Raises: TaskError naming the key, its value and what would be right.
    """
    options = dict(settings)
    name = options.pop("name", None)
    path, digest = options.pop("file", None), options.pop("file_sha256", None)
    known = TASKS if path is None else _tasks_of_file(Path(path), digest)
    if name is None and len(known) == 1 and path is not None:
        name = next(iter(known))
    if name not in known:
        raise TaskError(f"name: got {name!r}; {_instead(str(name), known)}")
    kind = known[name]
    allowed = {field.name for field in fields(kind)}
    for key in options:
        if key not in allowed:
            raise TaskError(f"{key}: unknown setting of task {name!r}; {_instead(key, allowed)}")
    try:
        return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in options.items()})
    except TaskError:
        raise
    except Exception as error:  # a user's __post_init__ may raise anything; the frame that knows the file says so
        raise TaskError(f"task {name!r} refuses its settings {options}: {type(error).__name__}: {error}") from error


def _tasks_of_file(path: Path, digest: str | None) -> dict[str, type[AbstractTask]]:
    """The tasks that a user's file defines, by name. Raises: TaskError with file and line."""
    try:
        source = path.read_bytes()
    except OSError as error:
        raise TaskError(f"file: cannot read {path}: {error.strerror}; give the path of a Python file") from error
    found = hashlib.sha256(source).hexdigest()
    if digest is not None and digest != found:
        raise TaskError(f"file: {path} has changed since the sweep was planned ({found[:12]}, planned {digest[:12]})")
    module_name = f"causalsweep_task_{found[:16]}"
    module = ModuleType(module_name)
    module.__file__ = str(path)
    sys.modules[module_name] = module  # where a dataclass looks its annotations up
    try:
        exec(compile(source, str(path), "exec", dont_inherit=True), module.__dict__)
    except Exception as error:  # whatever a user's file raises
        raise TaskError(f"file: {path}{_line_of(error, path)}: {type(error).__name__}: {error}") from error
    classes = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, AbstractTask) and value.__module__ == module_name
    ]
    tasks = {kind.name: kind for kind in classes if not getattr(kind, "__abstractmethods__", None)}
    if not tasks:
        raise TaskError(f"file: {path} defines no task; it needs a subclass of AbstractTask with all its methods")
    return tasks


def _line_of(error: BaseException, path: Path) -> str:
    """`:LINE` of the innermost frame of `error` that lies in `path`, or nothing."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return f":{error.lineno}"
    line, frame = "", error.__traceback__
    while frame is not None:
        if frame.tb_frame.f_code.co_filename == str(path):
            line = f":{frame.tb_lineno}"
        frame = frame.tb_next
    return line


def _instead(word: str, known: Mapping[str, Any] | set[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"there are {', '.join(sorted(known))}"
