"""The tasks that a user's Python file defines; whatever is wrong with it is a TaskError with file and line."""

from __future__ import annotations

import atexit
import contextlib
import functools
import hashlib
import re
import shutil
import sys
import tempfile
from dataclasses import fields
from importlib.machinery import PathFinder
from importlib.metadata import packages_distributions
from pathlib import Path
from types import ModuleType
from typing import Final

from workers.tasks.base import AbstractTask, TaskError

_ALONE: Final = (
    "a sweep carries the task's file alone: write what it needs into it or its settings, install it on every node, or "
    "give an absolute path that every node sees"
)
MODULE_PREFIX: Final = "causalsweep_task_"  # begins the names of the modules that users' files become


def tasks_of_file(path: Path, digest: str | None) -> dict[str, type[AbstractTask]]:
    """The tasks that the file defines, by name; `digest` is the SHA-256 that it must have, where one is given.

    Without one the file is the user's own, from which a sweep is planned. A sweep carries a copy of it and nothing that
    lies beside it, so it is tried as that copy: in a folder of its own.
    Raises: TaskError with file and line.
    """
    try:
        source = path.read_bytes()
    except OSError as error:
        raise TaskError(f"file: cannot read {path}: {error.strerror}; give the path of a Python file") from error
    found = hashlib.sha256(source).hexdigest()
    if digest is not None and digest != found:
        raise TaskError(f"file: {path} has changed since the sweep was planned ({found[:12]}, planned {digest[:12]})")
    module = ModuleType(f"{MODULE_PREFIX}{found[:16]}")
    module.__dict__["__source_file__"] = str(path)  # as tracebacks name it
    module.__file__ = str(path)
    if digest is None:
        module.__file__ = str(scratch_folder() / f"{found}.py")
        Path(module.__file__).write_bytes(source)
    sys.modules[module.__name__] = module  # where a dataclass looks its annotations up
    before = set(sys.modules)
    try:
        with contextlib.chdir(scratch_folder()) if digest is None else contextlib.nullcontext():
            exec(compile(source, str(path), "exec", dont_inherit=True), module.__dict__)
    except (Exception, SystemExit) as error:  # whatever a user's file raises
        where = f"{path}{line_of(error, path)}"
        raise TaskError(f"file: {where}: {type(error).__name__}: {error}{hint_of(error)}") from error
    if digest is None:
        _check_imports(path, set(sys.modules) - before)
    classes = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, AbstractTask) and value.__module__ == module.__name__
    ]
    return _by_name(classes, path, source)


@functools.cache
def scratch_folder() -> Path:
    """A folder that lives as long as this process, with nothing in it but copies of task files."""
    folder = Path(tempfile.mkdtemp(prefix="causalsweep-task-")).resolve()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def hint_of(error: BaseException) -> str:
    """What would be right where a task looks for a file that a sweep does not carry; else nothing."""
    if not isinstance(error, FileNotFoundError | ModuleNotFoundError):
        return ""
    return f"; {_ALONE}"


def _check_imports(path: Path, new: set[str]) -> None:
    """Raises: TaskError for an import of another file beside the user's that no job would find."""
    beside = path.resolve().parent
    others = [part for part in sys.path if Path(part or ".").resolve() not in (beside, Path.cwd())]
    for name in sorted(new):
        file, top = getattr(sys.modules.get(name), "__file__", None), name.partition(".")[0]
        if file is None or not Path(file).resolve().is_relative_to(beside) or top in packages_distributions():
            continue
        if PathFinder.find_spec(top, others) is None:
            for imported in (one for one in new if one.partition(".")[0] == top):
                sys.modules.pop(imported, None)  # so that the next try sees it again
            raise TaskError(f"file: {path}: imports {file}, which lies beside it; {_ALONE}")


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
