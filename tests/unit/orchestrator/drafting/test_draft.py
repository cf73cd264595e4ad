"""What `init` writes for models and tasks of every shape: it plans as it is, and nothing is overwritten."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from orchestrator.drafting.draft import draft
from orchestrator.drafting.proposal import layers_of
from orchestrator.errors import SpecError, StorageError
from orchestrator.sweep import Sweep

COMMIT = "0123456789" * 4


@pytest.fixture
def copy(demo_model: Path, tmp_path: Path) -> Path:
    """A copy of the demo's model without its weights."""
    folder = tmp_path / "models" / "My Model"
    folder.mkdir(parents=True)
    for path in demo_model.iterdir():
        if path.suffix == ".json":
            shutil.copy(path, folder)
    return folder


def planned(spec: Path) -> Sweep:
    """The sweep of a spec that was written; its plan has something to run."""
    sweep = Sweep.load(spec, sweeps=spec.parent / "sweeps")
    assert sweep.plan(on="local").n_to_run == sweep.grid.n_cells > 0
    return sweep


def test_a_folder_gets_a_spec_and_a_task_that_work(demo_model: Path, tmp_path: Path) -> None:
    """A model's folder alone: an example task with answers of one token, all layers, the tokens that matter."""
    made = draft(str(demo_model), folder=tmp_path)
    assert (made.spec.name, made.task and made.task.name) == ("demo-model.yaml", "demo_model_task.py")
    sweep = planned(made.spec)
    assert {strand.experiment for strand in sweep.grid.strands} == {"comparison", "first_number"}
    assert {cell.place.layer for _, cell in sweep.grid.cells()} == {0, 1, 2, 3}
    assert 1 < len({cell.place.position for _, cell in sweep.grid.cells()}) <= 12
    assert made.commands[-1] == f"causalsweep run {made.spec}"


def test_a_model_of_the_hub_is_taken_from_the_cache(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its name on the Hub, at the revision that a download left; without a copy there, how to get one."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf" / "hub"))
    repo = tmp_path / "hf" / "hub" / "models--org--tiny"
    shutil.copytree(copy, repo / "snapshots" / COMMIT)
    (repo / "snapshots" / "old").mkdir()
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(COMMIT)
    made = draft("org/tiny", task="price_tagging", folder=tmp_path)
    assert made.spec.name == "tiny.yaml"
    sweep = planned(made.spec)
    assert (sweep.spec.model.path, sweep.spec.model.revision) == ("org/tiny", COMMIT)
    with pytest.raises(SpecError, match="hf download org/other"):
        draft("org/other", folder=tmp_path)


def test_a_folder_without_weights_plans(copy: Path, tmp_path: Path) -> None:
    """The sizes are enough for a plan; the note and the spec say that a run needs more. Its name becomes a sweep's."""
    made = draft(str(copy), task="price_tagging", folder=tmp_path)
    assert made.spec.name == "my-model.yaml"
    assert any("has no weights yet" in note for note in made.notes)
    planned(made.spec)


def test_a_tokenizer_that_adds_no_bos(copy: Path, tmp_path: Path) -> None:
    """Positions are counted without it."""
    path = copy / "tokenizer.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    assert tokenizer["post_processor"] is not None
    path.write_text(json.dumps(tokenizer | {"post_processor": None}), encoding="utf-8")
    before = planned(draft(str(copy.parent.parent / "models" / "My Model"), name="a", folder=tmp_path).spec)
    assert max(strand.n_tokens for strand in before.grid.strands) - 1 in {
        cell.place.position for _, cell in before.grid.cells()
    }


def test_a_file_of_pairs(demo_model: Path, tmp_path: Path) -> None:
    """Its hypotheses, its named positions, and no more pairs than it has."""
    rows = []
    for index in range(60):
        base, source = (f"{(index * step) % 10}.{index % 10} dollars" for step in (1, 3))
        row = {"base": base, "source": source, "label": str(index % 2), "hypothesis": "mine"}
        rows.append(row | {"split": ["train", "train", "validation", "test"][index % 4]})
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    made = draft(str(demo_model), task=str(file), name="pairs", folder=tmp_path)
    sweep = planned(made.spec)
    assert made.task is None
    assert {strand.experiment for strand in sweep.grid.strands} == {"mine"}
    assert sweep.spec.data.n_train == 30


def test_a_cluster_is_planned_for(demo_model: Path, tmp_path: Path) -> None:
    """--slurm writes its block, and the commands go there."""
    made = draft(str(demo_model), task="arithmetic", slurm="partition=gpu,account=abc", folder=tmp_path)
    assert Sweep.load(made.spec).spec.slurm == {"partition": "gpu", "account": "abc", "gpus": 1}
    assert made.commands[-1] == f"causalsweep run {made.spec} --on slurm"
    assert made.plan.machines.kind == "a100"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"task": "prise_tagging"}, "--task: got 'prise_tagging'; expected a Python file, a file of pairs, or one of"),
        ({"slurm": "gpu"}, "--slurm: got 'gpu'; expected KEY=VALUE"),
    ],
)
def test_mistakes_write_nothing(demo_model: Path, tmp_path: Path, arguments: dict[str, str], said: str) -> None:
    """What was given, what would be right, and an empty folder."""
    with pytest.raises(SpecError, match=said):
        draft(str(demo_model), folder=tmp_path, **arguments)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(demo_model: Path, tmp_path: Path) -> None:
    """A spec of that name stays as it is."""
    (tmp_path / "demo-model.yaml").write_text("mine")
    with pytest.raises(SpecError, match="is there already; give another --name"):
        draft(str(demo_model), folder=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["demo-model.yaml"]


@pytest.mark.parametrize(
    ("n_layers", "chosen"),
    [(4, "all"), (8, "all"), (12, [0, 2, 3, 5, 6, 8, 9, 11]), (30, [0, 4, 8, 12, 17, 21, 25, 29])],
)
def test_layers_are_spread_over_the_model(n_layers: int, chosen: object) -> None:
    """First and last are among them; a small model's are all taken."""
    assert layers_of(n_layers) == chosen


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("a bug"), KeyboardInterrupt()])
def test_whatever_goes_wrong_leaves_nothing_behind(
    demo_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """A full disk, a bug or Ctrl-C while the draft is planned: neither spec nor task file stays, and init can be called
    again."""

    def fails(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(Sweep, "plan", fails)
    with pytest.raises((StorageError, type(error))):
        draft(str(demo_model), folder=tmp_path)
    assert list(tmp_path.iterdir()) == []
