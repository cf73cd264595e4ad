"""The sites against real models of each family: widths, units, and which family lacks which."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.unit.workers.tiny import CONFIGS, tiny_model
from workers.data.model_info import ModelInfo, read_model_info
from workers.data.sites import SITES, width_of
from workers.engine import sites as engine_sites
from workers.engine.sites import SiteError
from workers.files.place import Place

ATTENTION = ("self_attn", "attn", "attention", "self_attention")
MLP = ("mlp", "fc1")


def info_of(family: str, folder: Path) -> ModelInfo:
    """What is read off the family's configuration alone."""
    CONFIGS[family]().save_pretrained(folder)
    return read_model_info(folder)


def child(module: nn.Module, names: tuple[str, ...]) -> nn.Module:
    """The submodule of one of these names."""
    return next(part for name in names if isinstance(part := getattr(module, name, None), nn.Module))


def linear_sizes(module: nn.Module) -> dict[str, tuple[int, int]]:
    """Input and output size of each matrix below `module`, by the last part of its name."""
    found = {}
    for name, part in module.named_modules():
        if isinstance(part, nn.Linear):
            found[name.rpartition(".")[2]] = (part.in_features, part.out_features)
        elif type(part).__name__ == "Conv1D":
            found[name.rpartition(".")[2]] = tuple(part.weight.shape)
    return found


@pytest.mark.parametrize("family", CONFIGS)
def test_heads_fill_the_output_projections_input(tmp_path: Path, family: str) -> None:
    """As many heads of the width said as its matrix has rows; likewise queries, keys and values where they have a
    matrix of their own."""
    info = info_of(family, tmp_path)
    sizes = linear_sizes(child(tiny_model(family).blocks[0], ATTENTION))
    output = next(sizes[name] for name in ("o_proj", "out_proj", "c_proj", "dense") if name in sizes)
    n_heads = SITES["head_output"].n_units(info)  # type: ignore[misc]
    assert n_heads * width_of(info, Place(layer=0, position=0, site="head_output", unit=0)) == output[0]
    assert width_of(info, Place(layer=0, position=0, site="head_output")) == output[0]
    for site, names in {"query": ("q_proj", "q_b_proj"), "key": ("k_proj",), "value": ("v_proj",)}.items():
        for name in set(names) & sizes.keys():
            n_units = SITES[site].n_units(info)  # type: ignore[misc]
            assert n_units * SITES[site].width(info) == sizes[name][1], site


@pytest.mark.parametrize("family", CONFIGS)
def test_neurons_are_those_of_the_down_projection(tmp_path: Path, family: str) -> None:
    """As many as its matrix has rows; a mixture of experts has none that all tokens share."""
    info = info_of(family, tmp_path)
    block = tiny_model(family).blocks[0]
    if SITES["mlp_neurons"].lacking(info):
        assert any("experts" in name for name, _ in block.named_modules())
        return
    in_mlp = linear_sizes(block if family == "opt" else child(block, MLP))  # OPT's block holds its matrices itself
    down = next(in_mlp[name] for name in ("down_proj", "fc_out", "dense_4h_to_h", "fc2", "c_proj") if name in in_mlp)
    assert width_of(info, Place(layer=0, position=0, site="mlp_neurons")) == down[0]


@pytest.mark.parametrize("family", sorted(CONFIGS))
def test_block_mid_is_lacking_where_the_mlp_does_not_see_the_attention(tmp_path: Path, family: str) -> None:
    """Tried on the model: with another output of its attention, the MLP of a parallel block reads the same."""
    model = tiny_model(family)
    block = model.blocks[0]
    read: list[Tensor] = []

    def shifted(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        return (output[0] + 1, *output[1:]) if isinstance(output, tuple) else output + 1

    mlp = child(block, (*MLP, "block_sparse_moe"))
    ids_BT = torch.arange(5, 12)[None]
    with torch.no_grad():
        handle = mlp.register_forward_pre_hook(lambda _module, inputs: read.append(inputs[0].clone()))
        model.model(ids_BT)
        child(block, ATTENTION).register_forward_hook(shifted)
        model.model(ids_BT)
        handle.remove()
    before, after = read
    sees_attention = not torch.equal(before, after)
    assert bool(SITES["block_mid"].lacking(info_of(family, tmp_path))) is not sees_attention


def test_a_model_of_compressed_keys_lacks_keys_and_values(tmp_path: Path) -> None:
    """DeepSeek V3 alone, among the families."""
    lacking = {family for family in CONFIGS if SITES["key"].lacking(info_of(family, tmp_path))}
    assert lacking == {"deepseek_v3"}


@pytest.mark.parametrize("family", CONFIGS)
def test_the_engine_finds_what_the_configuration_says(tmp_path: Path, family: str) -> None:
    """Planner and engine agree at every site: which there are, how many units, how wide. A spec that is planned can be
    run, and one that cannot be run is refused before it is."""
    info, model = info_of(family, tmp_path), tiny_model(family)
    for name, site in SITES.items():
        place = Place(layer=0, position=0, site=name, unit=None if site.n_units is None or site.all_is_one else 0)
        if site.lacking(info):
            with pytest.raises(SiteError):
                engine_sites.tap_of(model, place)
            continue
        assert engine_sites.width_of(model, place) == width_of(info, place), name
        assert engine_sites.n_units(model, 0, name) == (site.n_units(info) if site.n_units else None), name
