"""What is wrong with a model is said before anything is written, whichever command meets it: exit code 2, one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.backend import JobState
from orchestrator.errors import SpecError, SweepConflict
from orchestrator.search.tune import Range, tune
from orchestrator.spec.text import to_yaml
from orchestrator.status.states import CellState
from orchestrator.sweep import Sweep
from tests.unit.orchestrator.conftest import Run
from tests.unit.orchestrator.fake_cluster import World, jobs_of, set_state, write_shard
from tests.unit.orchestrator.specs import raw_spec
from tests.unit.workers.checkpoints import damaged, weights_of, write_weights
from workers.files.folder import visible_files
from workers.files.shard import read_shard

TORN = "model.layers.2.mlp.down_proj.weight"
Command = Callable[..., tuple[int, str]]


def lacks_a_matrix(model: Path) -> None:
    write_weights(model, damaged(weights_of(model), TORN, "removed"))


def lacks_the_head(model: Path) -> None:
    write_weights(model, damaged(weights_of(model), "lm_head.weight", "removed"))


def set_config(model: Path, **changes: Any) -> None:
    file = model / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def knows_twenty_tokens(model: Path) -> None:
    weights = weights_of(model)
    ends = ("lm_head.weight", "model.embed_tokens.weight")
    write_weights(model, weights | {name: weights[name][:20] for name in ends})
    set_config(model, vocab_size=20)


def is_a_pointer(model: Path) -> None:
    (model / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 9\n")


FAULTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "nomlp": (lacks_a_matrix, f"its weights do not match its config.json: missing {TORN};"),
    "nohead": (lacks_the_head, "its weights do not match its config.json: missing lm_head.weight;"),
    "morelayers": (
        lambda model: set_config(model, num_hidden_layers=5),
        "missing model.layers.4.input_layernorm.weight",
    ),
    "smallvocab": (knows_twenty_tokens, "the id 138, and the model knows 20 tokens (key `vocab_size` of config.json"),
    "quant": (
        lambda model: set_config(model, quantization_config={"quant_method": "gptq", "bits": 4}),
        "key `quantization_config`: gptq weights (transformers loads them with optimum and gptqmodel)",
    ),
    "lfs": (is_a_pointer, "model.safetensors: a Git LFS pointer, not the file itself; run `git lfs pull`"),
    "empty": (lambda model: (model / "model.safetensors").write_bytes(b""), "an empty file (0 bytes)"),
}


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the verdicts on checkpoints are kept: not among the user's own, and once for all tests here."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _own_cache(verdicts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(verdicts))


@pytest.fixture
def model(demo_model: Path, tmp_path: Path) -> Path:
    """A copy of the demo's checkpoint."""
    return shutil.copytree(demo_model, tmp_path / "model")


@pytest.fixture
def load(tmp_path: Path, model: Path) -> Callable[..., Sweep]:
    """Loads a sweep of four cells on that copy, from its spec file."""

    def loaded(**changes: Any) -> Sweep:
        raw = raw_spec(model={"path": str(model), "dtype": "float32"}) | changes
        (tmp_path / "small.yaml").write_text(to_yaml(raw), encoding="utf-8")
        return Sweep.load(tmp_path / "small.yaml", sweeps=tmp_path / "sweeps")

    return loaded


