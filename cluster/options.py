"""A backend's block of a spec: a model of pydantic for each backend, checked before anything is asked or sent."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from cluster.backend import ClusterUsageError
from values.problems import dotted, right


class OptionError(ClusterUsageError):
    """An option of a backend must be mended; the message names its block and key, and not the file."""


class Block(BaseModel):
    """Options of a backend. A field's description says what is expected, where its type alone does not."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


SomeBlock = TypeVar("SomeBlock", bound=Block)


def checked(model: type[SomeBlock], raw: Mapping[str, Any], block: str) -> SomeBlock:
    """The options of the block called `block`. Raises: OptionError naming key, value and what is expected."""
    try:
        return model.model_validate(dict(raw))
    except ValidationError as error:
        raise OptionError(_said(error.errors()[0], model, block)) from None


def _said(problem: ErrorDetails, model: type[Block], block: str) -> str:
    key, name = dotted((block, *problem["loc"])), str(problem["loc"][0])
    if problem["type"] == "extra_forbidden":
        near = difflib.get_close_matches(name, model.model_fields, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(model.model_fields)}"
        return f"{key}: unknown option; {hint}"
    wanted = model.model_fields[name].description or right(problem)
    if problem["type"] == "missing":
        return f"{key}: missing; it must be {wanted}"
    return f"{key}: {problem['input']!r}; it must be {wanted}"
