"""A model of the Hub: found in a cache laid out as huggingface_hub does, pinned to its commit, and never downloaded."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from orchestrator.errors import SpecError, SweepConflict
from orchestrator.grid.model import model_folder
from orchestrator.spec.schema import load_spec
from orchestrator.sweep import Sweep
from tests.unit.orchestrator.conftest import LoadSweep
from tests.unit.orchestrator.fake_cluster import World, jobs_of
from workers.data.hub import is_hub_id, model_name
from workers.files.job import Cell

FIRST, SECOND = "1" * 40, "2" * 40
MODEL = {"path": "Lab/tiny-model", "dtype": "float32"}


def cached(cache: Path, commit: str, source: Path, *, branch: str = "main", without: str = "") -> Path:
    """The snapshot of `source` at `commit` in a cache: its files are links into `blobs`, and `branch` names it."""
    folder = cache / "models--Lab--tiny-model"
    snapshot = folder / "snapshots" / commit
    for part in (folder / "blobs", folder / "refs", snapshot):
        part.mkdir(parents=True, exist_ok=True)
    (folder / "refs" / branch).write_text(commit)
    for file in source.iterdir():
        if file.name != without:
            blob = folder / "blobs" / f"{commit[:4]}{file.name}"
            shutil.copy(file, blob)
            (snapshot / file.name).symlink_to(Path("..") / ".." / "blobs" / blob.name)
    return snapshot


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, which huggingface_hub looks into."""
    folder = tmp_path / "hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder))
    return folder


def test_a_branch_is_pinned_to_the_commit_that_the_cache_has(
    load: LoadSweep, world: World, cache: Path, demo_model: Path
) -> None:
    """Spec, cell keys and job files name the commit; the job loads the snapshot, whatever the branch does later."""
    snapshot = cached(cache, FIRST, demo_model)
    sweep = load(model=MODEL)
    sweep.submit()
    written = load_spec(sweep.folder.spec).model
    assert (written.path, written.revision) == ("Lab/tiny-model", FIRST)
    strand, cell = next(sweep.grid.cells())
    assert strand.stream.model["commit"] == FIRST
    assert Cell(stream=strand.stream, place=cell.place).key() == cell.key
    for job in jobs_of(sweep):
        assert (job.model_path, job.model_revision) == (str(snapshot), FIRST)
        job.check_keys()


def test_a_folder_of_ones_own_keeps_its_keys(load: LoadSweep, cache: Path, demo_model: Path) -> None:
    """The same files from a folder are cells without a commit: those of every earlier version."""
    cached(cache, FIRST, demo_model)
    own, hub = load(), load(name="hub", model=MODEL)
    assert "commit" not in own.grid.strands[0].stream.model
    assert own.grid.models[0].info.fingerprint == hub.grid.models[0].info.fingerprint
    assert {cell.key for _, cell in own.grid.cells()}.isdisjoint(cell.key for _, cell in hub.grid.cells())


def test_a_branch_that_moves_on_is_another_sweep(load: LoadSweep, world: World, cache: Path, demo_model: Path) -> None:
    """The spec's `main` is now another commit: refused, both are named. The planned sweep keeps its own."""
    first = cached(cache, FIRST, demo_model)
    root = load(model=MODEL)
    root.submit()
    cached(cache, SECOND, demo_model)
    with pytest.raises(SweepConflict, match=f"model.commit: '{FIRST}' there, '{SECOND}' in"):
        load(model=MODEL)
    assert load(model=MODEL | {"revision": FIRST}).spec.model.revision == FIRST
    assert model_folder(Sweep.load(root.folder.root).spec.models()[0]) == first


def test_a_revision_is_a_branch_or_tag_or_commit(load: LoadSweep, cache: Path, demo_model: Path) -> None:
    """A checkpoint of a training is a branch of its own; its commit names it as well."""
    cached(cache, FIRST, demo_model)
    cached(cache, SECOND, demo_model, branch="step1000")
    assert load(model=MODEL | {"revision": "step1000"}).spec.model.revision == SECOND
    assert load(model=MODEL | {"revision": SECOND}).spec.model.revision == SECOND


@pytest.mark.parametrize(
    ("revision", "command"),
    [
        ("", "hf download Lab/tiny-model"),
        ("step1000", "hf download Lab/tiny-model --revision step1000"),
    ],
)
def test_a_model_that_is_not_in_the_cache_is_one_line(
    load: LoadSweep, cache: Path, demo_model: Path, revision: str, command: str
) -> None:
    """The line names file, key and value, and ends with the command that downloads the model; nothing is written."""
    if revision:
        cached(cache, FIRST, demo_model)  # another revision does not count
    with pytest.raises(SpecError) as caught:
        load(model=MODEL | {"revision": revision})
    text = str(caught.value)
    assert "\n" not in text
    assert "small.yaml: key `model.path`: got 'Lab/tiny-model'; there is no such folder" in text
    assert text.endswith(f"or run: {command}")
    assert not (cache.parent / "sweeps").exists()


def test_weights_that_are_not_in_the_cache_are_named_before_a_job(
    load: LoadSweep, world: World, cache: Path, demo_model: Path
) -> None:
    """A snapshot with sizes and tokenizer can be planned; a submission names the command that completes it."""
    cached(cache, FIRST, demo_model, without="model.safetensors")
    sweep = load(model=MODEL)
    assert sweep.plan().n_to_run == 8
    with pytest.raises(SpecError, match=f"there are no weights; run: hf download Lab/tiny-model --revision {FIRST}"):
        sweep.submit()


def test_a_planned_sweep_is_read_without_the_cache(
    load: LoadSweep, world: World, cache: Path, demo_model: Path
) -> None:
    """Who reads results needs no model. To run more, the command that downloads just that commit is named."""
    cached(cache, FIRST, demo_model)
    root = load(model=MODEL).folder.root
    load(model=MODEL).submit()
    shutil.rmtree(cache)
    sweep = Sweep.load(root)
    assert len(sweep.status().cells) == 8
    assert len(sweep.cells()) == 8
    with pytest.raises(SpecError, match=f"hf download Lab/tiny-model --revision {FIRST}"):
        model_folder(sweep.spec.models()[0])


def test_a_folder_comes_before_an_id(load: LoadSweep, cache: Path, demo_model: Path, tmp_path: Path) -> None:
    """What lies beside the spec is what its author means."""
    cached(cache, FIRST, demo_model)
    shutil.copytree(demo_model, tmp_path / "Lab" / "tiny-model")
    assert load(model=MODEL).spec.model.path == str(tmp_path / "Lab" / "tiny-model")


@pytest.mark.parametrize("text", ["EleutherAI/pythia-70m", "a/b", "Qwen/Qwen2.5-0.5B", "x1/y_2"])
def test_what_may_be_an_id(text: str) -> None:
    """An owner and a name."""
    assert is_hub_id(text)


@pytest.mark.parametrize("text", ["gpt2", "/a/b", "./a", "../a", "a/b/c", "a/../b", "~/b", "a/b--c", "a/", "", "ä/b"])
def test_what_is_no_id(text: str) -> None:
    """Paths, and names without an owner."""
    assert not is_hub_id(text)


def test_a_snapshot_is_called_by_its_id() -> None:
    """Rows say which model it was; a folder of one's own is called by its path."""
    assert model_name(f"/c/hub/models--Lab--tiny-model/snapshots/{FIRST}") == "Lab/tiny-model"
    assert model_name("/models/models--Lab--tiny/x") == "/models/models--Lab--tiny/x"
    assert model_name("/models/llama-7b") == "/models/llama-7b"
