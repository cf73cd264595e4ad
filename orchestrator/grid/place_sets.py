"""The sets of places of a grid (`grid.places`): points that a cell intervenes on at once."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from orchestrator.grid.axes import AxisError, resolve_layers, resolve_positions, resolve_units
from orchestrator.spec.places import PlaceSection, PointsSection
from orchestrator.spec.schema import SweepSpec
from workers.data.layout import PromptLayout
from workers.data.model_info import ModelInfo
from workers.data.sites import SITES
from workers.files.place import Place, PlaceSet


def place_sets(spec: SweepSpec, model: ModelInfo, layout: PromptLayout, positions: Sequence[int]) -> Iterator[PlaceSet]:
    """Each set of the grid; one at each of the grid's `positions` where some of its points name none.

    Raises: SpecError.
    """
    reader = _Reader(spec, model, layout)
    known: dict[tuple[tuple[Place, ...], str], str] = {}
    for index, section in enumerate(spec.grid.places):
        follows = any(entry.position is None for entry in section.at)
        for position in positions if follows else [None]:
            found = reader.read(f"grid.places[{index}]", section, position)
            same = known.setdefault((found.points, found.subspace), section.name)
            if same != section.name:
                right = f"it has the points of {same!r}; keep one of the two"
                raise spec.error(f"grid.places[{index}].at", section.name, right)
            yield found


@dataclass(frozen=True, slots=True)
class _Reader:
    """What a set is checked against."""

    spec: SweepSpec
    model: ModelInfo
    layout: PromptLayout

    def read(self, key: str, section: PlaceSection, position: int | None) -> PlaceSet:
        """The set, with those of its points that name no position at `position`. Raises: SpecError."""
        points: list[Place] = []
        for index, (site, entry) in enumerate(section.points()):
            at = f"{key}.at[{index}]"
            for point in self._points(at, site, entry=entry, position=position):
                if any(_shares_token(point, other) for other in points):
                    right = "two points on one token and site; expected each once"
                    raise self.spec.error(at, self._name(point), right)
                points.append(point)
        ordered = tuple(sorted(points, key=lambda point: (point.layer, *point.rank)))
        return PlaceSet(name=section.name, points=ordered, subspace=section.subspace, position=position)

    def _points(self, key: str, site: str, *, entry: PointsSection, position: int | None) -> list[Place]:
        """The points of one entry: every combination of its layers, positions and units. Raises: SpecError."""
        if lacking := SITES[site].lacking(self.model):
            raise self.spec.error(key, site, lacking)
        follows = [] if position is None else [position]
        try:
            layers = resolve_layers(entry.layer, self.model.n_layers) if SITES[site].has_layers else [0]
            positions = follows if entry.position is None else resolve_positions(entry.position, self.layout)
            units = self._units(key, site, entry)
        except AxisError as error:
            name = {"layers": "layer", "positions": "position"}.get(error.axis, "units" if entry.units else "unit")
            raise self.spec.error(f"{key}.{name}", error.got, error.right) from error
        return [
            Place(layer=layer, position=at, site=site, unit=unit)
            for layer, at, unit in itertools.product(layers, positions, units)
        ]

    def _units(self, key: str, site: str, entry: PointsSection) -> Sequence[int | None]:
        """The units of one entry; one None where it is at the whole site. Raises: SpecError, AxisError."""
        one, items = SITES[site], entry.unit or entry.units
        if one.n_units is None:
            if items:
                raise self.spec.error(key, list(items), f"`{site}` has no units; leave `unit` out")
            return [None]
        if not items and not one.all_is_one:
            n_units = one.n_units(self.model)
            raise self.spec.error(key, site, f"it has units; expected `unit` or `units`: some of 0..{n_units - 1}")
        if not items or (one.all_is_one and set(items) == {"all"}):
            return [None]
        return resolve_units(items, one.n_units(self.model), one.unit_name)

    def _name(self, point: Place) -> str:
        unit = "" if point.unit is None else f" unit {point.unit}"
        token = self.layout.tokens[point.position]
        return f"{point.site}{unit}, layer {point.layer}, position {point.position} ({token})"


def _shares_token(point: Place, other: Place) -> bool:
    same = (point.layer, point.site, point.position) == (other.layer, other.site, other.position)
    return same and (point.unit == other.unit or point.unit is None or other.unit is None)
