"""Memory of a plan's cells and cohorts, against sums made by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.grid.expand import Grid, Strand
from orchestrator.grid.model import GridModel
from orchestrator.plan.costs import DEVICES, CostModel
from orchestrator.plan.memory import cell_bytes, cohort_bytes, memory_of
from orchestrator.plan.packing import pack
from tests.unit.orchestrator.plan.test_packing import SMALL, strand_at
from workers.files.place import Place

HEAD = Place(layer=1, position=80, site="head_output", unit=2)
NEURONS = Place(layer=1, position=80, site="mlp_neurons")
BLOCK = Place(layer=1, position=80)
ONE_MODEL = Grid(models=(GridModel(name="", info=SMALL),), strands=())


def with_method(strand: Strand, **method: object) -> Strand:
    """The strand trained by another method."""
    return replace(strand, stream=replace(strand.stream, method=method))


@pytest.mark.parametrize(("place", "width"), [(HEAD, 16), (NEURONS, 128), (BLOCK, 64)])
def test_a_cell_takes_five_copies_of_its_rotation(place: Place, width: int) -> None:
    """In float32, of the width of its site."""
    assert cell_bytes(SMALL, strand_at([place]), place) == 5 * 4 * width**2


def test_a_method_on_activations_keeps_those_of_its_training_prompts() -> None:
    """One vector a prompt; interchange keeps nothing."""
    strand = strand_at([HEAD])
    assert cell_bytes(SMALL, with_method(strand, name="pca", k=1), HEAD) == 4 * 16 * 20_000
    assert cell_bytes(SMALL, with_method(strand, name="interchange"), HEAD) == 0


def test_each_place_of_a_cohort_is_read_once() -> None:
    """Two cells at one place share its activations, and have a rotation each."""
    strand = strand_at([HEAD, NEURONS])
    once, twice = (cohort_bytes(SMALL, strand, strand.cells * count) for count in (1, 2))
    assert twice - once == cell_bytes(SMALL, strand, HEAD) + cell_bytes(SMALL, strand, NEURONS)
    keys_and_values, residual = 4 * 2 * 4 * 16, 2 * 64
    activations = 64 * ((keys_and_values + residual) * (82 - 38) + 2 * (16 + 128))
    assert once == twice - once + 4 * activations


def test_the_plan_names_its_largest_cell() -> None:
    """The site whose rotation is largest, among all jobs."""
    strand = strand_at([HEAD, NEURONS, BLOCK])
    jobs = pack([strand], CostModel(SMALL, DEVICES["cpu"], dtype="float32"), target_s=1e9, n_gpus=1)
    memory = memory_of(ONE_MODEL, jobs)
    assert memory is not None
    assert (memory.site, memory.width, memory.cell_bytes) == ("mlp_neurons", 128, 5 * 4 * 128**2)
    assert memory.cohort_bytes == cohort_bytes(SMALL, strand, strand.cells)
    assert memory_of(ONE_MODEL, []) is None
