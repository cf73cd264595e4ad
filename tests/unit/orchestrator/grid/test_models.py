"""The axis of models: cells, keys, jobs, filters and rows of each model apart; a sweep of one model grows into it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from orchestrator.errors import SpecError, SweepConflict
from orchestrator.grid.expand import Grid, expand
from orchestrator.grid.file import read_grid, write_grid
from orchestrator.sweep import Sweep
from tests.unit.orchestrator.conftest import LoadSweep
from tests.unit.orchestrator.fake_cluster import World, finish, jobs_of, newest_jobs
from tests.unit.orchestrator.specs import LLAMA_7B, raw_spec, spec_of
from workers.files.job import Cell

PLACES = {"experiments": ["left_boundary", "bracket_identity"], "layers": [0, 1], "positions": "80..81"}
BOTH = ["demo-model", "other-model"]


@pytest.fixture
def folder(tmp_path: Path, demo_model: Path) -> Path:
    """Beside the spec: the demo's checkpoint, and one that differs from it in a number of its configuration."""
    shutil.copytree(demo_model, tmp_path / "demo-model")
    shutil.copytree(demo_model, tmp_path / "other-model")
    path = tmp_path / "other-model" / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(config | {"rms_norm_eps": 2e-6}), encoding="utf-8")
    return tmp_path


def several(models: Any, **grid: Any) -> dict[str, Any]:
    return {"model": {"dtype": "float32"}, "grid": PLACES | {"models": models} | grid}


def sized(folder: Path, name: str, n_layers: int, tokenizer: Path) -> None:
    """A checkpoint's folder without weights, of `n_layers` blocks."""
    (folder / name).mkdir()
    config = LLAMA_7B | {"num_hidden_layers": n_layers}
    (folder / name / "config.json").write_text(json.dumps(config), encoding="utf-8")
    shutil.copy(tokenizer, folder / name / "tokenizer.json")


@pytest.fixture
def family(tmp_path: Path, demo_model: Path) -> Path:
    """Two sizes of a model, of 8 and 12 blocks."""
    for name, n_layers in (("small", 8), ("large", 12)):
        sized(tmp_path, name, n_layers, demo_model / "tokenizer.json")
    return tmp_path


def grid_of(folder: Path, **changes: Any) -> Grid:
    return expand(spec_of(raw_spec(**changes), folder))


def keys_of(grid: Grid, model: str) -> set[str]:
    return {cell.key for strand, cell in grid.cells() if strand.model == model}


def test_cells_have_the_keys_of_a_sweep_of_their_model_alone(folder: Path) -> None:
    """Byte for byte, and each is the hash of its own parameters."""
    alone = grid_of(folder, grid=PLACES)
    grid = grid_of(folder, **several(BOTH))
    assert keys_of(grid, "demo-model") == {cell.key for _, cell in alone.cells()}
    assert keys_of(grid, "demo-model").isdisjoint(keys_of(grid, "other-model"))
    assert grid.n_cells == 2 * alone.n_cells
    assert all(Cell(stream=strand.stream, place=cell.place).key() == cell.key for strand, cell in grid.cells())


def test_each_model_has_layers_of_its_own(family: Path) -> None:
    """`all`, and the same depths of models of different size."""
    grid = grid_of(family, **several(["small", "large"], layers="all"))
    layers = {name: {cell.place.layer for s, cell in grid.cells() if s.model == name} for name in ("small", "large")}
    assert layers == {"small": set(range(8)), "large": set(range(12))}
    halves = grid_of(family, **several(["small", "large"], layers="100%"))
    assert {(s.model, cell.place.layer) for s, cell in halves.cells()} == {("small", 7), ("large", 11)}


def test_a_layer_that_one_model_lacks_names_the_model(family: Path) -> None:
    """The other one has it."""
    with pytest.raises(SpecError, match=r"key `grid.layers`: got 9; .* \(for the model 'small', grid.models\[0\]\)"):
        grid_of(family, **several(["small", "large"], layers=[9]))


