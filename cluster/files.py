"""The files that a backend keeps under `folder/cluster/`: a reader sees each whole or not at all."""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path
from typing import Any


def put_json(path: Path, value: Any) -> None:
    """Write `value` to `path` in place of what was there. Raises: OSError."""
    temporary = _written_aside(path, value)
    try:
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def create_json(path: Path, value: Any) -> bool:
    """Whether this call created `path`; of several processes that try, on any node, one does. Raises: OSError."""
    temporary = _written_aside(path, value)
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    return True


def get_json(path: Path) -> Any:
    """The value in `path`, or None where there is no such file. Raises: OSError, ValueError (not our file)."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


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
