"""Cell keys: those of earlier versions stay, and the quick way to many of them gives what `Cell.key` gives."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.grid.expand import cell_keys
from workers.files.job import Cell, Stream
from workers.files.place import BLOCK_OUTPUT, Place

# Stream and keys as the version before sites wrote them to the cells.parquet of examples/demo.yaml.
STREAM = Stream(
    model={"dtype": "float32", "fingerprint": "4fb507f65808224fecdb1994ba95d780"},
    task={"answers_as": ["Yes", "No"], "bracket": [], "context": "", "name": "price_tagging", "say": ["yes", "no"]},
    hypothesis="left_boundary",
    seed=42,
    data={"n_eval": 200, "n_test": 1000, "n_train": 5000},
    method={
        "name": "boundless_das",
        "batch_size": 64,
        "epochs": 3,
        "eval_every": 0,
        "rotation_lr": 0.002,
        "boundary_lr": 0.01,
        "boundary_min": 0.001,
        "boundary_penalty": 1.0,
        "boundary_start": 0.5,
        "temperature_start": 50.0,
        "temperature_end": 0.1,
        "warmup": 0.1,
    },
    engine="suffix",
)
RECORDED = [
    ("left_boundary", 0, 69, "4631a89af011a0bbce654195913830f41c1d2887c9633342eea326c401722c5b"),
    ("left_boundary", 0, 70, "74d4ae99a864556f271b894077a3a4fba40b46973e1a632dea11f8b8ef4f6129"),
    ("left_boundary", 3, 80, "2a67b62e0f0a64626aa333b9e6baea530f7872c0ccf1fb2c61a309ffec28a221"),
    ("left_boundary", 3, 81, "c406e1d34b5431374aa857383ec0e76a7981b4cd6bb40f6e7c11869ce4605a6b"),
    ("bracket_identity", 3, 81, "0ad5fc31cbd51534967c70fb3e19fc3489b9f1d6b86c9536469fc91c9edde902"),
]


@pytest.mark.parametrize(("hypothesis", "layer", "position", "key"), RECORDED)
def test_keys_of_earlier_versions_stay(hypothesis: str, layer: int, position: int, key: str) -> None:
    """A cell that names no site has the key that it had before there were sites, to the last digit."""
    stream, place = replace(STREAM, hypothesis=hypothesis), Place(layer=layer, position=position)
    assert Cell(stream=stream, place=place).key() == key
    assert cell_keys(stream)(place) == key


@given(
    layer=st.integers(0, 200),
    position=st.integers(0, 10_000),
    site=st.sampled_from([BLOCK_OUTPUT, "mlp_output", "head_output"]),
    unit=st.none() | st.integers(0, 200),
)
def test_the_quick_way_gives_the_same_keys(layer: int, position: int, site: str, unit: int | None) -> None:
    """Whatever a place adds to the stream's science."""
    stream = replace(STREAM, task={"name": "a % of %s", "say": ["é"]})
    place = Place(layer=layer, position=position, site=site, unit=unit)
    assert cell_keys(stream)(place) == Cell(stream=stream, place=place).key()


def test_site_and_unit_change_the_key() -> None:
    """Each site, and each unit of one, is a cell of its own."""
    whole = [Place(layer=3, position=80), Place(layer=3, position=80, site="mlp_output")]
    heads = [Place(layer=3, position=80, site="head_output", unit=unit) for unit in (0, 1)]
    assert len({Cell(stream=STREAM, place=place).key() for place in [*whole, *heads]}) == 4
