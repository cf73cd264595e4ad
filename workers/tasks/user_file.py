"""The tasks that a user's Python file defines; whatever is wrong with it is a TaskError with file and line."""

from __future__ import annotations

import hashlib
import re
import sys
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import Final

from workers.tasks.base import AbstractTask, TaskError

_MODULE: Final = "causalsweep_task_"


def tasks_of_file(path: Path, digest: str | None) -> dict[str, type[AbstractTask]]:
    """The tasks that the file defines, by name; `digest` is the SHA-256 that it must have, where one is given.

    Raises: TaskError with file and line.
    """
    try:
        source = path.read_bytes()
    except OSError as error:
        raise TaskError(f"file: cannot read {path}: {error.strerror}; give the path of a Python file") from error
    found = hashlib.sha256(source).hexdigest()
    if digest is not None and digest != found:
        raise TaskError(f"file: {path} has changed since the sweep was planned ({found[:12]}, planned {digest[:12]})")
    module = ModuleType(f"{_MODULE}{found[:16]}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # where a dataclass looks its annotations up
    try:
        exec(compile(source, str(path), "exec", dont_inherit=True), module.__dict__)
    except (Exception, SystemExit) as error:  # whatever a user's file raises
        raise TaskError(f"file: {path}{line_of(error, path)}: {type(error).__name__}: {error}") from error
    classes = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, AbstractTask) and value.__module__ == module.__name__
    ]
    return _by_name(classes, path, source)


def _by_name(classes: list[type[AbstractTask]], path: Path, source: bytes) -> dict[str, type[AbstractTask]]:
    """The classes that are whole. Raises: TaskError for one without a name, and where none is whole."""
    tasks: dict[str, type[AbstractTask]] = {}
    unfinished = []
    for kind in classes:
        place = f"{path}{_line_of_class(kind.__name__, source)}: class {kind.__name__}"
        lacks = sorted(getattr(kind, "__abstractmethods__", ()))
        if lacks:
            unfinished.append(f"{place} lacks {', '.join(lacks)}")
        elif not isinstance(getattr(kind, "name", None), str):
            raise TaskError(f'file: {place} has no name; write `name = "..."` in it')
        elif taken := sorted({one.name for one in fields(kind)} & set(dir(AbstractTask))):
            raise TaskError(f"file: {place} has a setting {taken[0]!r}, which is what a task does; give another name")
        else:
            tasks[kind.name] = kind
    if not tasks:
        wanted = "it needs a subclass of AbstractTask with all its methods"
        raise TaskError("; ".join([f"file: {path} defines no task; {wanted}", *unfinished]))
    return tasks


def line_of(error: BaseException, path: Path) -> str:
    """`:LINE` of the innermost frame of `error` that lies in `path`, or nothing."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return f":{error.lineno}"
    line, frame = "", error.__traceback__
    while frame is not None:
        if frame.tb_frame.f_code.co_filename == str(path):
            line = f":{frame.tb_lineno}"
        frame = frame.tb_next
    return line


def _line_of_class(name: str, source: bytes) -> str:
    found = re.search(rf"^\s*class {name}\b".encode(), source, flags=re.MULTILINE)
    return f":{len(source[: found.end()].splitlines())}" if found else ""
