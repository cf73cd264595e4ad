"""Model families from a checkpoint to a trained cell; checkpoints in shards and in bfloat16; models on several GPUs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoModelForCausalLM

from tests.unit.workers.tiny import CONFIGS, make_cohort, make_context, random_pairs, tiny_model
from workers import models
from workers.alignment import Alignment, CellFacts
from workers.engine.base import TokenBatch
from workers.engine.reference import ReferenceEngine
from workers.engine.suffix import SuffixEngine
from workers.methods import boundless_das
from workers.methods.base import to_device
from workers.model_info import ModelError
from workers.models import LanguageModel, load_model, wrap_model

CPU = torch.device("cpu")
POINTS = [(0, 7), (2, 7), (1, 11)]


def half_way(base: Tensor, source: Tensor) -> Tensor:
    return (base + source) / 2


# Whole cells ----------------------------------------------------------------------------------------------------


def trained(folder: Path, model: LanguageModel, engine: Any) -> dict[str, tuple[Tensor, CellFacts]]:
    """Three cells after three steps, by key; both engines move the rotation in the tangent space."""
    cohort = make_cohort(POINTS, epochs=1, batch_size=8)
    columns = boundless_das.fit(make_context(folder, cohort, model, random_pairs(24, 12, n_prefix=3), engine=engine))
    found = {}
    for column in columns:
        assert isinstance(column.learned, Alignment)
        for cell, facts, directions in zip(column.cells, column.facts, column.learned.directions_CDK, strict=True):
            found[cell.key] = (directions, facts)
    return found


@pytest.mark.parametrize("family", CONFIGS)
def test_cells_of_every_family_train_alike_in_both_engines(tmp_path: Path, family: str) -> None:
    """A checkpoint loaded from disk: after three steps losses, boundaries and rotations agree but for rounding."""
    tiny_model(family).model.save_pretrained(tmp_path / "model")
    model = load_model(tmp_path / "model", dtype="float32", device=CPU)
    prefix = torch.from_numpy(random_pairs(24, 12, n_prefix=3).base.ids_BT[0, :3])
    fast = trained(tmp_path, model, SuffixEngine(model, layers=[0, 1, 2], prefix_P=prefix))
    plain = trained(tmp_path, model, ReferenceEngine(model))
    assert fast.keys() == plain.keys()
    for key, (directions, facts) in plain.items():
        assert fast[key][1].loss == pytest.approx(facts.loss, rel=1e-4), key
        assert fast[key][1].boundary == pytest.approx(facts.boundary, rel=1e-4), key
        torch.testing.assert_close(fast[key][0], directions, rtol=0, atol=2e-3)  # Adam lifts rounding errors


# Checkpoints ----------------------------------------------------------------------------------------------------


def test_a_checkpoint_in_shards_is_loaded_whole(tmp_path: Path) -> None:
    """Several safetensors files and their index: every weight as it was."""
    model = tiny_model("llama").model
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    assert (tmp_path / "model.safetensors.index.json").exists()
    loaded = load_model(tmp_path, dtype="float32", device=CPU).model
    for name, weight in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weight), name


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_the_dtype_asked_for_is_the_one_it_runs_in(tmp_path: Path, dtype: str) -> None:
    """A checkpoint saved in bfloat16, loaded as asked, frozen, and its engine's logits of that model."""
    tiny_model("llama", dtype=torch.bfloat16).model.save_pretrained(tmp_path)
    loaded = load_model(tmp_path, dtype=dtype, device=CPU)
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {getattr(torch, dtype)}
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    batch = to_device(random_pairs(2, 9), CPU)
    found = SuffixEngine(loaded, layers=[0]).forward(batch.base, batch.source).base_logits()
    torch.testing.assert_close(found, loaded.model(batch.base.ids_BT).logits[:, -1].float(), rtol=5e-2, atol=5e-2)


# Several GPUs: what a CPU can show ------------------------------------------------------------------------------
#
# accelerate deals the blocks out and wraps each block's forward, so that its inputs come to its device. Here `meta`
# stands for the second GPU: fake tensors refuse to meet tensors of another device, and have no values. That values
# stay the same is shown by the same wrapping with every block on the CPU.


