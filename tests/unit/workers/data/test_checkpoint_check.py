"""What planning learns of a checkpoint from a process that knows transformers, and how often it asks."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.unit.workers.checkpoints import damaged, weights_of, write_weights
from workers.data.checkpoint_check import check_checkpoint
from workers.data.model_info import ModelError, read_model_info

TORN = "model.layers.2.mlp.down_proj.weight"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "causalsweep" / "checkpoints"


@pytest.fixture
def checkpoint(demo_model: Path, tmp_path: Path) -> Path:
    """A copy of the demo's checkpoint."""
    return shutil.copytree(demo_model, tmp_path / "model")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The processes that are started, here without starting one."""
    calls: list[Any] = []

    def run(command: list[str], **options: Any) -> Any:
        calls.append(command)
        said = json.dumps({"problem": "", "notes": [f"{command[-1]}: n"]})
        return subprocess.CompletedProcess(command, 0, stdout=f"{said}\n", stderr="")

    monkeypatch.setattr(subprocess, "run", run)
    return calls


def test_a_weight_that_is_missing_is_found_without_torch_here(checkpoint: Path, cache: Path) -> None:
    """By a process that imports it; the verdict is kept, and the message is the same from the cache."""
    write_weights(checkpoint, damaged(weights_of(checkpoint), TORN, "removed"))
    info = read_model_info(checkpoint)
    said = []
    for _ in range(2):
        with pytest.raises(ModelError, match=rf"do not match its config\.json: missing {TORN}; ") as refused:
            check_checkpoint(info)
        said.append(str(refused.value))
    assert said[0] == said[1]
    assert len(list(cache.iterdir())) == 1


def test_a_copy_elsewhere_has_the_same_verdict(checkpoint: Path, tmp_path: Path, asked: list[Any]) -> None:
    """It is asked once, and each message names the folder that was meant."""
    copy = shutil.copytree(checkpoint, tmp_path / "copy")
    for folder in (checkpoint, copy):
        assert check_checkpoint(read_model_info(folder)) == (f"{folder}: n",)
    assert len(asked) == 1


def test_a_checkpoint_is_tried_once(checkpoint: Path, asked: list[Any]) -> None:
    """The second look reads the cache, and gives the same notes."""
    info = read_model_info(checkpoint)
    assert [check_checkpoint(info), check_checkpoint(info)] == [(f"{checkpoint}: n",)] * 2
    assert len(asked) == 1


def test_a_changed_checkpoint_is_tried_again(checkpoint: Path, asked: list[Any]) -> None:
    """Another configuration is another checkpoint."""
    check_checkpoint(read_model_info(checkpoint))
    with open(checkpoint / "config.json", "a") as file:
        file.write("\n")
    check_checkpoint(read_model_info(checkpoint))
    assert len(asked) == 2


def test_no_weights_no_process(checkpoint: Path, asked: list[Any]) -> None:
    """A folder without weights is planned in no time."""
    (checkpoint / "model.safetensors").unlink()
    assert check_checkpoint(read_model_info(checkpoint)) == ()
    assert asked == []


@pytest.mark.parametrize("torn", ["", "{", "[]", '{"problem": ""}'])
def test_a_torn_cache_is_as_if_there_were_none(checkpoint: Path, cache: Path, asked: list[Any], torn: str) -> None:
    """It is asked again, and written anew."""
    info = read_model_info(checkpoint)
    check_checkpoint(info)
    (kept,) = cache.iterdir()
    kept.write_text(torn)
    assert check_checkpoint(info) == (f"{checkpoint}: n",)
    assert len(asked) == 2
    assert json.loads(kept.read_text())["notes"] == ["<checkpoint>: n"]


def test_a_cache_that_cannot_be_written_costs_time_only(checkpoint: Path, cache: Path, asked: list[Any]) -> None:
    """A file lies where its folder should be."""
    cache.parents[1].write_text("")
    assert check_checkpoint(read_model_info(checkpoint)) == (f"{checkpoint}: n",)


def test_where_it_cannot_be_tried_planning_goes_on_and_says_so(
    checkpoint: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """No torch on this node: each job will try it. Nothing is kept."""
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with caplog.at_level(logging.WARNING):
        assert check_checkpoint(read_model_info(checkpoint)) == ()
    assert "whether its weights are whole cannot be tried here; each job tries it" in caplog.text
    assert not cache.exists()


def test_a_tokenizer_that_transformers_reads_otherwise_is_noted(checkpoint: Path) -> None:
    """Its class rebuilds the tokenizer: both readings are shown, and which of them counts."""
    config = checkpoint / "tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"tokenizer_class": "LlamaTokenizerFast"}))
    (note,) = check_checkpoint(read_model_info(checkpoint))
    assert "LlamaTokenizer reads 'Is 1.30 more" in note
    assert "cells are run with the latter" in note
