"""The places of a grid: its sites, layers, positions and units, and its sets of places, checked against the model and
the prompts."""

from __future__ import annotations

from orchestrator.grid.axes import AxisError, resolve_layers, resolve_positions, resolve_units
from orchestrator.grid.place_sets import place_sets
from orchestrator.spec.schema import SweepSpec
from workers.data.layout import PromptLayout
from workers.data.model_info import ModelInfo
from workers.data.sites import SITES
from workers.files.place import AnyPlace, Place


def places_of(spec: SweepSpec, model: ModelInfo, layout: PromptLayout) -> list[AnyPlace]:
    """Every place of the grid, once: by site, layer, position and unit, then the sets of places.

    Raises: SpecError, also for a site that the model does not have.
    """
    try:
        layers = resolve_layers(spec.grid.layers, model.n_layers)
        positions = resolve_positions(spec.grid.positions, layout)
    except AxisError as error:
        raise spec.error(f"grid.{error.axis}", error.got, error.right) from error
    single = [
        Place(layer=layer, position=position, site=site, unit=unit)
        for site, units in _sites(spec, model)
        for layer in (layers if SITES[site].has_layers else [0])
        for position in positions
        for unit in units
    ]
    return [*single, *place_sets(spec, model, layout, positions)]


def positions_of(spec: SweepSpec, layout: PromptLayout) -> list[int]:
    """Every position at which some cell of the grid intervenes. Raises: AxisError."""
    found = set(resolve_positions(spec.grid.positions, layout))
    for place in spec.grid.places:
        for entry in place.at:
            found |= set(resolve_positions(entry.position, layout)) if entry.position else set()
    return sorted(found)


def _sites(spec: SweepSpec, model: ModelInfo) -> list[tuple[str, list[int] | list[None]]]:
    """Each site with the units of it that are cells; one None where the cell is the whole site."""
    found: list[tuple[str, list[int] | list[None]]] = []
    for index, (name, items) in enumerate(spec.grid.named_sites()):
        site, key = SITES[name], f"grid.sites[{index}]"
        lacking = site.lacking(model)
        if lacking:
            raise spec.error(key, name, lacking)
        if site.n_units is None or (site.all_is_one and set(items) <= {"all"}):
            found.append((name, [None]))
            continue
        try:
            found.append((name, list(resolve_units(items, site.n_units(model), site.unit_name))))
        except AxisError as error:
            raise spec.error(f"{key}.{name}", error.got, error.right) from error
    return found
