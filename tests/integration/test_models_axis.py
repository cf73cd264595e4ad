"""Two planted models with different truths in one sweep: each one's rows are right; a sweep of one grows into both."""

from __future__ import annotations

import glob
import inspect
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import transformers

from orchestrator import Sweep
from orchestrator.spec.text import to_yaml
from tests.rows import assert_same_science
from tests.unit.workers.planted import LETTERS, Planted, save_planted

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

HEAD = """
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar
from workers.causal_model import Hypothesis
from workers.tasks.base import AbstractTask
from workers.tasks.price_tagging import HYPOTHESES
"""
MODELS = ["shallow", "deep", {"path": "shallow", "untrained": True, "seed": 7}]
TRUTH = {"shallow": 0, "deep": 1}  # the block behind which the variable is, at the last token


def write_spec(folder: Path, name: str, models: list[Any], **changes: Any) -> Path:
    """DAS of one dimension behind every block, at the last token."""
    spec = {
        "name": name,
        "model": {"dtype": "float32"},
        "task": {"name": "planted", "file": "planted_task.py"},
        "grid": {"experiments": ["left_boundary"], "layers": "all", "positions": 4, "models": models},
        "method": {"name": "das", "k": 1, "epochs": 10, "batch_size": 32, "rotation_lr": 3e-2},
        "data": {"n_train": 960, "n_eval": 32, "n_test": 300},
        "local": {"workers": 2},
    }
    path = folder / f"{name}.yaml"
    path.write_text(to_yaml(spec | changes), encoding="utf-8")
    return path


def causalsweep(folder: Path, *arguments: str) -> str:
    """What a command says, run to its end in `folder`."""
    command = [sys.executable, "-m", "orchestrator", *arguments]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=800)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of both models and an untrained one, done; the deep one has a block more, which does nothing."""
    folder = tmp_path_factory.mktemp("models")
    save_planted(folder / "shallow")
    save_planted(folder / "deep", n_before=1)
    text = f"{HEAD}\nLETTERS = {LETTERS!r}\n\n{inspect.getsource(Planted)}"
    (folder / "planted_task.py").write_text(text, encoding="utf-8")
    write_spec(folder, "pair", MODELS)
    causalsweep(folder, "run", "pair.yaml")
    return folder


@pytest.fixture
def rows(folder: Path) -> pd.DataFrame:
    return Sweep.load("pair", sweeps=folder / "sweeps").results()


def test_each_model_shows_its_own_truth(rows: pd.DataFrame) -> None:
    """The variable is behind block 0 of one and behind block 1 of the other; before it there is nothing to exchange."""
    found = {(row["model"], row["layer"]): row for row in rows.to_dict("records")}
    assert {key for key in found if key[0] in TRUTH} == {
        ("shallow", 0),
        ("shallow", 1),
        *(("deep", n) for n in range(3)),
    }
    for model, layer in TRUTH.items():
        assert found[model, layer]["iia"] > 0.95
        assert found[model, layer]["iia_none"] < 0.8
        assert found[model, layer]["task_accuracy"] == 1.0
    assert found["deep", 0]["n_correct"] == found["deep", 0]["n_correct_none"]


def test_an_untrained_model_is_run_and_shows_nothing(rows: pd.DataFrame) -> None:
    """The gate does not hold it back; no place is above the better control."""
    untrained = rows[rows["model"] == "shallow untrained"]
    assert set(untrained["status"]) == {"done"}
    assert (untrained["iia"] <= untrained[["iia_none", "iia_random", "iia_full"]].max(axis=1) + 0.05).all()
    assert untrained["iia"].max() < 0.8


def test_jobs_hold_one_model_each(folder: Path, rows: pd.DataFrame) -> None:
    """And the store says which checkpoint a row is of."""
    assert (rows.groupby("job")["model"].nunique() == 1).all()
    stored = pd.read_parquet(folder / "sweeps" / "pair" / "store" / "results.parquet")
    names = set(stored["model"].str.removeprefix(f"{folder}/"))
    assert names == {"shallow", "deep", "shallow (untrained, seed 7)"}


def test_a_sweep_of_one_model_grows_by_the_axis(folder: Path, rows: pd.DataFrame) -> None:
    """The rows of the one model stay, only the other's cells are run, and all are those of the sweep of both."""
    one = write_spec(folder, "grown", [])
    text = one.read_text(encoding="utf-8").replace("dtype: float32", "dtype: float32\n  path: shallow")
    one.write_text(text, encoding="utf-8")
    causalsweep(folder, "run", "grown.yaml")
    before = Sweep.load("grown", sweeps=folder / "sweeps").results()
    assert len(before) == 2
    write_spec(folder, "grown", ["shallow", "deep"])
    assert "3 cells to run" in causalsweep(folder, "plan", "grown.yaml")
    causalsweep(folder, "run", "grown.yaml")
    after = Sweep.load("grown", sweeps=folder / "sweeps").results()
    kept = after[after["cell_key"].isin(before["cell_key"])]
    assert set(kept["job"]) == set(before["job"])
    trained = rows[rows["model"].isin(["shallow", "deep"])]
    assert_same_science(after, trained)


