"""A model dealt out to several GPUs, without one: nothing meets across devices, numbers stay, and what is refused.

The two devices are torch's own simulation: a FakeTensor has a shape and a device and no numbers, and an operation on
tensors of two devices raises. They are called `cpu:1` and `cpu:2`, because torch without CUDA cannot index a tensor on
`cuda:0`; a tensor that somebody makes without naming a device is on `cpu`, and raises too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import dispatch_model
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.unit.workers.tiny import at, random_pairs, tiny_model
from workers.data.model_info import ModelError
from workers.engine import model as models
from workers.engine.base import AbstractEngine, TokenBatch
from workers.engine.model import LanguageModel, check_fits, load_model, wrap_model
from workers.engine.reference import ReferenceEngine
from workers.engine.sites import width_of
from workers.engine.suffix import SuffixEngine
from workers.files.failure import FailureClass
from workers.files.place import AnyPlace, Place, PlaceSet
from workers.job.failures import classed
from workers.methods.base import to_device

FIRST, SECOND = "cpu:1", "cpu:2"
N_PAIRS, N_TOKENS, POSITION = 3, 12, 7

# As accelerate deals them out: in order, rotary angles with the last blocks, a tied head with the embeddings.
DEVICE_MAPS = {
    "llama": {
        "model.embed_tokens": FIRST,
        "model.layers.0": FIRST,
        "model.layers.1": SECOND,
        "model.layers.2": SECOND,
        "model.norm": SECOND,
        "model.rotary_emb": SECOND,
        "lm_head": SECOND,
    },
    "gemma3": {
        "model.embed_tokens": FIRST,
        "lm_head": FIRST,
        "model.layers.0": FIRST,
        "model.layers.1": FIRST,
        "model.layers.2": SECOND,
        "model.norm": SECOND,
        "model.rotary_emb": SECOND,
    },
    "gpt2": {
        "transformer.wte": FIRST,
        "lm_head": FIRST,
        "transformer.wpe": FIRST,
        "transformer.drop": FIRST,
        "transformer.h.0": FIRST,
        "transformer.h.1": SECOND,
        "transformer.h.2": SECOND,
        "transformer.ln_f": SECOND,
    },
}

pytestmark = pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")  # accelerate's


@pytest.fixture(params=list(DEVICE_MAPS))
def model(request: pytest.FixtureRequest) -> Iterator[LanguageModel]:
    """The tiny model of a family on two devices, with the hooks that move what its blocks are given."""
    plain, device_map = tiny_model(request.param).model, DEVICE_MAPS[request.param]
    with FakeTensorMode():
        for name, device in device_map.items():
            for module in plain.get_submodule(name).modules():
                for weights in (module._parameters, module._buffers):
                    weights |= {key: simulated(weight, device) for key, weight in weights.items() if weight is not None}
        yield wrap_model(dispatch_model(plain, device_map, main_device=FIRST))


def simulated(weight: Tensor, device: str) -> Tensor:
    """The weight without its numbers on a device."""
    empty = torch.empty(weight.shape, dtype=weight.dtype, device=device)
    return nn.Parameter(empty, requires_grad=False) if isinstance(weight, nn.Parameter) else empty


def batches_on(device: torch.device) -> Iterator[TokenBatch]:
    """Prompts of equal length, whose points are indices, and of unequal length, whose point 7 moves about."""
    prompts = TokenBatch.of_ids(torch.ones(N_PAIRS, N_TOKENS, dtype=torch.long, device=device))
    yield prompts
    moving_BP = np.arange(N_PAIRS)[:, None] + np.arange(N_TOKENS - N_PAIRS)
    yield TokenBatch(prompts.ids_BT, N_TOKENS - np.arange(N_PAIRS), moving_BP)


def check(model: LanguageModel, engine: AbstractEngine, prompts: TokenBatch, layers: list[int]) -> None:
    """The outputs of these blocks: see `check_places`."""
    check_places(model, engine, prompts, at(POSITION, *layers))


def check_places(model: LanguageModel, engine: AbstractEngine, prompts: TokenBatch, places: Sequence[AnyPlace]) -> None:
    """What goes in and comes out lies on the model's own device; so does the gradient."""
    weight_W = nn.Parameter(torch.ones(width_of(model, places[0]), device=model.device))
    forward = engine.forward(prompts, prompts)
    logits_CBV = forward.intervene(places, lambda base, source: base + weight_W * (source - base))
    logits_CBV.sum().backward()
    assert logits_CBV.shape[:2] == (len(places), N_PAIRS)
    assert weight_W.grad is not None
    for found in (logits_CBV, weight_W.grad, forward.base_logits(), *forward.activations(places)):
        assert found.device == torch.device(FIRST)


def test_the_suffix_engine_moves_what_must_meet(model: LanguageModel) -> None:
    """Cells at each layer alone and at all layers together, with and without a prefix, in one call and in several."""
    assert {str(weight.device) for weight in model.model.parameters()} == {FIRST, SECOND}
    for batch in batches_on(model.device):
        for prefix_P in (None, batch.ids_BT[0, :3]):
            for call_cost in (0, 1000):
                engine = SuffixEngine(model, places=at(0, 0, 1, 2), prefix_P=prefix_P, call_cost=call_cost)
                for layers in ([0], [1], [2], [0, 1, 1, 2]):
                    check(model, engine, batch, layers)