def test_cells_are_excluded_by_model(family: Path) -> None:
    """Some of one model; a name that no model has is told."""
    grid = grid_of(family, **several(["small", "large"], exclude=[{"model": "large", "layer": 0}]))
    layers = {(strand.model, cell.place.layer) for strand, cell in grid.cells()}
    assert layers == {("small", 0), ("small", 1), ("large", 1)}
    with pytest.raises(SpecError, match=r"it matches no cell of the grid; .*; the models are small, large"):
        grid_of(family, **several(["small", "large"], exclude=[{"model": "lrage"}]))


def test_an_untrained_model_has_keys_of_its_own(family: Path) -> None:
    """By its seed."""
    models = ["small", *({"path": "small", "untrained": True, "seed": seed} for seed in (0, 1))]
    grid = grid_of(family, **several(models))
    names = [model.name for model in grid.models]
    assert names == ["small", "small untrained 0", "small untrained 1"]
    assert len({frozenset(keys_of(grid, name)) for name in names}) == 3
    assert [model.row_name.removeprefix(str(family)) for model in grid.models] == [
        "/small",
        "/small (untrained, seed 0)",
        "/small (untrained, seed 1)",
    ]


def test_the_same_files_twice_are_refused(folder: Path) -> None:
    """A copy of a checkpoint is the same model."""
    shutil.copytree(folder / "demo-model", folder / "copy")
    with pytest.raises(
        SpecError, match=r"key `grid.models\[1\].path`: got '.*copy'; it is the same model as grid.models"
    ):
        grid_of(folder, **several(["demo-model", "copy"]))


def test_an_entry_that_is_not_there_is_named(family: Path) -> None:
    """Its key, and what would be right."""
    with pytest.raises(SpecError, match=r"key `grid.models\[1\].path`: .*gone: no such folder; give the folder of"):
        grid_of(family, **several(["small", "gone"]))


def test_the_cells_file_keeps_the_models(family: Path) -> None:
    """With the column `model` for people."""
    grid = grid_of(family, **several(["small", {"path": "small", "untrained": True}, "large"]))
    path = family / "cells.parquet"
    write_grid(grid, path)
    assert read_grid(path) == grid
    assert set(pq.read_table(path)["model"].to_pylist()) == {"small", "small untrained", "large"}


def test_a_cells_file_without_the_axis_has_one_model(family: Path) -> None:
    """As version 2 wrote it: the model's sizes alone."""
    grid, path = grid_of(family, model="small", grid=PLACES), family / "cells.parquet"
    write_grid(grid, path)
    table = pq.read_table(path)
    notes = {key: value for key, value in table.schema.metadata.items() if key not in (b"models", b"crc32")}
    (model,) = json.loads(table.schema.metadata[b"models"])
    notes |= {b"model": json.dumps(model["info"]).encode(), b"schema_version": b"2"}
    notes[b"strands"] = notes[b"strands"].replace(f',"model":"{family}/small"'.encode(), b"")
    assert b'"model":"/' not in notes[b"strands"]
    pq.write_table(table.drop_columns(["model"]).replace_schema_metadata(notes), path)
    assert read_grid(path) == grid


