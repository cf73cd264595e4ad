"""A spec's text as plain values: YAML 1.2's scalars, no key twice, and the `--set KEY=VALUE` of the command line.

PyYAML reads YAML 1.1, where `No` is false and `1e-3` a string; a spec says `answers: [Yes, No]` and `lr: 1e-3`.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable
from pathlib import Path
from typing import Any, ClassVar, Final

import yaml

from orchestrator.errors import SpecError, wrong_value

_SCALARS: Final = (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", ("~", "n", "N", "")),
    ("int", r"[-+]?[0-9]+", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf)|\.(nan|NaN)", "-+.0123456789"),
    ("merge", r"<<", "<"),
)


class _Loader(yaml.SafeLoader):
    """Source: YAML 1.2.2, section 10.3.2 (core schema); and `<<`."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}  # none of YAML 1.1's

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """A mapping whose keys are all different."""
        seen: set[str] = set()
        for key, _ in node.value:
            if str(key.value) in seen:
                problem = f"key `{key.value}` stands there twice; keep one"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(str(key.value))
        mapping: dict[Hashable, Any] = super().construct_mapping(node, deep)
        return mapping


def _construct_int(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    return int(loader.construct_scalar(node))  # 012 is twelve in YAML 1.2


_Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)


def parse_yaml(text: str, source: str) -> Any:
    """The value of a YAML text. Raises: SpecError naming the line."""
    try:
        return yaml.load(text, Loader=_Loader)  # a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{source}:{mark.line + 1}" if mark else source
        raise SpecError(f"{where}: not readable as YAML: {error.problem}") from error
    except yaml.YAMLError as error:
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
        raise SpecError(f"{path}: got {got}; a mapping with `name`, `model`, `task` and `grid` is right")
    return value


def apply_overrides(raw: dict[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """A copy of `raw` with each `a.b=VALUE` set, VALUE read as YAML. Raises: SpecError."""
    result: dict[str, Any] = _copied(raw)
    for override in overrides:
        dotted, equals, text = override.partition("=")
        keys = dotted.strip().split(".")
        if not equals or not all(keys):
            raise SpecError(f"--set: got {override!r}; KEY=VALUE is right, for instance data.n_train=2000")
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
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
    return text


class _Dumper(yaml.SafeDumper):
    """Quotes what YAML 1.1 or 1.2 would read as something else than text; a short list stays on one line."""


for _tag, _pattern, _first in _SCALARS:
    for _kind in (_Loader, _Dumper):
        _kind.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), list(_first))


def _represent_list(dumper: yaml.SafeDumper, value: list[Any]) -> yaml.Node:
    flat = all(not isinstance(item, (list, dict)) for item in value)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", value, flow_style=flat)


_Dumper.add_representer(list, _represent_list)
