"""Cells that go through a tail together: how many there may be, which bounds the rows that a call holds."""

from __future__ import annotations

from dataclasses import replace

import torch

from tests.unit.workers.tiny import make_cohort, random_pairs, sharp_model
from workers.engine.base import TokenBatch
from workers.engine.sites import width_of
from workers.engine.suffix import SuffixEngine
from workers.files.job import JobCell
from workers.files.place import AnyPlace, Place, PlaceSet
from workers.methods.alignment import LARGEST_GROUP, groups_of


def cells_at(places: list[AnyPlace]) -> list[JobCell]:
    (cell,) = make_cohort([(0, 5)]).cells
    return [replace(cell, key=str(index), place=place) for index, place in enumerate(places)]


def head(layer: int, unit: int, position: int = 5) -> Place:
    return Place(layer=layer, position=position, site="head_output", unit=unit)


def test_a_call_holds_no_more_cells_than_a_group() -> None:
    """300 heads of one position are three calls; their rows are those of the largest group, however many cells there
    are. Each cell is in one group."""
    cells = cells_at([head(layer, unit) for layer in range(10) for unit in range(30)])
    groups = groups_of(cells, width_of=lambda _place: 8, join_places=True)
    assert [len(group.cells) for group in groups] == [LARGEST_GROUP, LARGEST_GROUP, 300 - 2 * LARGEST_GROUP]
    assert sorted(cell.key for group in groups for cell in group.cells) == sorted(cell.key for cell in cells)


def test_cells_of_another_position_or_width_or_a_set_are_a_group_of_their_own() -> None:
    """Two heads at one position go together; a head elsewhere, the block's output and a set do not join them."""
    heads = PlaceSet(name="heads", points=(head(0, 0), head(0, 1)))
    places: list[AnyPlace] = [head(0, 0), head(1, 1), head(0, 0, position=6), Place(layer=0, position=5), heads]
    model = sharp_model("llama")
    groups = groups_of(cells_at(places), width_of=lambda place: width_of(model, place), join_places=True)
    assert sorted(len(group.cells) for group in groups) == [1, 1, 1, 2]


def test_what_is_kept_grows_with_the_positions_and_not_with_the_heads() -> None:
    """A cohort at every head of three layers keeps of base and source one vector a layer, position and pair: what the
    output projection reads, which all heads share."""
    model, pairs = sharp_model("llama"), random_pairs(3, 9)
    base, source = (TokenBatch.of(prompts, torch.device("cpu")) for prompts in (pairs.base, pairs.source))
    places = [head(layer, unit, position) for layer in range(3) for unit in range(4) for position in (5, 7)]
    forward = SuffixEngine(model, places=places).forward(base, source)
    for run in (forward.base, forward.source):
        assert {key: tuple(values.shape) for key, values in run.values.items()} == {
            (layer, "head_output", position): (3, 32) for layer in range(3) for position in (5, 7)
        }
