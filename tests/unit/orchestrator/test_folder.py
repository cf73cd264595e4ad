"""Spec and cells are one commit: whatever is cut short, the sweep is the old one or the new one."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow.parquet as pq
import pytest

from orchestrator import folder as sweep_folder
from orchestrator.errors import SweepNotFound
from orchestrator.grid.file import planned_spec
from orchestrator.listing import listed
from orchestrator.sweep import Sweep
from tests.unit.orchestrator.conftest import LoadSweep
from tests.unit.orchestrator.fake_cluster import Death, World

GROWN = {"experiments": ["left_boundary", "bracket_identity"], "layers": [0, 1, 2], "positions": "80..81"}


def die_at(monkeypatch: pytest.MonkeyPatch, n: int) -> None:
    """Kill this process before it writes the n-th file of a commit."""
    real: Callable[..., None] = sweep_folder.replace_file
    writes = iter(range(n))

    def write(*arguments: object) -> None:
        if next(writes, None) is None:
            raise Death
        real(*arguments)

    monkeypatch.setattr(sweep_folder, "replace_file", write)
    monkeypatch.setattr("orchestrator.grid.file.replace_file", write)
    monkeypatch.setattr(sweep_folder._Before, "restore", lambda _before: None)


@pytest.mark.parametrize(("n_writes", "n_cells"), [(0, 8), (1, 8), (2, 12), (3, 12)])
def test_a_growth_that_is_cut_short_is_the_old_or_the_new_sweep(
    load: LoadSweep, world: World, monkeypatch: pytest.MonkeyPatch, n_writes: int, n_cells: int
) -> None:
    """Killed before and after each of the files: spec and cells agree."""
    root = load().folder.root
    load().submit()
    grown = load(grid=GROWN)
    with monkeypatch.context() as patched:
        die_at(patched, n_writes)
        with pytest.raises(Death), sweep_folder.written(grown.folder, grown.spec, grown.grid):
            raise Death
    sweep = Sweep.load(root)
    assert len(list(sweep.grid.cells())) == n_cells
    assert len(sweep.spec.grid.layers) == n_cells // 4
    sweep.resume()
    assert Sweep.load(root).spec.to_yaml() == sweep.spec.to_yaml()
    assert (root / "sweep.yaml").read_text() == sweep.spec.to_yaml()


def test_a_missing_or_empty_copy_of_the_spec_is_made_again(load: LoadSweep, world: World) -> None:
    """The cells hold the spec."""
    sweep = load()
    sweep.submit()
    text = sweep.folder.spec.read_text()
    for damage in (sweep.folder.spec.unlink, lambda: sweep.folder.spec.write_text("")):
        damage()
        again = Sweep.load(sweep.folder.root)
        assert again.spec.to_yaml() == text
        again.resume()
        assert sweep.folder.spec.read_text() == text


def test_a_copy_that_was_edited_counts(load: LoadSweep, world: World) -> None:
    """Somebody has raised `jobs.target_h` in sweep.yaml: it is kept, and used."""
    sweep = load()
    sweep.submit()
    edited = sweep.folder.spec.read_text().replace("target_h: 1.5", "target_h: 3")
    sweep.folder.spec.write_text(edited)
    again = Sweep.load(sweep.folder.root)
    assert again.spec.jobs.target_h == 3
    again.resume()
    assert sweep.folder.spec.read_text() == edited


def test_a_failed_first_write_leaves_no_cells_behind(load: LoadSweep, world: World) -> None:
    """The folder held a spec without cells: it does so again."""
    sweep = load()
    sweep.folder.root.mkdir(parents=True)
    sweep.folder.spec.write_text(sweep.spec.to_yaml())
    grown = load(grid=GROWN)
    with pytest.raises(Death), sweep_folder.written(grown.folder, grown.spec, grown.grid):
        raise Death
    assert (sweep.folder.spec.read_text(), sweep.folder.cells.exists()) == (sweep.spec.to_yaml(), False)


def test_a_torn_note_of_the_spec_is_passed_over(load: LoadSweep, world: World) -> None:
    """Its checksum is wrong: sweep.yaml is read."""
    sweep = load()
    sweep.submit()
    table = pq.read_table(sweep.folder.cells)
    notes = {**table.schema.metadata, b"spec": table.schema.metadata[b"spec"].replace(b"float32", b"float64")}
    pq.write_table(table.replace_schema_metadata(notes), sweep.folder.cells)
    assert planned_spec(sweep.folder.cells) is None


def test_a_sweep_without_the_copy_of_its_spec_is_listed(load: LoadSweep, world: World) -> None:
    """Commands find it, so `list` and the names in their errors show it."""
    sweep = load()
    sweep.submit()
    sweep.folder.spec.unlink()
    sweeps = sweep.folder.root.parent
    assert [(line.name, line.state, line.n_cells) for line in listed(sweeps)] == [("small", "waiting", 8)]
    with pytest.raises(SweepNotFound, match="there are small"):
        Sweep.load("other", sweeps=sweeps)