def test_the_reference_engine_moves_what_must_meet(model: LanguageModel) -> None:
    """A cell at each layer."""
    for batch in batches_on(model.device):
        for layer in range(3):
            check(model, ReferenceEngine(model), batch, [layer])


INSIDE = {"block_mid": None, "head_output": 1, "mlp_output": None, "value": 0}  # with a unit where it has some


@pytest.mark.parametrize("engine", ["suffix", "reference"])
def test_places_inside_blocks_move_what_must_meet(model: LanguageModel, engine: str) -> None:
    """Each site at the blocks of both devices, and a set of places over them, in equal and in unequal prompts."""
    sites = [
        [Place(layer=layer, position=POSITION, site=site, unit=unit) for layer in range(3)]
        for site, unit in INSIDE.items()
    ]
    points = (Place(layer=0, position=POSITION, site="head_output", unit=1), *at(POSITION, 1, 2))
    over_both = PlaceSet(name="over both", points=points)
    for batch in batches_on(model.device):
        for places in [*sites, [over_both]]:
            if engine == "suffix":
                check_places(model, SuffixEngine(model, places=places), batch, places)
            else:
                check_places(model, ReferenceEngine(model), batch, places[-1:])


@pytest.mark.parametrize("operation", [torch.add, torch.matmul, lambda one, other: torch.cat([one, other])])
def test_the_simulation_refuses_what_two_gpus_would(operation: Callable[[Tensor, Tensor], Tensor]) -> None:
    """A sum, a product and a concatenation across the two devices."""
    with FakeTensorMode():
        one, other = torch.ones(2, 2, device=FIRST), torch.ones(2, 2, device=SECOND)
        with pytest.raises(RuntimeError, match=r"same device|different devices"):
            operation(one, other)


def test_wrapped_blocks_give_the_same_logits_and_stay_wrapped() -> None:
    """accelerate's wrapping of each block is called by the tails too, and is there when they are over."""
    plain, wrapped = tiny_model("llama"), tiny_model("llama")
    on_cpu = dict.fromkeys(DEVICE_MAPS["llama"], "cpu")
    dispatch_model(wrapped.model, on_cpu, main_device="cpu", force_hooks=True)
    batch = to_device(random_pairs(3, 12, n_prefix=3), torch.device("cpu"))
    before = [block.forward for block in wrapped.blocks]
    logits = [
        SuffixEngine(model, places=at(0, 0, 2), prefix_P=batch.base.ids_BT[0, :3])
        .forward(batch.base, batch.source)
        .intervene(at(POSITION, 0, 2), lambda base, source: (base + source) / 2)
        for model in (plain, wrapped)
    ]
    assert torch.equal(*logits)
    assert all(block.forward is not type(block).forward for block in wrapped.blocks)
    assert [block.forward for block in wrapped.blocks] == before


def test_several_gpus_need_accelerate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the extra to install; such a failure is bad input, which nothing tries again by itself."""
    monkeypatch.setattr(models, "find_spec", lambda _name: None)
    message = r"a model on 2 GPUs needs accelerate; pip install 'causalsweep\[multigpu\]'"
    with pytest.raises(ModelError, match=message) as refused:
        load_model(tmp_path, dtype="float32", device=torch.device("cuda"), n_gpus=2)
    assert classed(refused.value).kind is FailureClass.BAD_INPUT


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_what_accelerate_leaves_off_the_gpus_does_not_fit(tmp_path: Path) -> None:
    """Without room on a GPU, here for want of one, weights come to lie elsewhere: refused with the key to change."""
    tiny_model("llama").model.save_pretrained(tmp_path)
    message = r"does not fit on 2 GPUs in float32; give a job more of them \(`jobs.gpus`\)"
    with pytest.raises(ModelError, match=message) as refused:
        load_model(tmp_path, dtype="float32", device=torch.device("cuda"), n_gpus=2)
    assert classed(refused.value).kind is FailureClass.BAD_INPUT


def test_weights_larger_than_a_gpu_are_refused_before_they_are_moved() -> None:
    """13.5 GiB on a GPU of 12 GiB: the folder, both sizes and the key; exactly as much as there is passes."""
    path, gib = Path("/models/m"), 1 << 30
    message = r"/models/m: 13\.5 GiB of weights do not fit on a GPU of 12\.0 GiB; give a job several \(`jobs.gpus`\)"
    with pytest.raises(ModelError, match=message):
        check_fits(path, 27 * gib // 2, memory_bytes=12 * gib)
    check_fits(path, 12 * gib, memory_bytes=12 * gib)


def test_one_process_on_a_cpu_deals_nothing_out(tmp_path: Path) -> None:
    """GPUs asked for and none used: the model is whole on the CPU."""
    tiny_model("llama").model.save_pretrained(tmp_path)
    assert str(load_model(tmp_path, dtype="float32", device=torch.device("cpu"), n_gpus=2).device) == "cpu"