@pytest.fixture
def command(
    tmp_path: Path,
    load: Callable[..., Sweep],
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Command:
    """Runs `causalsweep` beside the spec: its exit code and what it says on standard error."""
    load()
    monkeypatch.chdir(tmp_path)

    def called(*arguments: str) -> tuple[int, str]:
        return run(*arguments), capsys.readouterr().err

    return called


def end_early(world: World, sweep: Sweep) -> None:
    """Every job of the sweep ends, the first one with the row of one cell."""
    jobs = jobs_of(sweep)
    write_shard(jobs[0], [jobs[0].cohorts[0].cells[0].key])
    for job in jobs:
        set_state(world, job.job, JobState.FAILED)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_checkpoint_is_refused_at_plan(command: Command, model: Path, tmp_path: Path, fault: str) -> None:
    """One line that names the spec, the key, the file or weight, and what would be right; nothing is written."""
    damage, message = FAULTS[fault]
    damage(model)
    code, said = command("plan", "small.yaml")
    assert (code, said.count("\n")) == (2, 1), said
    assert said.startswith("error: small.yaml: key `model.path`: ")
    assert message in said
    assert not (tmp_path / "sweeps").exists()


@pytest.mark.parametrize("name", ["submit", "run", "prompt"])
@pytest.mark.parametrize("fault", ["nomlp", "smallvocab", "quant", "lfs"])
def test_it_is_refused_by_every_command_that_reads_the_spec(
    command: Command, world: World, model: Path, name: str, fault: str
) -> None:
    """The same line."""
    damage, message = FAULTS[fault]
    damage(model)
    code, said = command(name, "small.yaml")
    assert (code, message in said) == (2, True), said
    assert world.requests == {}


@pytest.mark.parametrize("name", ["run", "resume"])
@pytest.mark.parametrize("fault", ["nomlp", "quant", "lfs"])
def test_it_is_refused_by_every_command_that_runs_a_planned_sweep(
    command: Command, load: Callable[..., Sweep], world: World, model: Path, name: str, fault: str
) -> None:
    """A job of it has ended early; nothing is handed over."""
    load().submit()
    end_early(world, load())
    damage, message = FAULTS[fault]
    damage(model)
    n_jobs = len(world.requests)
    code, said = command(name, "small")
    assert (code, message in said) == (2, True), said
    assert len(world.requests) == n_jobs


def test_a_search_refuses_it_too(load: Callable[..., Sweep], tmp_path: Path, model: Path) -> None:
    """Before Ray is asked for anything."""
    load()
    lacks_a_matrix(model)
    with pytest.raises(SpecError, match=f"missing {TORN}"):
        tune(tmp_path / "small.yaml", {"rotation_lr": Range(low=1e-4, high=1e-2)}, sweeps=tmp_path / "sweeps")


# A checkpoint that changes ---------------------------------------------------------------------------------------


def test_a_planned_sweep_whose_checkpoint_changed_is_refused_with_both_fingerprints(
    load: Callable[..., Sweep], world: World, model: Path, tmp_path: Path
) -> None:
    """The cells would be another model's; nothing is handed over, and what was there stays."""
    load().submit()
    planned = load().grid.models[0].info.fingerprint
    end_early(world, load())
    (model / "config.json").write_text((model / "config.json").read_text() + "\n")
    sweep = Sweep.load("small", sweeps=tmp_path / "sweeps")
    message = rf"changed since the sweep was planned \(fingerprint [0-9a-f]{{32}}, planned {planned}\)"
    with pytest.raises(SpecError, match=message):
        sweep.resume()


def test_a_checkpoint_mended_before_any_row_is_planned_anew(
    load: Callable[..., Sweep], world: World, model: Path
) -> None:
    """Its jobs have not measured anything: the spec file plans the same grid for the mended checkpoint."""
    load().submit()
    before = load().grid
    (model / "config.json").write_text((model / "config.json").read_text() + "\n")
    sweep = load()
    assert sweep.grid.models[0].info.fingerprint != before.models[0].info.fingerprint
    assert sweep.submit().n_cells == before.n_cells


def test_a_checkpoint_changed_behind_the_first_row_is_another_sweep(
    load: Callable[..., Sweep], world: World, model: Path
) -> None:
    """Rows of two models must not stand in one map."""
    load().submit()
    end_early(world, load())
    (model / "config.json").write_text((model / "config.json").read_text() + "\n")
    with pytest.raises(SweepConflict, match=r"model\.fingerprint: "):
        load()


# Plans that cannot run -------------------------------------------------------------------------------------------


def test_what_has_no_meaning_is_inapplicable_in_the_plan_and_costs_nothing(load: Callable[..., Sweep]) -> None:
    """DAS of 40 dimensions for each of two variables in a hidden state of 64, beside one that fits."""
    grid = {"experiments": ["left_and_right_boundary"], "layers": [0, 1], "positions": "80..81"}
    plan = load(grid=grid, method={"name": "das", "k": [1, 40]}).plan()
    assert (plan.n_to_run, plan.n_inapplicable) == (4, 4)
    assert plan.notes == (
        "4 cells inapplicable: k: 2 x 40 dimensions do not fit into a vector of 64; expected 32 or less",
    )
    alone = load(grid=grid, method={"name": "das", "k": 1}).plan()
    assert plan.totals.gpu_hours == pytest.approx(alone.totals.gpu_hours)


@pytest.mark.parametrize(("name", "word"), [("pca", "components"), ("sparse_probe", "neurons")])
def test_more_directions_than_dimensions_are_inapplicable(load: Callable[..., Sweep], name: str, word: str) -> None:
    """In the other methods that have a width."""
    sweep = load(method={"name": name, "k": 65})
    reason = f"k: got 65; a vector of 64 has no more {word} than that"
    assert {(cell.state, cell.reason) for cell in sweep.status().cells.values()} == {(CellState.INAPPLICABLE, reason)}


def test_inapplicable_cells_get_their_row_without_a_job(load: Callable[..., Sweep], world: World) -> None:
    """The row has the reason; no job is handed over, and the sweep is done."""
    sweep = load(method={"name": "pca", "k": 65})
    assert sweep.submit().submission is None
    assert world.requests == {}
    rows = sweep.results()
    assert set(rows["status"]) == {"skipped"}
    assert len(rows) == sweep.grid.n_cells
    assert sweep.check().is_done
    (shard,) = visible_files(sweep.folder.shards, ".parquet")
    assert read_shard(shard).num_rows == 4
    assert sweep.submit().submission is None


NAMES = """
from dataclasses import dataclass
from workers.causal_model import CausalModel, Hypothesis
from workers.tasks.base import AbstractTask

MODEL = CausalModel(N=lambda digit: "high" if digit > 4 else "low", answer=lambda N: N == "high")

@dataclass(frozen=True, kw_only=True)
class Named(AbstractTask):
    name = "named"
    def sample(self, rng): return {"digit": rng.randrange(10)}
    def prompt(self, inputs): return f"Please say yes if {inputs['digit']} is high\\nResponse:"
    @property
    def answers(self): return {True: "Yes", False: "No"}
    @property
    def hypotheses(self): return {"named": Hypothesis(name="named", model=MODEL, variables=("N",))}
"""


def test_what_needs_two_classes_of_a_variable_of_names_is_inapplicable(
    load: Callable[..., Sweep], tmp_path: Path
) -> None:
    """Names have no order, so that there is no cut; a probe has a class for each, and DAS needs none."""
    (tmp_path / "named.py").write_text(NAMES)
    methods = ["skill_neurons", "linear_probe", "das"]
    grid = {"experiments": ["named"], "layers": [0], "positions": "last", "methods": methods}
    plan = load(task={"file": "named.py"}, grid=grid).plan()
    assert (plan.n_to_run, plan.n_inapplicable) == (2, 1)
    assert "skill_neurons needs two classes: variable 'N' of hypothesis 'named' has values that are no" in plan.notes[0]


def test_a_probe_of_values_without_a_text_is_inapplicable(load: Callable[..., Sweep], tmp_path: Path) -> None:
    """A set has no text that is the same in every process, so that its classes could not be told apart."""
    text = NAMES.replace('"high" if digit > 4 else "low"', "{digit > 4}").replace('N == "high"', "True in N")
    (tmp_path / "named.py").write_text(text)
    grid = {"experiments": ["named"], "layers": [0], "positions": "last", "methods": ["linear_probe", "das"]}
    plan = load(task={"file": "named.py"}, grid=grid).plan()
    assert (plan.n_to_run, plan.n_inapplicable) == (1, 1)
    assert "linear_probe needs classes: variable 'N' of hypothesis 'named' has values that are no" in plan.notes[0]


def test_an_attention_that_is_not_installed_is_noted_in_the_plan(load: Callable[..., Sweep], model: Path) -> None:
    """The plan says which one is taken instead."""
    set_config(model, _attn_implementation="flash_attention_2", attn_implementation="flash_attention_2")
    (note,) = load().plan().notes
    assert "asks for the attention 'flash_attention_2', which cannot be used here; 'sdpa' is taken" in note


# A task file that needs more than itself -------------------------------------------------------------------------

READS = {
    "beside itself": "from pathlib import Path; DATA = (Path(__file__).parent / 'data.txt').read_text()",
    "from the working folder": "DATA = open('data.txt').read()",
}


@pytest.mark.parametrize("way", READS)
@pytest.mark.parametrize("where", ["module", "sample"])
def test_a_task_that_reads_a_file_beside_it_is_refused_at_plan(
    command: Command, load: Callable[..., Sweep], tmp_path: Path, way: str, where: str
) -> None:
    """A job has the copy alone: the line that reads is named, and what would be right."""
    text = f"{READS[way]}\n{NAMES}"
    if where == "sample":
        indented = READS[way].replace("; ", "\n        ")
        text = NAMES.replace("def sample(self, rng): ", f"def sample(self, rng):\n        {indented}\n        ")
    (tmp_path / "data.txt").write_text("x")
    (tmp_path / "named.py").write_text(text)
    grid = {"experiments": ["named"], "layers": [0], "positions": "last"}
    raw = raw_spec(model=str(tmp_path / "model"), task={"file": "named.py"}, grid=grid)
    (tmp_path / "small.yaml").write_text(to_yaml(raw))
    code, said = command("plan", "small.yaml")
    assert (code, said.count("\n")) == (2, 1), said
    assert "named.py:" in said
    assert "FileNotFoundError: " in said
    assert "a sweep carries the task's file alone" in said


def test_a_task_that_imports_a_module_beside_it_is_refused_at_plan(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python finds it where the plan is made, and on no node."""
    (tmp_path / "helper_of_task.py").write_text("X = 1")
    (tmp_path / "named.py").write_text("import helper_of_task\n" + NAMES)
    monkeypatch.syspath_prepend(str(tmp_path))
    grid = {"experiments": ["named"], "layers": [0], "positions": "last"}
    raw = raw_spec(model=str(tmp_path / "model"), task={"file": "named.py"}, grid=grid)
    (tmp_path / "small.yaml").write_text(to_yaml(raw))
    for _ in range(2):
        code, said = command("plan", "small.yaml")
        assert (code, said.count("\n")) == (2, 1), said
        assert "helper_of_task.py, which lies beside it; a sweep carries the task's file alone" in said