def test_what_is_missing_of_one_model_is_resumed(folder: Path, rows: pd.DataFrame) -> None:
    """Its rows come back the same; the other's are not computed again."""
    sweep = Sweep.load("pair", sweeps=folder / "sweeps")
    lost = set(rows.loc[rows["model"] == "deep", "job"])
    for job in lost:
        for path in sweep.folder.shards.glob(f"{job}-*.parquet"):
            path.unlink()
    for path in sweep.folder.alignments.glob("*/*.safetensors"):
        path.unlink()
    causalsweep(folder, "run", "pair")
    again = Sweep.load("pair", sweeps=folder / "sweeps").results()
    assert_same_science(again, rows)
    others = rows[rows["model"] != "deep"].set_index("cell_key")["job"]
    assert (again.set_index("cell_key").loc[others.index, "job"] == others).all()


def test_an_alignment_is_found_by_its_model(folder: Path) -> None:
    """One place of two models has two."""
    from orchestrator.errors import SpecError

    sweep = Sweep.load("pair", sweeps=folder / "sweeps")
    with pytest.raises(SpecError, match="give also model="):
        sweep.alignment(layer=1)
    found = sweep.alignment(layer=1, model="deep")
    assert found.provenance["model"].endswith("/deep")


def test_the_report_has_the_maps_of_each_model(folder: Path) -> None:
    """With pictures of their own."""
    causalsweep(folder, "report", "pair")
    figures = folder / "sweeps" / "pair" / "report" / "figures"
    for model in ("shallow", "deep", "shallow-untrained"):
        assert (figures / f"iia_{model}_das_k1_main_raw_maximum.png").exists()


def mib(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`export mib pair` with these options."""
    command = [sys.executable, "-m", "orchestrator", "export", "mib", "pair", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=200)


def test_an_exported_unit_is_the_cells_own_interchange(folder: Path) -> None:
    """Read back with plain torch and exchanged by hand, it gives the logits of the alignment's hook."""
    names = ("--task", "arithmetic", "--variable", "P=ones_carry", "--position", "4=last_token")
    ended = mib(folder, "--where", "model=deep", *names, "-o", "submission")
    assert ended.returncode == 0, ended.stderr
    unit = folder / "submission" / "arithmetic_GPT2LMHeadModel_ones_carry"
    assert f"{unit.relative_to(folder)}\n3 units" in ended.stdout
    name = "ResidualStream(Layer-1,Token-last_token)"
    assert {path.name for path in unit.glob(f"{glob.escape(name)}*")} == {
        f"{name}_{end}" for end in ("featurizer", "inverse_featurizer", "indices")
    }
    assert json.loads((unit / f"{name}_indices").read_text()) is None
    rotations = [
        torch.load(unit / f"{name}_{end}", weights_only=True)["model_info"]["additional_config"]["rotation_matrix"]
        for end in ("featurizer", "inverse_featurizer")
    ]
    model = transformers.AutoModelForCausalLM.from_pretrained(folder / "deep")
    base, source = torch.tensor([[0, 4, 13, 29, 31]]), torch.tensor([[0, 8, 12, 28, 31]])
    alignment = Sweep.load("pair", sweeps=folder / "sweeps").alignment(layer=1, model="deep")
    with torch.no_grad():
        with alignment.hook(model, source):
            expected = model(base).logits[0, -1]
        kept = model(source, output_hidden_states=True).hidden_states[2][:, 4]  # behind block 1

        def exchange(_module: Any, _arguments: Any, output: Any) -> Any:
            hidden = (output[0] if isinstance(output, tuple) else output).clone()
            there, back = rotations
            error = hidden[:, 4] - (hidden[:, 4] @ there) @ there.T
            hidden[:, 4] = (kept @ there) @ back.T + error
            return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

        handle = model.transformer.h[1].register_forward_hook(exchange)
        found = model(base).logits[0, -1]
        handle.remove()
        assert torch.allclose(found, expected, atol=1e-3)
        assert not torch.allclose(found, model(base).logits[0, -1], atol=1e-2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--where", "model=deep"), "error: export: position 4: got '='; give MIB's name of the position"),
        (("--position", "4=last"), "is untrained; leave it out with --where model!=shallow untrained"),
        (
            ("--where", "model!=shallow untrained", "--position", "4=last"),
            "several cells are planted_GPT2LMHeadModel_P/",
        ),
        (("--where", "model=dep"), "no model of this sweep is that; did you mean `deep`?"),
        (("--position", "last"), "error: --position: got 'last'; expected OURS=THEIRS"),
    ],
)
def test_what_cannot_be_exported_is_named(folder: Path, arguments: tuple[str, ...], message: str) -> None:
    """Exit 2, and nothing is written."""
    ended = mib(folder, *arguments, "-o", "refused")
    assert ended.returncode == 2, ended.stdout
    assert message in ended.stderr
    assert not (folder / "refused").exists()
