"""The axis of sites: which cells a spec's `grid.sites` means, what they are called, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import SpecError
from orchestrator.grid.expand import Grid, cell_fields, expand
from orchestrator.grid.file import read_grid, write_grid
from orchestrator.spec.filters import CellFilter
from orchestrator.spec.schema import parse_spec
from orchestrator.spec.text import to_yaml
from tests.unit.orchestrator.specs import raw_spec, spec_of
from workers.data.sites import SITES
from workers.files.place import Place, span_label
from workers.methods.settings import METHODS, InterchangeSettings

HEADS = 4  # the demo model's, in each of its 4 layers
WIDE = 2 * 2  # layers x positions of the small sweep


def grid_of(folder: Path, sites: Any = None, **grid: Any) -> Grid:
    """The small sweep's grid with these sites and other axes replaced."""
    raw = raw_spec()
    more = grid if sites is None else grid | {"sites": sites}
    return expand(spec_of(raw | {"grid": raw["grid"] | more}, folder))


@pytest.fixture
def examples(project: Path) -> Path:
    """Where the demo model is."""
    return project / "examples"


def places(grid: Grid) -> list[Place]:
    """Where the grid's cells intervene."""
    return [cell.place for _, cell in grid.cells()]


@pytest.mark.parametrize(
    ("sites", "n_cells"),
    [
        ("block_output", WIDE),
        (["block_output", "mlp_output", "attention_output", "block_input", "block_mid"], 5 * WIDE),
        ({"head_output": "all"}, HEADS * WIDE),
        ([{"head_output": [0, "2..3"]}], 3 * WIDE),
        ([{"head_output": -1}], WIDE),
        (["mlp_neurons"], WIDE),
        ([{"mlp_neurons": "all"}], WIDE),
        ([{"mlp_neurons": [0, 5]}], 2 * WIDE),
        ([{"query": "all"}, {"key": "all"}, {"value": "0..1"}], (HEADS + HEADS + 2) * WIDE),
        (["embeddings"], 2),
        (["block_output", {"head_output": "all"}, {"mlp_neurons": "all"}], WIDE * (1 + HEADS + 1)),
    ],
)
def test_sites_are_an_axis(examples: Path, sites: Any, n_cells: int) -> None:
    """Every site and unit at every layer and position is a cell of its own, with a key of its own."""
    grid = grid_of(examples, sites)
    assert grid.n_cells == n_cells
    assert len({cell.key for _, cell in grid.cells()}) == len(set(places(grid))) == n_cells


def test_cells_of_a_grid_without_sites_keep_their_keys(examples: Path) -> None:
    """Naming further sites adds cells; those at the block's output are what they were."""
    before = {cell.key for _, cell in grid_of(examples).cells()}
    grown = grid_of(examples, ["block_output", {"head_output": "all"}])
    assert before == {cell.key for _, cell in grown.cells() if cell.place.site == "block_output"}


def test_embeddings_come_before_all_layers(examples: Path) -> None:
    """One cell a position, at layer 0, whatever layers the grid has."""
    grid = grid_of(examples, "embeddings", layers=[2, 3])
    assert places(grid) == [Place(layer=0, position=at, site="embeddings") for at in (80, 81)]


def test_units_are_in_the_place(examples: Path) -> None:
    """A head is its index; all neurons together have none."""
    assert {place.unit for place in places(grid_of(examples, {"head_output": "1..2"}))} == {1, 2}
    assert {place.unit for place in places(grid_of(examples, {"mlp_neurons": "all"}))} == {None}


@pytest.mark.parametrize(
    ("sites", "key", "message"),
    [
        (["head_ouput"], "grid.sites[0]", "got 'head_ouput'; no site 'head_ouput'; did you mean `head_output`?"),
        (["soul"], "grid.sites[0]", "no site 'soul'; expected one of block_output, block_input"),
        ([], "grid.sites", "expected at least one"),
        (["block_output", 3], "grid.sites[1]", "got 3; expected a site, or one with its units"),
        ([{"head_output": "all", "query": "all"}], "grid.sites[0]", "expected a site, or one with its units"),
        (["head_output"], "grid.sites[0]", "`head_output` has units; expected `{head_output: all}`"),
        ([{"head_output": []}], "grid.sites[0]", "`head_output` has units; expected `{head_output: all}`"),
        ([{"block_output": 0}], "grid.sites[0]", "`block_output` has no units; expected `block_output` alone"),
        ([{"head_output": 1.5}], "grid.sites[0]", "unit 1.5; expected an index, a range such as 3..5 or `all`"),
        ([{"head_output": True}], "grid.sites[0]", "unit True; expected an index"),
        ([{"head_output": {"a": 1}}], "grid.sites[0]", "unit {'a': 1}; expected an index"),
        ([{"head_output": "some"}], "grid.sites[0]", "unit 'some'; expected an index"),
        ([{"head_output": 4}], "grid.sites[0].head_output", "got 4; the heads are 0..3, or -4..-1 from the end"),
        ([{"key": "2..7"}], "grid.sites[0].key", "got '2..7'; the key-value heads are 0..3"),
        ([{"head_output": "3..1"}], "grid.sites[0].head_output", "got '3..1'; the range is empty; expected 1..3"),
        ([{"mlp_neurons": 10_000}], "grid.sites[0].mlp_neurons", "got 10000; the neurons are 0.."),
        ([{"mlp_neurons": ["all", 3]}], "grid.sites[0].mlp_neurons", "got 3; neuron 3 is named before"),
        (["block_output", "block_output"], "grid.sites[1]", "`block_output` is there twice"),
        ([{"query": 0}, {"query": 1}], "grid.sites[1]", "`query` is there twice; give all its units in one entry"),
        ([{"head_output": [0, "0..2"]}], "grid.sites[0].head_output", "got '0..2'; head 0 is named before"),
    ],
)
def test_a_bad_site_is_refused_by_name(examples: Path, sites: Any, key: str, message: str) -> None:
    """File, key, value and what is expected."""
    with pytest.raises(SpecError) as caught:
        grid_of(examples, sites)
    assert f"small.yaml: key `{key}`: " in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("config", "sites", "message"),
    [
        (
            {"use_parallel_residual": True},
            "block_mid",
            "there is no residual stream between them; expected `block_input`",
        ),
        (
            {"num_experts": 4},
            "mlp_neurons",
            "is a mixture of experts, whose tokens share no neurons; expected `mlp_output`",
        ),
        ({"kv_lora_rank": 16}, {"key": "all"}, "share compressed keys and values; expected `query` or `head_output`"),
        ({"kv_lora_rank": 16}, {"value": 0}, "share compressed keys and values"),
        ({"num_key_value_heads": 2}, {"key": 2}, "got 2; the key-value heads are 0..1"),
    ],
)
def test_a_site_that_the_model_lacks_is_refused(
    tmp_path: Path, demo_model: Path, config: dict[str, Any], sites: Any, message: str
) -> None:
    """The spec is refused before anything is written, with the reason and a site that the model has."""
    shutil.copytree(demo_model, tmp_path / "demo-model")
    (tmp_path / "demo-model" / "model.safetensors").unlink()  # they do not fit this configuration
    path = tmp_path / "demo-model" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    with pytest.raises(SpecError, match=r"small\.yaml: key `grid\.sites\[0\]") as caught:
        grid_of(tmp_path, sites)
    assert message in str(caught.value)


def test_a_method_may_be_limited_to_some_sites(examples: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its settings name them, and cells at another site are inapplicable, with the reason."""

    class ForNeurons(InterchangeSettings):
        """A method of the MLP's neurons."""

        sites = ("mlp_neurons",)

    monkeypatch.setitem(METHODS, "interchange", ForNeurons)
    assert grid_of(examples, "mlp_neurons", methods=["interchange"]).n_cells == WIDE
    grid = grid_of(examples, ["mlp_neurons", {"query": "all"}], methods=["interchange"])
    why = {cell.place.site: strand.inapplicable for strand, cell in grid.cells()}
    assert why == {"mlp_neurons": "", "query": "the method works at mlp_neurons, and not at query"}


def test_cells_file_keeps_sites_and_units(examples: Path, tmp_path: Path) -> None:
    """What is read back is the grid that was written."""
    grid = grid_of(examples, ["block_output", {"head_output": "all"}, {"mlp_neurons": [1]}, "embeddings"])
    write_grid(grid, tmp_path / "cells.parquet")
    assert read_grid(tmp_path / "cells.parquet") == grid


def test_a_resolved_spec_means_the_same_cells(examples: Path) -> None:
    """sweep.yaml writes the sites as their user did."""
    raw = raw_spec()
    raw["grid"] |= {"sites": ["block_output", {"head_output": [0, "2..3"]}]}
    spec = spec_of(raw, examples)
    assert "- head_output:" in to_yaml(spec.model_dump(mode="json"))
    again = parse_spec(spec.model_dump(mode="json", exclude_none=True), source="sweep.yaml", folder=examples)
    assert expand(again) == expand(spec)


def test_filters_choose_by_site_and_unit(examples: Path) -> None:
    """`site=`, `unit=` and `place=`, in `--where` and in `grid.exclude`; a cell without a unit matches none."""
    grid = grid_of(examples, ["block_output", {"head_output": "all"}])
    fields = [cell_fields(strand, cell) for strand, cell in grid.cells()]

    def n_matching(*options: str) -> int:
        chosen = CellFilter.from_options(options)
        return sum(chosen.matches(one) for one in fields)

    assert n_matching("site=head_output") == HEADS * WIDE
    assert n_matching("site=head_output", "unit=1..2") == n_matching("unit=1,2") == 2 * WIDE
    assert n_matching("unit!=0") == HEADS * WIDE  # three heads, and the cells without a unit
    assert n_matching("place=movers") == 0
    assert n_matching("place!=movers") == len(fields)
    excluded = grid_of(
        examples, ["block_output", {"head_output": "all"}], exclude=[{"site": "head_output", "unit": "1..3"}]
    )
    assert excluded.n_cells == 2 * WIDE


def test_an_exclusion_that_matches_nothing_is_refused(examples: Path) -> None:
    """A misspelt site in `grid.exclude` leaves out nothing, and says so."""
    with pytest.raises(SpecError, match=r"grid\.exclude\[0\].*it matches no cell"):
        grid_of(examples, exclude=[{"site": "head_output"}])


@pytest.mark.parametrize(
    ("given", "label"),
    [
        ([Place(layer=0, position=80), Place(layer=15, position=81)], "L0..15 p80..81"),
        ([Place(layer=9, position=81, site="head_output", unit=unit) for unit in (3, 8)], "L9 h3..8 p81"),
        ([Place(layer=2, position=81, site="query", unit=0)], "L2 query h0 p81"),
        ([Place(layer=2, position=81, site="mlp_neurons")], "L2 mlp_neurons p81"),
        ([Place(layer=2, position=81, site="mlp_neurons", unit=5)], "L2 mlp_neurons n5 p81"),
        ([Place(layer=1, position=7), Place(layer=1, position=7, site="mlp_output")], "L1 2 sites p7"),
    ],
)
def test_places_have_a_short_label(given: list[Place], label: str) -> None:
    """As jobs, logs and Ray's tasks name them."""
    assert span_label(given) == label


def test_every_site_has_its_line_in_the_documentation() -> None:
    """The table at the top of `workers.data.sites` names each."""
    import workers.data.sites

    assert [name for name in SITES if f"`{name}`" not in str(workers.data.sites.__doc__)] == []
