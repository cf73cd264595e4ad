"""Whether a method has a meaning for a hypothesis at a place of this model, as far as it can be known at plan."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from workers.data.model_info import ModelInfo
from workers.data.sites import width_of
from workers.data.source import AbstractPairSource
from workers.files.metrics import DECODING
from workers.files.place import AnyPlace, PlaceSet
from workers.methods.settings import METHODS, MOST_CLASSES, settings_object, why_no_classes


def by_applicability(
    source: AbstractPairSource, hypothesis: str, method: Mapping[str, Any], model: ModelInfo, places: Iterable[AnyPlace]
) -> dict[str, list[AnyPlace]]:
    """The places by why cells of this method and hypothesis have nothing to run there; "" for those that have.

    That a variable has one value only is left to the jobs, which see every training pair. Raises: TaskError.
    """
    always = _why_no_classes(source, hypothesis, method["name"])
    n_variables = len(source.variables[hypothesis])
    settings = settings_object(method)
    found: dict[str, list[AnyPlace]] = {}
    reasons: dict[int, str] = {}  # by width
    for place in places:
        width = min(width_of(model, point) for point in place.points) if is_apart(place) else width_of(model, place)
        if width not in reasons:
            reasons[width] = always or settings.why_not(width=width, n_variables=n_variables)
        why = settings.why_not_at(place) or reasons[width]
        if not why and isinstance(place, PlaceSet):
            why = _why_no_set(place, method, model)
        found.setdefault(why, []).append(place)
    return found


def _why_no_classes(source: AbstractPairSource, hypothesis: str, method: str) -> str:
    """Why the method cannot tell classes of some variable apart, as far as the source knows."""
    kind = METHODS[method]
    if not kind.tells_classes:
        return ""
    unknown = source.nameless(hypothesis) if kind.takes_names else source.unordered(hypothesis)
    most = MOST_CLASSES if kind.takes_names else 0
    return why_no_classes(method, hypothesis, unknown[0], [math.nan], most=most) if unknown else ""


def is_apart(place: AnyPlace) -> bool:
    """Whether the cell is a set of places with a subspace of each."""
    return isinstance(place, PlaceSet) and place.subspace == "each"


def _why_no_set(place: PlaceSet, method: Mapping[str, Any], model: ModelInfo) -> str:
    """Why the method has no meaning at this set of places; empty where it has. The whole vector always has one."""
    kind, name = METHODS[method["name"]], method["name"]
    if kind.whole_vector:
        return ""
    if not kind.changes_model and kind.metric != DECODING:
        return f"{name} reads one place at a time, and {place.name!r} is a set of places"
    if place.subspace == "each":
        if not kind.subspace_of_each:
            return f"{name} has no subspace of each place of {place.name!r}; expected `subspace: one`"
        if len({width_of(model, point) for point in place.points}) > 1:
            return f"{name} learns subspaces of one size, and the places of {place.name!r} differ in width"
        return ""
    if kind.changes_model and len({(point.layer, point.site) for point in place.points}) > 1:
        sizes = f"the places of {place.name!r} are of several layers or sites, and what one takes over reaches the next"
        return f"{name} has no one subspace there: {sizes}; expected `subspace: each`"
    return ""
