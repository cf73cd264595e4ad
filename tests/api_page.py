"""docs/api.md, made from the docstrings of what users call: `python -m tests.api_page` writes it anew."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from orchestrator import errors
from orchestrator.learned import load_alignment
from orchestrator.sweep import Sweep
from workers.alignments.learned import LearnedAlignment

PAGE = Path(__file__).parents[1] / "docs" / "api.md"
HEAD = """# The Python API

This page is made from the docstrings (`python -m tests.api_page`), and a test holds it against them.
`import causalsweep` gives `Sweep` and `load_alignment`. Every command of the command line is one call into `Sweep`.

"""


def page() -> str:
    """The text of docs/api.md."""
    parts = [HEAD, *class_section(Sweep, "causalsweep.Sweep")]
    parts += function_section(load_alignment, "causalsweep.load_alignment", level=2)
    parts += class_section(LearnedAlignment, "LearnedAlignment")
    parts += ["## Errors\n\n", "| error | when |\n|---|---|\n"]
    parts += [
        f"| `{name}` | {first_paragraph(error)} |\n"
        for name, error in vars(errors).items()
        if inspect.isclass(error) and issubclass(error, errors.SweepError)
    ]
    return "".join(parts)


def class_section(kind: type, name: str) -> Iterator[str]:
    """The class, then each of its public methods and properties, in the order of the code."""
    yield f"## {name}\n\n{text_of(kind)}\n\n"
    for member_name, member in vars(kind).items():
        if member_name.startswith("_"):
            continue
        function = member.__func__ if isinstance(member, classmethod) else member
        if inspect.isfunction(function):
            yield from function_section(function, f"{kind.__name__}.{member_name}", level=3)
        elif isinstance(member, property):
            yield f"### {kind.__name__}.{member_name}\n\n{text_of(member)}\n\n"


def function_section(function: Any, name: str, *, level: int) -> Iterator[str]:
    """A function's signature and what its docstring says."""
    signature = inspect.signature(function)
    own = [shown(one) for one in signature.parameters.values() if one.name not in ("self", "cls")]
    called = signature.replace(parameters=own, return_annotation=Shown(signature.return_annotation))
    lines = textwrap.wrap(f"{name}{called}", 110, subsequent_indent="    ", break_long_words=False)
    yield f"{'#' * level} {name}\n\n```text\n" + "\n".join(lines) + f"\n```\n\n{text_of(function)}\n\n"


class Shown:
    """A text that is shown without quotes of its own."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def shown(parameter: inspect.Parameter) -> inspect.Parameter:
    """The parameter with its annotation as written, and its default as users write it."""
    parameter = parameter.replace(annotation=Shown(parameter.annotation))
    default = parameter.default
    if default is inspect.Parameter.empty:
        return parameter
    return parameter.replace(default=Shown(f'"{default}"' if isinstance(default, str | Path) else repr(default)))


def text_of(documented: Any) -> str:
    """A docstring without its indentation; indented code in it as a block."""
    lines = (inspect.getdoc(documented) or "").splitlines()
    return "\n".join(line.replace("|", "\\|") if not line.startswith("    ") else line for line in lines)


def first_paragraph(documented: Any) -> str:
    """What comes before the first empty line, on one line."""
    return " ".join(text_of(documented).split("\n\n")[0].split())


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
