"""Whether a method has a meaning for a hypothesis at a place of this model, as far as it can be known at plan."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from workers.data.model_info import ModelInfo
from workers.data.sites import width_of
from workers.data.source import AbstractPairSource
from workers.files.place import Place
from workers.methods.settings import METHODS, settings_object, why_no_classes


def by_applicability(
    source: AbstractPairSource, hypothesis: str, method: Mapping[str, Any], model: ModelInfo, places: Iterable[Place]
) -> dict[str, list[Place]]:
    """The places by why cells of this method and hypothesis have nothing to run there; "" for those that have.

    That a variable has one value only is left to the jobs, which see every training pair. Raises: TaskError.
    """
    unordered = source.unordered(hypothesis) if METHODS[method["name"]].tells_classes else ()
    always = why_no_classes(method["name"], hypothesis, unordered[0], [math.nan]) if unordered else ""
    n_variables = len(source.variables[hypothesis])
    settings = settings_object(method)
    found: dict[str, list[Place]] = {}
    reasons: dict[int, str] = {}  # by width
    for place in places:
        width = width_of(model, place)
        if width not in reasons:
            reasons[width] = always or settings.why_not(width=width, n_variables=n_variables)
        found.setdefault(settings.why_not_at(place) or reasons[width], []).append(place)
    return found
