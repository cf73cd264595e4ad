"""What a sweep learned, in a plain Hugging Face model: the counts of the cell's row on the row's own test pairs."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import transformers as hf

import causalsweep
from orchestrator.errors import SpecError
from orchestrator.spec.text import to_yaml
from orchestrator.sweep import Sweep
from workers.alignments.learned import LearnedAlignment
from workers.data.pairs import PairSet
from workers.data.sources import open_source
from workers.data.tokenizer import Tokenizer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PROJECT = Path(__file__).parents[3]


def run_sweep(folder: Path, model: Path, name: str) -> Sweep:
    """A small sweep, done: one and two variables, at the blocks' outputs and at a head."""
    spec = {
        "name": name,
        "model": {"path": str(model), "dtype": "float32"},
        "task": "price_tagging",
        "grid": {
            "experiments": ["left_boundary", "left_and_right_boundary"],
            "layers": [1],
            "positions": [80, 81],
            "sites": ["block_output", {"head_output": [0]}],
        },
        "method": {"name": "boundless_das", "epochs": 1, "rotation_lr": 0.01},
        "data": {"n_train": 1280, "n_eval": 32, "n_test": 120},
        "gate": {"task_accuracy": 0.0},
        "local": {"workers": 1},
    }
    (folder / f"{name}.yaml").write_text(to_yaml(spec), encoding="utf-8")
    subprocess.run([sys.executable, "-m", "orchestrator", "run", f"{name}.yaml"], cwd=folder, check=True)
    return Sweep.load(folder / "sweeps" / name)


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory, demo_model: Path) -> Path:
    """A random GPT-2 that only ever says yes or no, with the demo's tokenizer."""
    folder = tmp_path_factory.mktemp("gpt2")
    for path in demo_model.glob("*token*"):
        shutil.copy(path, folder)
    tokenizer = hf.AutoTokenizer.from_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, "bos_token_id": 1, "eos_token_id": 2}
    model = hf.GPT2LMHeadModel(hf.GPT2Config(vocab_size=len(tokenizer), tie_word_embeddings=False, **sizes))
    model.eval().save_pretrained(folder)  # the tokenizer's checks want the sizes
    source = open_source({"name": "price_tagging"}, Tokenizer.load(folder), None)
    prompts = source.prompts("left_boundary", n_prompts=64).prompts
    yes, no = source.layout("left_boundary").answer_tokens.values()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() > 1 and "wpe" not in name:
                weight *= 8
        hidden_BD = model.transformer(torch.from_numpy(prompts.ids_BT)).last_hidden_state[:, -1]
        mean_D = hidden_BD.mean(dim=0)
        direction_D = torch.linalg.svd(hidden_BD - mean_D).Vh[0]
        direction_D -= direction_D @ mean_D / (mean_D @ mean_D) * mean_D  # so that both answers occur
        model.lm_head.weight.zero_()
        model.lm_head.weight[yes], model.lm_head.weight[no] = direction_D, -direction_D
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=["demo", "gpt2"])
def swept(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, demo_model: Path) -> Sweep:
    """The sweep of each model."""
    model = demo_model if request.param == "demo" else request.getfixturevalue("gpt2")
    return run_sweep(tmp_path_factory.mktemp(request.param), model, request.param)


def own_pairs(sweep: Sweep, row: dict[str, Any]) -> PairSet:
    """The test pairs that the row was counted on."""
    path = Path(row["model"])
    source = open_source({"name": row["task"]}, Tokenizer.load(path), sweep.folder)
    return source.pairs(row["hypothesis"], n_pairs=row["n_total"], split="test", seed=row["seed"])


def n_right(model: Any, alignment: LearnedAlignment, pairs: PairSet) -> int:
    """On how many pairs the plain model, hooked, says the label."""
    names = [alignment.variables[index] for index in pairs.variable_B]
    with torch.no_grad(), alignment.hook(model, torch.from_numpy(pairs.source.ids_BT), variable=names):
        logits_BV = model(torch.from_numpy(pairs.base.ids_BT)).logits[:, -1]
    return int((logits_BV.argmax(dim=-1) == torch.from_numpy(pairs.label_B)).sum())


def test_a_plain_model_gives_the_counts_of_the_row(swept: Sweep) -> None:
    """For each cell: one and two variables, a block's output and a head. Not all rows have the control's counts."""
    rows = swept.results()
    assert len(rows) == 8
    assert (rows["n_correct"] != rows["n_correct_none"]).any()
    model = hf.AutoModelForCausalLM.from_pretrained(rows["model"].iloc[0], dtype=torch.float32).eval()
    for row in rows.to_dict("records"):
        alignment = swept.alignment(
            experiment=row["experiment"], layer=row["layer"], position=row["position"], site=row["site"]
        )
        assert alignment.provenance["cell_key"] == row["cell_key"]
        assert alignment.provenance["n_correct"] == row["n_correct"]
        assert n_right(model, alignment, own_pairs(swept, row)) == row["n_correct"]


def test_the_index_and_the_readme_lead_to_the_files(swept: Sweep) -> None:
    """Each line of the index names a file that holds what it says; the README names the folders that there are."""
    index = pd.read_parquet(swept.folder.alignments / "index.parquet")
    assert len(index) == 8
    for line in index.to_dict("records"):
        alignment = causalsweep.load_alignment(swept.folder.root / line["file"])
        assert (alignment.place.layer, alignment.place.position) == (line["layer"], line["position"])
        assert alignment.variables == tuple(line["variables"])
    said = (swept.folder.root / "README.md").read_text(encoding="utf-8")
    there = {path.name for path in swept.folder.root.iterdir() if not path.name.startswith(".")} - {"README.md"}
    assert [name for name in there if f"`{name}" not in said] == []


def test_a_cell_is_named_as_far_as_needed(swept: Sweep) -> None:
    """Several cells: what to add. None: what there is."""
    with pytest.raises(SpecError, match=r"4 cells have experiment='left_boundary'; give also position= \(80, 81\)"):
        swept.alignment(experiment="left_boundary")
    with pytest.raises(SpecError, match="did you mean `left_boundary`"):
        swept.alignment(experiment="left_bondary")
    named = swept.alignment(experiment="left_boundary", position=":", site="block_output")
    assert named.place.position == 80


def test_a_file_of_an_earlier_version_asks_for_the_position(swept: Sweep, tmp_path: Path) -> None:
    """Without the note whether the position is an index, the hook wants it; the variables come from the row."""
    from safetensors.torch import load_file, safe_open, save_file

    alignment = swept.alignment(experiment="left_and_right_boundary", position=81, site="block_output")
    with safe_open(alignment.path, framework="pt") as file:
        notes = file.metadata()
    for name in ("variables", "is_index", "crc32"):
        del notes[name]
    folder = tmp_path / "old"
    shutil.copytree(swept.folder.root, folder)
    path = folder / alignment.path.relative_to(swept.folder.root)
    save_file(load_file(alignment.path), path, metadata=notes)
    old = causalsweep.load_alignment(path)
    assert old.variables == alignment.variables
    with pytest.raises(ValueError, match="an earlier version"):
        old.hook(None, torch.zeros(1, 3), variable=old.variables[0])


def test_pyvene_gives_the_same_logits(swept: Sweep) -> None:
    """The intervention in pyvene's own model, at a block's output."""
    pyvene = pytest.importorskip("pyvene", reason="a library of the tests, installed with [dev]")
    row = swept.results(where=["experiment=left_boundary", "position=81", "site=block_output"]).iloc[0].to_dict()
    alignment = swept.alignment(experiment="left_boundary", position=81, site="block_output")
    pairs = own_pairs(swept, row)
    base, source = (torch.from_numpy(prompts.ids_BT[:8]) for prompts in (pairs.base, pairs.source))
    model = hf.AutoModelForCausalLM.from_pretrained(row["model"], dtype=torch.float32).eval()
    with torch.no_grad(), alignment.hook(model, source):
        wanted_BV = model(base).logits[:, -1]
    made = pyvene.RepresentationConfig(1, "block_output", "pos", 1, intervention=alignment.pyvene_intervention())
    intervenable = pyvene.IntervenableModel(pyvene.IntervenableConfig(representations=[made]), model)
    _, output = intervenable({"input_ids": base}, [{"input_ids": source}], {"sources->base": 81})
    torch.testing.assert_close(output.logits[:, -1].detach(), wanted_BV, rtol=1e-4, atol=1e-4)


def test_the_readmes_example_runs(swept: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    """The block of the README on alignments, with the sweep in place of the demo's."""
    text = (PROJECT / "README.md").read_text(encoding="utf-8")
    (block,) = [code for code in re.findall(r"```python\n(.*?)```", text, re.S) if "alignment.hook" in code]
    monkeypatch.chdir(swept.folder.root.parents[1])
    code = block.replace('"examples/demo-model"', repr(swept.results()["model"].iloc[0]))
    code = code.replace('Sweep.load("demo")', f"Sweep.load({swept.folder.root.name!r})")
    code = code.replace("seed=42)", "seed=42, site='block_output')")
    found: dict[str, Any] = {}
    exec(code, found)
    assert found["basis"].shape[0] == found["alignment"].directions_DK.shape[0]
    assert found["answer"].strip() in ("Yes", "No")
