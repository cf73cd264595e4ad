"""Specs for the orchestrator's tests: plain values that a test changes, and LLaMA 7B's folder without its weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from orchestrator.grid.expand import Strand
from orchestrator.spec.schema import SweepSpec, parse_spec
from workers.files.job import JobCell, Stream
from workers.files.place import Place

LLAMA_7B = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "vocab_size": 32000,
}


def raw_spec(**changes: Any) -> dict[str, Any]:
    """A small sweep on the demo model, with some of its sections replaced."""
    grid = {"experiments": ["left_boundary"], "layers": [0, 1], "positions": "80..81", "seeds": [42]}
    base = {"name": "small", "model": {"path": "demo-model", "dtype": "float32"}, "task": "price_tagging", "grid": grid}
    return base | changes


def spec_of(raw: dict[str, Any], folder: Path) -> SweepSpec:
    """The spec of plain values, its model looked for in `folder`."""
    return parse_spec(raw, source="small.yaml", folder=folder)


def llama_7b(folder: Path, tokenizer: Path) -> Path:
    """A folder that plans like LLaMA 7B: its configuration, and a tokenizer that gives the prompt as many tokens."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(LLAMA_7B), encoding="utf-8")
    shutil.copy(tokenizer, folder / "tokenizer.json")
    return folder


def strand_of(
    experiment: str = "left_boundary",
    *,
    layers: range = range(4),
    positions: range = range(69, 82),
    seed: int = 42,
    engine: str = "suffix",
) -> Strand:
    """A strand of the paper's sizes whose keys name the cells."""
    stream = Stream(
        model={"fingerprint": "f", "dtype": "float32"},
        task={"name": "price_tagging"},
        hypothesis=experiment,
        seed=seed,
        data={"n_train": 20_000, "n_eval": 200, "n_test": 1_000},
        method={"name": "boundless_das", "epochs": 3, "batch_size": 64, "eval_every": 0},
        engine=engine,
    )
    cells = tuple(
        JobCell(
            key=f"{experiment}-{seed}-{layer}-{position}", place=Place(layer=layer, position=position), token="digit"
        )
        for layer in layers
        for position in positions
    )
    return Strand(experiment=experiment, stream=stream, variables=("P",), n_tokens=82, n_prefix=38, cells=cells)
