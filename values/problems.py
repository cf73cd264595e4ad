"""What pydantic found wrong with a value, in plain words: what is expected, as `a whole number` or `1 or more`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pydantic_core import ErrorDetails

_RIGHT: Final[Mapping[str, str]] = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a whole number of at most 64 bits",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text",
    "dict_type": "a mapping",
    "mapping_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "tuple_type": "a list",
    "list_type": "a list",
    "greater_than": "above {gt}",
    "greater_than_equal": "{ge} or more",
    "less_than": "below {lt}",
    "less_than_equal": "{le} or less",
    "literal_error": "one of {expected}",
    "invalid_key": "text as a key",
    "string_too_long": "at most {max_length} characters",
    "value_error": "{error}",  # from our own validators
}


def right(problem: ErrorDetails) -> str:
    """What is expected in place of a wrong value."""
    context: dict[str, Any] = dict(problem.get("ctx", {}))
    if problem["type"] in ("greater_than", "less_than"):
        context = {key: f"{value:g}" for key, value in context.items()}
    return _RIGHT.get(problem["type"], problem["msg"]).format(**context)


def dotted(place: tuple[int | str, ...]) -> str:
    """The key of a place in a nest: `grid.seeds[0]`."""
    text = ""
    for part in place:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.lstrip(".")
