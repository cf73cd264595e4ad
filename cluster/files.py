"""The files that a backend keeps under `folder/cluster/`: a reader sees each whole or not at all."""

from __future__ import annotations

import json
import logging
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import TypeAdapter, ValidationError

log = logging.getLogger(__name__)

_T = TypeVar("_T")
_ADAPTERS: Final[dict[Any, TypeAdapter[Any]]] = {}  # by the type that they read; making one takes milliseconds


def put_json(path: Path, value: Any) -> None:
    """Write `value` to `path` in place of what was there. Raises: OSError, which names `path`."""
    with _naming(path):
        temporary = _written_aside(path, value)
        try:
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def create_json(path: Path, value: Any) -> bool:
    """Whether this call created `path`; of several processes that try, on any node, one does.

    Raises: OSError, which names `path`.
    """
    with _naming(path):
        temporary = _written_aside(path, value)
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        finally:
            temporary.unlink(missing_ok=True)
        return True


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """An OSError inside is one of `path`: nobody knows its temporary file."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def get_json(path: Path) -> Any:
    """The value in `path`, or None where there is no such file. Raises: OSError, ValueError (not our file)."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def get_record(path: Path, kind: type[_T]) -> _T | None:
    """The record of type `kind` in `path`; None where there is none. One that is empty, torn or of another make counts
    as none, and the log names it: a reader must not fall with a file. Raises: OSError (a folder that cannot be read).
    """
    try:
        value: _T = _adapter(kind).validate_json(path.read_bytes(), strict=True)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return None
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        key = ".".join(map(str, problem["loc"]))
        log.warning("%s: not readable, taken as absent: %s%s", path, f"key `{key}`: " if key else "", problem["msg"])
        return None
    return value


def _adapter(kind: Any) -> TypeAdapter[Any]:
    if kind not in _ADAPTERS:
        _ADAPTERS[kind] = TypeAdapter(kind)
    return _ADAPTERS[kind]


def records_in(folder: Path) -> list[Path]:
    """The files of a backend in `folder`, by name: strays, temporary files and folders are passed over."""
    found = sorted(folder.glob("[!.]*.json"))
    return [path for path in found if "(" not in path.name and " " not in path.name and path.is_file()]


def _written_aside(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "x", encoding="utf-8") as file:
            json.dump(value, file)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary
