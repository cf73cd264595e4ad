"""The grid: which cells a spec means, what they are called, and what is wrong with a spec that means none."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from orchestrator.errors import SpecError, SweepNotFound
from orchestrator.grid.axes import AxisError, resolve_positions
from orchestrator.grid.expand import Grid, cell_fields, expand
from orchestrator.grid.file import read_grid, write_grid
from orchestrator.spec.filters import CellFilter
from orchestrator.spec.schema import load_spec
from tests.unit.orchestrator.specs import llama_7b, raw_spec, spec_of
from workers.data.layout import PromptLayout
from workers.files.job import Cell


def grid_of(project: Path, **grid: Any) -> Grid:
    """The small sweep's grid with some axes replaced."""
    raw = raw_spec()
    return expand(spec_of(raw | {"grid": raw["grid"] | grid}, project / "examples"))


def problem(project: Path, **grid: Any) -> str:
    """What is said of a bad grid."""
    with pytest.raises(SpecError) as caught:
        grid_of(project, **grid)
    return str(caught.value)


def test_paper_has_1365_cells(project: Path, tmp_path: Path, demo_model: Path) -> None:
    """alpaca-7b.yaml means the paper's sweep: 5 experiments x 7 layers x 13 positions x 3 seeds."""
    model = llama_7b(tmp_path / "alpaca", demo_model / "tokenizer.json")
    grid = expand(load_spec(project / "examples" / "alpaca-7b.yaml", [f"model.path={model}"]))
    keys = {cell.key for _, cell in grid.cells()}
    assert (grid.n_cells, len(keys)) == (1365, 1365)
    fixed = [strand for strand in grid.strands if strand.experiment == "left_boundary_fixed_bracket"]
    assert {tuple(strand.stream.task["bracket"]) for strand in fixed} == {(5.49, 8.49)}  # type: ignore[arg-type]


def test_demo_has_208_cells(project: Path) -> None:
    """demo.yaml means 4 hypotheses x 4 layers x 13 positions."""
    assert expand(load_spec(project / "examples" / "demo.yaml")).n_cells == 208


def test_keys_are_the_cells_own(project: Path) -> None:
    """The keys that the grid writes quickly are those of `Cell.key`."""
    for strand, cell in grid_of(project).cells():
        assert cell.key == Cell(stream=strand.stream, place=cell.place).key()


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        ([81], [81]),
        ([-1], [81]),
        (["79..81"], [79, 80, 81]),
        (["-3..-1"], [79, 80, 81]),
        ([81, -1, "80..81"], [80, 81]),
        (["Response"], [79]),
        (["all"], list(range(82))),
    ],
)
def test_positions_by_index_range_and_label(project: Path, places: list[Any], expected: list[int]) -> None:
    """Indices, negative ones, ranges and labels name tokens of the prompt, each once."""
    grid = grid_of(project, positions=places, layers=[0])
    assert [cell.place.position for _, cell in grid.cells()] == expected


def test_ambiguous_label_lists_the_indices() -> None:
    """A label that several positions have is refused with the positions to choose from."""
    with pytest.raises(AxisError, match="positions 0, 2; give one of these"):
        resolve_positions(["digit"], layout_of(["digit", ".", "digit"], {}))


def layout_of(tokens: list[str], named: dict[str, int], *, is_indexed: bool = True) -> PromptLayout:
    """A layout of prompts with these tokens; not indexed: with these names alone."""
    return PromptLayout(
        n_tokens=len(tokens),
        is_indexed=is_indexed,
        tokens=(*tokens, *(name for name, point in named.items() if point >= len(tokens))),
        named=named,
        mean_tokens=len(tokens),
        tail_tokens=(*range(len(tokens), 0, -1), *(2 for point in named.values() if point >= len(tokens))),
        n_prefix=0,
        answer_tokens={},
    )


@pytest.mark.parametrize(
    ("places", "expected"),
    [(["giver"], [1]), (["receiver"], [3]), (["last", "receiver"], [2, 3]), ([-1], [2]), (["all"], [0, 1, 2, 3])],
)
def test_positions_by_name(places: list[Any], expected: list[int]) -> None:
    """A name that does not move is its token's index, one that moves a further point; indices are of tokens alone."""
    layout = layout_of(["When", "*", "to"], {"giver": 1, "receiver": 3, "last": 2})
    assert resolve_positions(places, layout) == expected


@pytest.mark.parametrize("place", [0, -1, "0..1", "to"])
def test_an_index_means_nothing_where_prompts_differ_in_length(place: Any) -> None:
    """The message has the names."""
    layout = layout_of([], {"giver": 0, "last": 1}, is_indexed=False)
    assert resolve_positions(["all"], layout) == [0, 1]
    with pytest.raises(
        AxisError, match="prompts differ in length, and the places that all of them have are giver, last"
    ):
        resolve_positions([place], layout)


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"layers": [4]}, "key `grid.layers`: got 4; the layers are 0..3, or -4..-1 from the end"),
        ({"layers": ["0..9"]}, "key `grid.layers`: got '0..9'; the layers are 0..3"),
        ({"layers": ["3..1"]}, "key `grid.layers`: got '3..1'; the range is empty; expected 1..3"),
        ({"positions": [82]}, "key `grid.positions`: got 82; the positions are 0..81"),
        ({"positions": ["Respons"]}, "key `grid.positions`: got 'Respons'; no token has this label; did you mean"),
        ({"experiments": ["left"]}, "key `grid.experiments[0]`: got 'left'; task 'price_tagging' has the hypotheses"),
        (
            {"methods": [{"name": "boundless_das", "epochs": 0}]},
            "key `grid.methods[0].epochs`: got 0; expected 1 or more",
        ),
        ({"methods": ["boundless"]}, "key `grid.methods[0].name`: got 'boundless'; did you mean 'boundless_das'?"),
        ({"exclude": [{"layer": 3}]}, "key `grid.exclude[0]`: got {'layer': 3}; it matches no cell"),
        ({"exclude": [{"layer": "0..1"}]}, "it leaves no cell"),
        (
            {"experiments": ["left_boundary", {"name": "again", "hypothesis": "left_boundary"}]},
            "key `grid.experiments`: got 'again'; it has the same cells as 'left_boundary'",
        ),
        (
            {"experiments": [{"name": "a", "hypothesis": "left_boundary", "task": {"bracket": [8, 5]}}]},
            "key `grid.experiments[0].task.bracket`: got [8, 5]; give two prices",
        ),
    ],
)
def test_bad_grid_is_named(project: Path, grid: dict[str, Any], message: str) -> None:
    """What the model or the task does not have is named with what it has."""
    assert message in problem(project, **grid)


def test_excluded_cells_are_left_out(project: Path) -> None:
    """A cell that matches every key of an entry is left out; the others stay."""
    grid = grid_of(project, exclude=[{"layer": 0, "position": 80}])
    assert [(cell.place.layer, cell.place.position) for _, cell in grid.cells()] == [(0, 81), (1, 80), (1, 81)]


def test_missing_model_is_named(tmp_path: Path) -> None:
    """A checkpoint that is not there is named at its key."""
    with pytest.raises(SpecError, match=r"key `model.path`: .*no such folder"):
        expand(spec_of(raw_spec(), tmp_path))


def test_broken_model_is_named(tmp_path: Path, demo_model: Path) -> None:
    """A checkpoint whose configuration is no JSON is named."""
    shutil.copytree(demo_model, tmp_path / "demo-model")
    (tmp_path / "demo-model" / "config.json").write_text("{")
    with pytest.raises(SpecError, match=r"config\.json: not readable as JSON"):
        expand(spec_of(raw_spec(), tmp_path))


def test_answer_of_too_many_tokens_is_refused(project: Path) -> None:
    """An answer that is longer than the limit is named at the task's key."""
    with pytest.raises(SpecError, match=r"key `task`: .*is not one to 16 tokens"):
        expand(
            spec_of(raw_spec(task={"name": "price_tagging", "answers_as": ["Yes" * 17, "No"]}), project / "examples")
        )


def test_weights_are_part_of_the_key_and_paths_are_not(project: Path, tmp_path: Path, demo_model: Path) -> None:
    """A moved checkpoint gives the same cells; one with other contents gives others."""
    here = {cell.key for _, cell in grid_of(project).cells()}
    shutil.copytree(demo_model, tmp_path / "demo-model")
    assert {cell.key for _, cell in expand(spec_of(raw_spec(), tmp_path)).cells()} == here
    config = json.loads((tmp_path / "demo-model" / "config.json").read_text())
    (tmp_path / "demo-model" / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-7}))
    assert not here & {cell.key for _, cell in expand(spec_of(raw_spec(), tmp_path)).cells()}


def test_cells_file_reads_back(project: Path, tmp_path: Path) -> None:
    """cells.parquet holds the whole grid: strands, cells and the model's sizes."""
    grid = grid_of(project, experiments=["left_boundary", "left_and_right_boundary"], seeds=[1, 2])
    write_grid(grid, tmp_path / "cells.parquet")
    assert read_grid(tmp_path / "cells.parquet") == grid


def test_cells_file_of_the_version_before_is_read(project: Path, tmp_path: Path) -> None:
    """It has no columns of the site: every cell is at the block's output."""
    grid, path = grid_of(project), tmp_path / "cells.parquet"
    write_grid(grid, path)
    table = pq.read_table(path)
    assert set(table["site"].to_pylist()) == {"block_output"}
    assert table["unit"].null_count == table["place"].null_count == len(table)
    older = table.drop_columns(["site", "unit", "place"])
    pq.write_table(older.replace_schema_metadata(table.schema.metadata | {b"schema_version": b"1"}), path)
    assert read_grid(path) == grid


def test_cells_file_of_a_later_version_is_refused(project: Path, tmp_path: Path) -> None:
    """Its version is named: what it adds may decide what its cells are."""
    path = tmp_path / "cells.parquet"
    write_grid(grid_of(project), path)
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata(table.schema.metadata | {b"schema_version": b"5"}), path)
    with pytest.raises(SweepNotFound, match="schema version '5'; this version reads 1, 2, 3, 4"):
        read_grid(path)


def test_sizes_of_another_versions_model_do_not_keep_a_sweep_from_being_read(project: Path, tmp_path: Path) -> None:
    """One that this version does not know is left out; one that it adds has a default."""
    grid, path = grid_of(project), tmp_path / "cells.parquet"
    write_grid(grid, path)
    table = pq.read_table(path)
    (model,) = json.loads(table.schema.metadata[b"models"])
    del model["info"]["n_experts"]
    model["info"]["n_towers"] = 3
    metadata = table.schema.metadata | {b"models": json.dumps([model]).encode()}
    del metadata[b"crc32"]  # the other version has its own, or none
    pq.write_table(table.replace_schema_metadata(metadata), path)
    assert read_grid(path) == grid


def test_where_options_negate_and_list() -> None:
    """`--where` knows ranges, lists and `!=`."""
    chosen = CellFilter.from_options(["layer=0..1,3", "experiment!=a"])
    assert chosen.matches({"layer": 3, "experiment": "b"})
    assert not chosen.matches({"layer": 2, "experiment": "b"})
    assert not chosen.matches({"layer": 0, "experiment": "a"})


def test_list_of_a_setting_means_several_methods(project: Path) -> None:
    """`k: [1, 4]` is two methods, each with a name of its own in filters and tables."""
    grid = grid_of(project, methods=["interchange", {"name": "das", "k": [1, 4]}])
    assert sorted({cell_fields(strand, cell)["method"] for strand, cell in grid.cells()}) == [
        "das_k1",
        "das_k4",
        "interchange",
    ]
    assert len({cell.key for _, cell in grid.cells()}) == 3 * 4


def test_the_tokens_of_long_answers_are_planned_for(project: Path) -> None:
    """Those of the longest answer but for the last follow the prompt."""
    plain, longer = (
        expand(spec_of(raw_spec(task={"name": "price_tagging", "answers_as": answers}), project / "examples"))
        for answers in (["Yes", "No"], ["Yes..", "No"])
    )
    (first, *_), (second, *_) = plain.strands, longer.strands
    assert second.n_tokens == first.n_tokens + 2
