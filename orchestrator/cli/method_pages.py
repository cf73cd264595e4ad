"""The methods as their files and settings describe them. No method is imported: that would load torch."""

from __future__ import annotations

import ast
import inspect
import textwrap
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from orchestrator.errors import SpecError
from orchestrator.spec.filters import instead
from workers.methods.settings import METHODS

_WIDTH: Final = 100


def described(name: str = "") -> list[dict[str, Any]]:
    """Each method, or the one of this name: `name`, `about` (its docstring), `settings` with their defaults, what it
    measures and at which sites it works. Raises: SpecError."""
    if name and name not in METHODS:
        raise SpecError(f"methods: got {name!r}; {instead(name, METHODS)}")
    return [_described(one) for one in ([name] if name else METHODS)]


def method_lines(found: list[dict[str, Any]], *, in_full: bool) -> list[str]:
    """The methods for people: a line and the settings of each, or all that is known of one."""
    lines: list[str] = []
    for method in found:
        paragraphs = method["about"].split("\n\n")
        lines += ["", method["name"]] if lines else [method["name"]]
        for number, paragraph in enumerate(paragraphs if in_full else paragraphs[:1]):
            lines += [*([""] if number else []), *(f"  {line}" for line in _wrapped(paragraph))]
        lines += [""] if in_full else []
        settings = ", ".join(f"{key}: {value}" for key, value in method["settings"].items())
        settings_line = f"settings: {settings}" if settings else "settings: none"
        lines += textwrap.wrap(settings_line, _WIDTH, initial_indent="  ", subsequent_indent="    ")
        if in_full:
            lines.append(f"  measures: {method['metric']}; sites: {', '.join(method['sites']) or 'all'}")
            lines.append(f"  in a spec: method: {{name: {method['name']}{', ' if settings else ''}{settings}}}")
    return lines


def _wrapped(paragraph: str) -> list[str]:
    """The paragraph in lines; one with a formula, which is indented, stays as it is."""
    is_formula = any(line.startswith(" ") for line in paragraph.split("\n"))
    return paragraph.split("\n") if is_formula else textwrap.wrap(paragraph, _WIDTH - 2)


def _described(name: str) -> dict[str, Any]:
    settings = METHODS[name]
    return {
        "name": name,
        "about": _docstring(name),
        "settings": {key: field.default for key, field in settings.model_fields.items()},
        "metric": settings.metric,
        "sites": list(settings.sites),
    }


def _docstring(name: str) -> str:
    """What the file of a method says of it, and what its settings add."""
    spec = find_spec(f"workers.methods.{name}")
    text = ""
    if spec is not None and spec.origin:
        text = ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))) or ""
    own = inspect.getdoc(METHODS[name]) or ""
    parts = [part for part in (*text.split("\n\n"), own) if part and not part.startswith("Shapes, by suffix")]
    return "\n\n".join(parts)