def test_the_example_of_the_docs_is_planned(folder: Path, project: Path) -> None:
    """Its block as it is, beside two checkpoints."""
    page = (project / "docs" / "models.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"<!-- models: begin -->\n```yaml\n(.*?)```", page, flags=re.DOTALL)
    (folder / "checkpoints").mkdir()
    for name, step in (("demo-model", "step1000"), ("other-model", "step2000")):
        (folder / name).rename(folder / "checkpoints" / step)
    (folder / "training.yaml").write_text(block, encoding="utf-8")
    sweep = Sweep.load(folder / "training.yaml", sweeps=folder / "sweeps")
    n_cells = {model.name: len(keys_of(sweep.grid, model.name)) for model in sweep.grid.models}
    assert n_cells == {"step1000": 4, "late": 4, "step2000 untrained": 4}


def test_jobs_are_of_one_model(load: LoadSweep, folder: Path, world: World) -> None:
    """Each names the folder of its model, and its cells are that model's; labels say which."""
    sweep = load(**several([*BOTH, {"path": "demo-model", "untrained": True}]))
    assert {job.model for job in sweep.plan().jobs} == {*BOTH, "demo-model untrained"}
    sweep.submit()
    found = {}
    for job in jobs_of(sweep):
        (name,) = {job.label.partition(": ")[0]}
        keys = {cell.key for cohort in job.cohorts for cell in cohort.cells}
        assert keys <= keys_of(sweep.grid, name)
        found[name] = (Path(job.model_path).name, job.gate_task_accuracy)
    assert found == {
        "demo-model": ("demo-model", 0.8),
        "other-model": ("other-model", 0.8),
        "demo-model untrained": ("demo-model", 0.0),
    }


def test_rows_and_cells_are_chosen_by_model(load: LoadSweep, folder: Path, world: World) -> None:
    """results, query, the frame of cells and --where speak of the models by their names."""
    sweep = load(**several(BOTH))
    sweep.submit()
    for job in jobs_of(sweep):
        finish(world, job)
    assert sweep.status().is_done
    assert set(sweep.results()["model"]) == set(BOTH)
    chosen = sweep.results(where=["model=other-model"])
    assert set(chosen["cell_key"]) == keys_of(sweep.grid, "other-model")
    asked = sweep.query("SELECT model, count(*) AS n FROM results GROUP BY model ORDER BY model")
    assert asked.to_dict("list") == {"model": BOTH, "n": [8, 8]}
    assert sweep.cells().groupby("model").size().to_dict() == {"demo-model": 8, "other-model": 8}
    with pytest.raises(SpecError, match="no model of this sweep is that; did you mean `other-model`"):
        sweep.results(where=["model=othr-model"])


def test_a_sweep_of_one_model_grows_by_the_axis(load: LoadSweep, folder: Path, world: World) -> None:
    """Its rows count, and only the new model's cells are run."""
    first = load(model={"path": "demo-model", "dtype": "float32"})
    first.submit()
    for job in jobs_of(first):
        finish(world, job)
    grown = load(**several(BOTH))
    assert (grown.plan().n_done, grown.plan().n_to_run) == (8, 8)
    grown.submit()
    (job,) = {one.model_path for one in newest_jobs(grown)}
    assert Path(job).name == "other-model"
    again = Sweep.load(grown.folder.root)
    assert [model.name for model in again.grid.models] == BOTH
    assert set(again.results()["model"]) == {"demo-model"}


def test_another_model_is_another_sweep(load: LoadSweep, folder: Path, world: World) -> None:
    """An axis that has none of the sweep's models, and a checkpoint that has changed behind its name."""
    load(**several(BOTH)).submit()
    shutil.copytree(folder / "other-model", folder / "third")
    config = folder / "third" / "config.json"
    config.write_text(config.read_text().replace("2e-06", "3e-06"), encoding="utf-8")
    with pytest.raises(SweepConflict, match="models: \\['demo-model', 'other-model'\\] there, \\['third'\\] in"):
        load(**several(["third"]))
    assert len(load(**several([*BOTH, "third"])).grid.models) == 3
    assert len(load(**several(["other-model"])).grid.models) == 1
    shutil.copy(config, folder / "other-model" / "config.json")
    finish(world, jobs_of(load(**several(["demo-model"])))[0])
    with pytest.raises(SweepConflict, match=r"model 'other-model'\.fingerprint"):
        load(**several(BOTH))


def test_a_model_that_is_gone_keeps_only_its_own_cells_from_running(
    load: LoadSweep, folder: Path, world: World
) -> None:
    """The others are resumed; where it is needed, its key is named."""
    sweep = load(**several(BOTH, exclude=[{"model": "other-model", "layer": 0}]))
    sweep.submit()
    jobs = {Path(job.model_path).name: job for job in jobs_of(sweep)}
    finish(world, jobs["demo-model"])
    shutil.rmtree(folder / "demo-model")
    from cluster.backend import JobState
    from tests.unit.orchestrator.fake_cluster import set_state

    set_state(world, jobs["other-model"].job, JobState.FAILED)
    again = Sweep.load(sweep.folder.root)
    assert again.resume().n_cells == 4
    shutil.rmtree(folder / "other-model")
    set_state(world, newest_jobs(again)[0].job, JobState.FAILED)
    with pytest.raises(SpecError, match=r"key `grid.models\[1\].path`: .*other-model: no such folder"):
        Sweep.load(sweep.folder.root).resume()
