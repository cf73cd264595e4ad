"""A spec's text as plain values: YAML 1.2's scalars, no key twice, and the `--set KEY=VALUE` of the command line.

YAML 1.1, which many programs still read, takes `No` for false and `1e-3` for text; a spec says `answers: [Yes, No]` and
`lr: 1e-3`. What 1.2's programs disagree on (dates, `1_000`, `0x10`, `0o17`) is text here: a task's setting may say so.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Final

from ruamel.yaml import YAML
from ruamel.yaml.constructor import DuplicateKeyError, SafeConstructor
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.representer import SafeRepresenter
from ruamel.yaml.resolver import VersionedResolver, implicit_resolvers

from orchestrator.errors import SpecError, wrong_value

_Scalars = list[tuple[str, re.Pattern[str]]]
# Source: YAML 1.2.2, section 10.3.2 (core schema), without its octal and hexadecimal numbers; and `<<`.
_SCALARS: Final[_Scalars] = [
    (f"tag:yaml.org,2002:{kind}", re.compile(f"^(?:{pattern})$"))
    for kind, pattern in (
        ("bool", r"true|True|TRUE|false|False|FALSE"),
        ("null", r"~|null|Null|NULL|"),
        ("int", r"[-+]?[0-9]+"),
        ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf)|\.(nan|NaN)"),
        ("merge", r"<<"),
    )
]
_ANY_VERSION: Final[_Scalars] = _SCALARS + [(tag, pattern) for _, tag, pattern, _ in implicit_resolvers]


class _Reading(VersionedResolver):
    """What a word without quotes means."""

    versioned_resolver: ClassVar[Mapping[str | None, _Scalars]] = {None: _SCALARS}
    processing_version: ClassVar[tuple[int, int]] = (1, 2)  # 012 is twelve, whatever a %YAML directive says


class _Writing(VersionedResolver):
    """A text that YAML 1.1 or 1.2 would read as something else is quoted."""

    versioned_resolver: ClassVar[Mapping[str | None, _Scalars]] = {None: _ANY_VERSION}


class _Constructor(SafeConstructor):
    """Mappings have keys that are all different."""

    def check_mapping_key(self, node: Any, key_node: Any, mapping: Any, key: Any, value: Any) -> bool:
        if str(key) in map(str, mapping):  # 1 and '1' are one key of a JSON document
            problem = f"key `{key}` is there twice; keep one"
            raise DuplicateKeyError(None, None, problem, key_node.start_mark)
        return True


class _Representer(SafeRepresenter):
    """A list of plain values stays on one line, and a number such as 1.0e-05 is one for readers of YAML 1.1 too."""

    def represent_list(self, value: Any) -> Any:
        flat = all(not isinstance(item, (list, dict)) for item in value)
        return self.represent_sequence("tag:yaml.org,2002:seq", value, flow_style=flat)

    def represent_float(self, value: float) -> Any:
        node = super().represent_float(value)
        node.value = re.sub(r"^(-?\d+)e", r"\1.0e", node.value)
        return node


_Representer.add_representer(list, _Representer.represent_list)
_Representer.add_representer(float, _Representer.represent_float)


def _yaml() -> YAML:
    yaml = YAML(typ="safe", pure=True)
    yaml.Resolver, yaml.Constructor, yaml.Representer = _Reading, _Constructor, _Representer
    return yaml


def parse_yaml(text: str, source: str) -> Any:
    """The value of a YAML text. Raises: SpecError naming the line."""
    try:
        return _yaml().load(text)
    except MarkedYAMLError as error:
        where = f"{source}:{error.problem_mark.line + 1}" if error.problem_mark else source
        raise SpecError(f"{where}: not readable as YAML: {error.problem}") from error
    except RecursionError:
        raise SpecError(f"{source}: not readable as YAML: too many brackets within brackets") from None
    except (YAMLError, ValueError, AssertionError) as error:  # int's: thousands of digits; ruamel's: a bad directive
        raise SpecError(f"{source}: not readable as YAML: {error}") from error


def read_mapping(path: Path) -> dict[str, Any]:
    """The mapping in the spec file at `path`. Raises: SpecError."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SpecError(f"{path}: no such file; give the path of a sweep's YAML file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{path}: not readable: {error}; give a YAML file in UTF-8") from error
    value = parse_yaml(text, str(path))
    if not isinstance(value, dict):
        got = "nothing" if value is None else type(value).__name__
        raise SpecError(f"{path}: got {got}; expected a mapping with `name`, `model`, `task` and `grid`")
    return value


def apply_overrides(raw: dict[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """A copy of `raw` with each `a.b=VALUE` set, VALUE read as YAML. Raises: SpecError."""
    result: dict[str, Any] = _copied(raw)
    for override in overrides:
        dotted, equals, text = override.partition("=")
        keys = dotted.strip().split(".")
        if not equals or not all(keys):
            raise SpecError(f"--set: got {override!r}; expected KEY=VALUE, for instance data.n_train=2000")
        place = result
        for key in keys[:-1]:
            below = place.setdefault(key, {})
            if not isinstance(below, dict):
                raise SpecError(wrong_value("--set", dotted, text, f"`{key}` is no mapping in the spec but {below!r}"))
            place = below
        place[keys[-1]] = parse_yaml(text, f"--set {dotted}")
    return result


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list) else value


def to_yaml(value: dict[str, Any]) -> str:
    """The YAML text of plain values, keys in the order given; `parse_yaml` reads it back."""
    yaml, text = _yaml(), io.StringIO()
    yaml.Resolver, yaml.width, yaml.default_flow_style = _Writing, 120, False
    yaml.sort_base_mapping_type_on_output = False
    yaml.dump(value, text)
    return text.getvalue()
