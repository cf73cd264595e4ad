"""docs/extending.md, block by block: what it tells a reader to write is written, and runs.

The user's task lies beside its spec and runs on the project as it is. What is built in goes into a copy of the project,
just where the page says, so that "one file and one entry" is all there is to it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from orchestrator import Sweep
from orchestrator.spec.schema import load_spec
from orchestrator.spec.text import to_yaml
from workers.data.pairs import stream_rng
from workers.tasks import AbstractTask, load_task

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

METHODS = [{"name": "neurons", "k": [1, 8]}, "nearest_mean", "token_lookup"]
SMALL = ["data.n_train=64", "data.n_eval=8", "data.n_test=32", "method.epochs=1", "gate.task_accuracy=0"]
PLACE = re.compile(r"# (?P<path>[\w/]+\.(?:py|yaml))(?:, (?P<where>.+))?\n")


def blocks(project: Path) -> dict[tuple[str, str], str]:
    """The page's blocks that name their file, by path and place in it; the line that names them is left out. Those of
    one place follow each other."""
    text = (project / "docs" / "extending.md").read_text(encoding="utf-8")
    found: dict[tuple[str, str], str] = {}
    for block in re.findall(r"^```(?:python|yaml)\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE):
        place = PLACE.match(block)
        assert place, f"a block does not say where it belongs: {block[:60]!r}"
        key, text = (place["path"], place["where"] or ""), block[place.end() :]
        assert key not in found or key[1], f"{place['path']} is there twice"
        between = "\n\n" if key[1].startswith("before") and key in found else ""
        found[key] = found.get(key, "") + between + text
    return found


def commands(project: Path) -> list[list[str]]:
    """The page's command lines."""
    text = (project / "docs" / "extending.md").read_text(encoding="utf-8")
    lines = "".join(re.findall(r"^```sh\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)).splitlines()
    return [line.split() for line in lines]


def called(*arguments: str, cwd: Path, path: Path | None = None) -> str:
    """What a Python module printed, run in `cwd`; with `path` the packages there are the ones it imports."""
    environment = os.environ | ({"PYTHONPATH": f"{path}{os.pathsep}{os.environ['PYTHONPATH']}"} if path else {})
    command = [sys.executable, "-m", *arguments]
    ended = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=500)
    assert ended.returncode == 0, f"{' '.join(command)}\n{ended.stdout[-3000:]}\n{ended.stderr[-3000:]}"
    return ended.stdout


def overridden(*values: str) -> list[str]:
    """As --set options."""
    return [word for value in values for word in ("--set", value)]


# A user's own file ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, project: Path) -> Path:
    """A user's folder: the page's task and spec, and a small random Llama whose tokenizer knows the words."""
    folder = tmp_path_factory.mktemp("user")
    for (path, _), text in blocks(project).items():
        if "/" not in path:
            (folder / path).write_text(text, encoding="utf-8")
    sys.path.insert(0, str(project / "examples"))
    try:
        from tiny_tokenizer import build_tokenizer
    finally:
        sys.path.remove(str(project / "examples"))
    task = load_task({"file": str(folder / "ioi.py")})
    inputs = {"first": "John", "second": "Mary", "giver": "Mary"}
    prompts = [task.prompt(inputs | {"place": place}) for place in (*task.places, "park")]
    tokenizer = build_tokenizer([*prompts, *task.answers.values()])
    tokenizer.save_pretrained(folder / "model")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(folder / "model")
    return folder


@pytest.fixture
def task(folder: Path) -> AbstractTask:
    """The task as the spec names it."""
    return load_task(load_spec(folder / "ioi.yaml").task)


def test_a_task_file_is_about_forty_lines(project: Path) -> None:
    """As promised: code, without blank lines and the docstring."""
    lines = [line for line in blocks(project)["ioi.py", ""].splitlines() if line.strip()]
    assert len(lines) <= 45


def test_the_users_task_draws_prompts_that_its_hypotheses_answer(task: AbstractTask) -> None:
    """The answer is whoever did not give, by both hypotheses and in the prompt's own words."""
    rng = stream_rng(test="ioi")
    for inputs in (task.sample(rng) for _ in range(50)):
        receiver = ({inputs["first"], inputs["second"]} - {inputs["giver"]}).pop()
        said = {one.model.run(inputs)[one.model.output] for one in task.hypotheses.values()}
        assert said == {receiver}
        assert task.answers[receiver] == f" {receiver}"
        first, second, place, giver = (inputs[name] for name in ("first", "second", "place", "giver"))
        prompt = task.prompt(inputs)
        assert prompt == f"When {first} and {second} went to the {place}, {giver} gave a drink to"
        at = task.positions(inputs)
        assert (prompt[: at["giver"] + 1].split()[-1], prompt[at["verb"] :].split()[0]) == (giver, "gave")


@pytest.mark.parametrize(
    ("name", "variable", "label"),
    [
        ("repeated_first", "F", "Anna"),  # the source's second name comes again: so does the base's, and Anna receives
        ("receiver", "N", "Paul"),  # the source's receiver
    ],
)
def test_counterfactual_labels_are_those_worked_out_by_hand(
    task: AbstractTask, name: str, variable: str, label: str
) -> None:
    """Base: Anna and Tom, Anna gives (Tom receives). Source: Paul and Mary, Mary gives (Paul receives)."""
    base = {"first": "Anna", "second": "Tom", "giver": "Anna"}
    source = {"first": "Paul", "second": "Mary", "giver": "Mary"}
    model = task.hypotheses[name].model
    assert model.run(base)[model.output] == "Tom"
    assert model.interchange(base, {variable: source})[model.output] == label


def test_the_users_task_is_planned_and_runs(folder: Path, project: Path) -> None:
    """The page's `prompt`, `plan` and `run`, on small data: both hypotheses measured by name in prompts that differ
    in length, and on the setting, whose prompts do not."""
    prompt, plan, run = ([word for word in line if word != "causalsweep"] for line in commands(project)[:3])
    model = overridden("model.path=model")
    assert "giver" in called("orchestrator", *prompt, *model, cwd=folder)
    assert "12 cells to run" in called("orchestrator", *plan, *model, cwd=folder)
    assert not (folder / "sweeps").exists()
    some = overridden(*SMALL, "grid.layers=1", "grid.positions=verb")
    called("orchestrator", *run, *model, *some, cwd=folder)
    rows = Sweep.load("ioi", sweeps=folder / "sweeps").results()
    assert set(zip(rows["experiment"], rows["setting"], strict=True)) == {
        (name, setting) for name in ("repeated_first", "receiver") for setting in ("main", "park")
    }
    assert set(rows["token"]) == {"verb"}
    assert set(rows["status"]) == {"done"}
    assert (rows["n_total"] == 32).all()


# Built in -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory, project: Path) -> Path:
    """A copy of the project in which each block is where the page says."""
    copy = tmp_path_factory.mktemp("extended")
    for name in ("orchestrator", "workers", "cluster", "values", "tests"):
        shutil.copytree(project / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(project / "pyproject.toml", copy)
    found = blocks(project)
    found["workers/tasks/ioi.py", ""] = found["ioi.py", ""]
    for (path, where), text in found.items():
        if "/" in path:
            insert(copy / path, where, text)
    return copy


def insert(path: Path, where: str, text: str) -> None:
    """`text` as the new file `path`, or in it: `in NAME` (a registry), `before NAME`, or `among the imports`."""
    if not where:
        assert not path.exists()
        path.write_text(text, encoding="utf-8")
        return
    content = path.read_text(encoding="utf-8")
    kind, _, name = where.rpartition(" ")
    anchor = r"^from workers" if name == "imports" else rf"^{name}\b[^\n]* = \{{\n"
    place = re.search(anchor, content, flags=re.MULTILINE)
    assert place, f"{path.name} has no place {where!r}"
    at = place.end() if kind == "in" else place.start()
    after = "\n\n" if kind == "before" else ""
    path.write_text(content[:at] + text + after + content[at:], encoding="utf-8")


def results_of(copy: Path, folder: Path, spec: dict[str, object]) -> pd.DataFrame:
    """The rows of a sweep that the copy of the project ran."""
    (folder / "sweep.yaml").write_text(to_yaml(spec), encoding="utf-8")
    called("orchestrator", "run", "sweep.yaml", cwd=folder, path=copy)
    return pd.read_parquet(folder / "sweeps" / str(spec["name"]) / "shards")


def test_a_hypothesis_and_a_method_of_the_page_run_a_cell(extended: Path, tmp_path: Path, demo_model: Path) -> None:
    """A new hypothesis, aligned by a new method with two values of its setting, and read by two: four measured cells,
    told apart. A further setting is read from what was saved."""
    spec: dict[str, object] = {
        "name": "extended",
        "model": {"path": str(demo_model), "dtype": "float32"},
        "task": "price_tagging",
        "grid": {"experiments": "right_boundary", "layers": 1, "positions": 81, "methods": METHODS},
        "data": {"n_train": 64, "n_eval": 8, "n_test": 32},
    }
    rows = results_of(extended, tmp_path, spec)
    dimensions = {"neurons_k1": 1, "neurons_k8": 8, "nearest_mean": 64, "token_lookup": 0}
    assert dict(zip(rows["method"], rows["subspace_dim"], strict=True)) == dimensions
    assert set(rows["status"]) == {"done"}
    assert set(rows["hypothesis"]) == {"right_boundary"}
    rows = results_of(extended, tmp_path, spec | {"settings": [{"name": "again", "task": {}}]})
    again, first = rows[rows["setting"] == "again"], rows[rows["setting"] == "main"]
    assert dict(zip(again["method"], again["n_correct"], strict=True)) == dict(
        zip(first["method"], first["n_correct"], strict=True)
    )


def test_the_pages_task_can_be_built_in(extended: Path, folder: Path) -> None:
    """The user's file in workers/tasks/, an import and an entry: the registry has it by its name."""
    values = overridden("name=built-in", "model.path=model", "task=indirect_object")
    assert "12 cells to run" in called("orchestrator", "plan", "ioi.yaml", *values, cwd=folder, path=extended)


def test_the_pages_tests_pass(extended: Path, project: Path) -> None:
    """The method finds its planted truth, and the family's engines agree, with the page's own command."""
    command = commands(project)[-1]
    assert command[0] == "pytest"
    files = [path for path, where in blocks(project) if path.startswith("tests/unit/workers/methods/") and not where]
    assert len(files) == 3
    of_families = f"{command[-1]} or neuron or nearest or token"
    said = called(*command[:-1], of_families, "-v", "-p", "no:cacheprovider", *files, cwd=extended, path=extended)
    for test in ("planted_neuron_is_found", "state_is_nearer_to_its_own_mean", "it_knows_what_the_token_says"):
        assert re.search(rf"test_(a_|the_)?{test}\S* PASSED", said)
    for name in ("test_engine.py", "test_families.py"):
        assert re.search(rf"{name}::\w+\[.*granite.*\] PASSED", said)
