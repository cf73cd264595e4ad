"""The sweep's JSON files: each has a version, and is read whole and checked against its type, or refused by name.

What a file of an older version lacks has its type's default. A file of a newer version raises NewerFile. A file that
is empty, torn or something else raises NotThisFile. Both errors name the file, and the second one names the key. The
reader decides what follows: a submission's record that cannot be read refuses the sweep, a heartbeat is set aside.
"""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json, to_json

from workers.files.versions import NewerFile

NO_OTHER_KEYS: Final = {"extra": "forbid"}  # a type's `__pydantic_config__`: an unknown key is an error

_T = TypeVar("_T")
_SHOWN: Final = 60  # characters of a wrong value


class NotThisFile(ValueError):
    """A file is not what its name says: empty, torn, or written by something else."""


@dataclass(frozen=True, kw_only=True)
class Format(Generic[_T]):
    """A kind of JSON file: the dataclass that it holds, which has a field `schema`."""

    kind: type[_T]
    name: str  # for people: "a job file"
    version: int
    unversioned: int = 0  # the version of a file that names none; 0: such a file is none of ours
    # By version: what makes the next version's JSON of it. A version without an entry lacks only what has a default.
    upgrades: Mapping[int, Callable[[dict[str, Any]], None]] = field(default_factory=dict)

    def text(self, value: _T) -> str:
        """The file's text."""
        return json.dumps(asdict(value), indent=1, ensure_ascii=False) + "\n"  # type: ignore[call-overload]

    def read(self, path: Path) -> _T:
        """What the file at `path` holds. Raises: OSError, NewerFile, NotThisFile."""
        return self.parse(path.read_bytes(), path)

    def parse(self, content: bytes, path: Path) -> _T:
        """What `content` holds; `path` is where it comes from. Raises: NewerFile, NotThisFile."""
        try:
            raw = from_json(content)
        except ValueError as error:
            what = f"{error}" if content.strip() else "it is empty"
            raise NotThisFile(f"{path}: not {self.name}: {what}") from None
        found = raw.get("schema", self.unversioned) if isinstance(raw, dict) else 0
        if not isinstance(found, int) or found < 1:
            raise NotThisFile(f"{path}: not {self.name}: key `schema`: expected a version from 1 to {self.version}")
        if found > self.version:
            raise NewerFile(path, found=found, known=self.version)
        if found < self.version:
            content = self._upgraded(raw, found)
        try:
            return self._adapter.validate_json(content, strict=True)
        except ValidationError as error:
            raise NotThisFile(f"{path}: not {self.name}: {first_problem(error)}") from None

    def _upgraded(self, raw: dict[str, Any], found: int) -> bytes:
        """The JSON of a file of version `found` as this version writes it, as far as the file is whole."""
        for version in range(found, self.version):
            with contextlib.suppress(AttributeError, KeyError, TypeError):  # the check says what is wrong with it
                self.upgrades.get(version, lambda _raw: None)(raw)
        return to_json(raw | {"schema": self.version})

    @functools.cached_property
    def _adapter(self) -> TypeAdapter[_T]:
        return TypeAdapter(self.kind)


def first_problem(error: ValidationError) -> str:
    """The first thing that is wrong: key, value, and what is expected."""
    problem = error.errors(include_url=False)[0]
    # where a value may be of several types, the type tried is named beside the keys, with a capital letter
    key = ".".join(str(part) for part in problem["loc"] if not str(part)[:1].isupper())
    got = "" if problem["type"] == "missing" else f"got {problem['input']!r:.{_SHOWN}}; "
    return f"key `{key}`: {got}{problem['msg']}"
