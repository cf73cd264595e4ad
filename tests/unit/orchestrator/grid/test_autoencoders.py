"""A spec that names a sparse autoencoder: its hash is in the cell keys, its files go with the sweep."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import SpecError
from orchestrator.folder import written
from orchestrator.grid.expand import Grid, expand
from tests.unit.orchestrator.specs import raw_spec, spec_of
from tests.unit.workers.autoencoders import random_arrays, save_gemma_scope, save_saelens
from workers.data.sae_file import digest_of, files_of
from workers.files.folder import SweepFolder
from workers.methods.settings import method_label


def grid_of(folder: Path, model: Path, **method: Any) -> Grid:
    """The small sweep with this method, its spec in `folder`."""
    model_section = {"path": str(model), "dtype": "float32"}
    return expand(spec_of(raw_spec(method=method, model=model_section), folder))


def problem(folder: Path, model: Path, **method: Any) -> str:
    with pytest.raises(SpecError) as caught:
        grid_of(folder, model, **method)
    return str(caught.value)


def test_the_hash_is_in_the_cell_key_and_the_path_is_not(tmp_path: Path, demo_model: Path) -> None:
    """The same files elsewhere are the same cells; other weights are others."""
    one = save_saelens(tmp_path / "a", random_arrays(64, 90))
    save_saelens(tmp_path / "b" / "same", random_arrays(64, 90))
    save_saelens(tmp_path / "b" / "other", random_arrays(64, 90, seed=1))
    paths = ["a", "b/same", "b/other"]
    grids = [grid_of(tmp_path, demo_model, name="sae", path=path) for path in paths]
    keys = [[cell.key for _, cell in grid.cells()] for grid in grids]
    assert keys[0] == keys[1] != keys[2]
    method = grids[0].strands[0].stream.method
    digest = digest_of(files_of(one))
    assert (method["path"], method["sha256"]) == ("", digest)
    assert (method["width"], method["n_features"]) == (64, 90)
    assert method_label(method) == f"sae_k32_{digest[:8]}"


def test_the_files_go_with_the_sweep(tmp_path: Path, demo_model: Path) -> None:
    """Once it is written, its folder holds them under their hash."""
    path = save_gemma_scope(tmp_path / "sae", random_arrays(64, 90))
    raw = raw_spec(
        method={"name": "dbm", "basis": "sae", "path": str(path)}, model={"path": str(demo_model), "dtype": "float32"}
    )
    spec = spec_of(raw, tmp_path)
    folder = SweepFolder(tmp_path / "sweeps" / "small")
    with written(folder, spec, expand(spec)):
        pass
    digest = digest_of(files_of(path))
    assert digest_of(files_of(folder.autoencoder(digest))) == digest


def test_another_width_is_inapplicable(tmp_path: Path, demo_model: Path) -> None:
    """The cells are there, with their reason."""
    save_saelens(tmp_path / "sae", random_arrays(16, 90))
    grid = grid_of(tmp_path, demo_model, name="sae", path="sae")
    (strand,) = grid.strands
    assert strand.inapplicable == "path: the autoencoder reads vectors of 16, and a token has 64 numbers here"


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ({"name": "sae"}, "key `method.path`: got ''; expected the folder of a sparse autoencoder"),
        ({"name": "sae", "path": "none"}, "none: does not exist; expected a folder with cfg.json"),
        ({"name": "sae", "path": "sae", "features": [[90]]}, "key `method.features`: got 90; the autoencoder at"),
        ({"name": "sae", "path": "sae", "k": 91}, "key `method.k`: got 91; the autoencoder at"),
        ({"name": "sae", "path": "sae", "sha256": "ab"}, "key `method.sha256`: got 'ab'; the files at"),
        ({"name": "dbm", "basis": "sae"}, "key `method.path`: got ''; expected"),
        ({"name": "dbm", "path": "sae"}, "only `basis: sae` reads an autoencoder"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, demo_model: Path, method: dict[str, Any], message: str) -> None:
    """File, key, what was found, and what would be right."""
    save_saelens(tmp_path / "sae", random_arrays(64, 90))
    assert message in problem(tmp_path, demo_model, **method)