class Placed(AlignDevicesHook):
    """accelerate's wrapping of a module's forward, with the module's tensors put on its device here."""

    def init_hook(self, module: nn.Module) -> nn.Module:
        for part in module.modules():
            for name, weight in part._parameters.items():
                if weight is not None:
                    part._parameters[name] = nn.Parameter(weight.to(self.execution_device), requires_grad=False)
            for name, buffer in part._buffers.items():
                part._buffers[name] = None if buffer is None else buffer.to(self.execution_device)
        return module


class PlacedWhole(AlignDevicesHook):
    """The wrapping of the model itself: logits come back to where the token ids were."""

    def init_hook(self, module: nn.Module) -> nn.Module:
        return module


def dealt_out(family: str, second: str) -> LanguageModel:
    """A model whose first block is on the CPU, and whose other blocks and norm are on `second`."""
    torch.manual_seed(0)
    attention = "eager" if family == "gemma2" else "sdpa"
    model = AutoModelForCausalLM.from_config(CONFIGS[family](), attn_implementation=attention)
    blocks = wrap_model(model).blocks
    for module in [*blocks[1:], *last_norms(model)]:
        add_hook_to_module(module, Placed(second, skip_keys="past_key_values"))
    for module in (blocks[0], model.get_output_embeddings()):
        add_hook_to_module(module, Placed("cpu", skip_keys="past_key_values"))
    add_hook_to_module(model, PlacedWhole("cpu", io_same_device=True, skip_keys="past_key_values"))
    return wrap_model(model)


def last_norms(model: nn.Module) -> Iterable[nn.Module]:
    return [part for name, part in model.base_model.named_children() if "norm" in name or name == "ln_f"]


@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt2"])
def test_every_tensor_goes_where_it_is_needed(family: str) -> None:
    """Blocks on two devices, cells before and after the cut: no operation meets tensors of both."""
    with FakeTensorMode(), torch.no_grad():
        model = dealt_out(family, "meta")
        prompts, share_D = TokenBatch.of_ids(torch.ones(3, 12, dtype=torch.int64)), torch.full((32,), 0.5)

        def mix(base: Tensor, source: Tensor) -> Tensor:
            return base + (source - base) * share_D  # what a cell learns lies where the model takes its token ids

        plain = ReferenceEngine(model).forward(prompts, prompts)
        fast = SuffixEngine(model, layers=[0, 1, 2], prefix_P=prompts.ids_BT[0, :3]).forward(prompts, prompts)
        assert {str(parameter.device) for parameter in model.blocks[1].parameters()} == {"meta"}
        for logits in (
            fast.base_logits(),
            fast.intervene(7, [0, 1, 1, 2], mix),
            plain.base_logits(),
            plain.intervene(7, [1], mix),
        ):
            assert logits.device.type == "cpu"


def test_wrapped_blocks_give_the_same_logits_and_stay_wrapped() -> None:
    """accelerate's wrapping is called by the tails too, and is there when they are over."""
    plain, wrapped = tiny_model("llama"), dealt_out("llama", "cpu")
    batch = to_device(random_pairs(3, 12, n_prefix=3), CPU)
    prefix = batch.base.ids_BT[0, :3]
    before = [block.forward for block in wrapped.blocks]
    logits = [
        SuffixEngine(model, layers=[0, 2], prefix_P=prefix)
        .forward(batch.base, batch.source)
        .intervene(7, [0, 2], half_way)
        for model in (plain, wrapped)
    ]
    assert torch.equal(*logits)
    assert [block.forward for block in wrapped.blocks] == before


def test_several_gpus_need_accelerate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the extra to install."""
    monkeypatch.setattr(models, "find_spec", lambda _name: None)
    with pytest.raises(ModelError, match=r"a model on 2 GPUs needs accelerate; pip install 'causalsweep\[multigpu\]'"):
        load_model(tmp_path, dtype="float32", device=torch.device("cuda"), n_gpus=2)


def test_one_process_on_a_cpu_deals_nothing_out(tmp_path: Path) -> None:
    """GPUs asked for and none used: the model is whole on the CPU."""
    tiny_model("llama").model.save_pretrained(tmp_path)
    assert load_model(tmp_path, dtype="float32", device=CPU, n_gpus=2).device == CPU
