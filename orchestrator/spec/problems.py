"""What pydantic found wrong with a spec, in a form for people: file, key, value, and what is expected."""

from __future__ import annotations

import difflib
import re
import types
import typing
from collections.abc import Mapping
from typing import Annotated, Any, Union

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from orchestrator.errors import wrong_value
from values.problems import dotted, right

_SENTENCES: Mapping[str, str] = {
    "too_short": "expected at least one",
    "string_pattern_mismatch": "expected letters, digits, '.', '_' and '-', the first a letter or digit",
    "string_too_long": "expected at most {max_length} characters: files and jobs are named after it",
}


def describe(error: ValidationError, model: type[BaseModel], source: str) -> str:
    """One line a problem."""
    return "\n".join(_line(problem, model, source) for problem in error.errors())


def _line(problem: ErrorDetails, model: type[BaseModel], source: str) -> str:
    key = dotted(problem["loc"])
    if problem["type"] == "missing":
        return f"{source}: key `{key}`: missing; {_what_for(key)}"
    if problem["type"] == "extra_forbidden":
        return f"{source}: key `{key}`: unknown; {_known_keys(problem['loc'], model)}"
    if problem["type"] == "value_error":  # from our own validators: `PLACE: what; what is expected`
        text = str(problem["ctx"]["error"])
        place, colon, rest = text.partition(": ")
        if colon and re.fullmatch(r"[\w.\[\]]+", place):
            return f"{source}: key `{f'{key}.{place}' if key else place}`: {rest}"
        return wrong_value(source, key, problem["input"], text)
    sentence = _SENTENCES.get(problem["type"], f"expected {right(problem)}").format(**problem.get("ctx", {}))
    return wrong_value(source, key, problem["input"], sentence)


def _what_for(key: str) -> str:
    hints = {
        "name": "give the sweep a name, for instance `name: demo`",
        "model": "give a checkpoint, for instance `model: {path: my-model}`",
        "model.path": "give the folder of a Hugging Face checkpoint",
        "task": "give a task, for instance `task: price_tagging`",
        "grid": "give the axes `experiments`, `layers`, `positions` and `seeds`",
    }
    return hints.get(key, "it is needed here")


def _known_keys(place: tuple[int | str, ...], model: type[BaseModel]) -> str:
    section: Any = model
    for part in place[:-1]:
        if isinstance(part, str):
            section = _model_in(section.model_fields[part].annotation)
    known = sorted(section.model_fields)
    close = difflib.get_close_matches(str(place[-1]), known, n=1)
    return f"did you mean `{close[0]}`?" if close else f"there are {', '.join(known)}"


def _model_in(annotation: Any) -> Any:
    """The pydantic model that an annotation wraps: `tuple[Annotated[M, ...], ...]`, `M | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if typing.get_origin(annotation) in (Annotated, tuple, Union, types.UnionType):
        return next((found for part in typing.get_args(annotation) if (found := _model_in(part))), None)
    return None
