"""The suffix engine against the whole model with hooks: logits, losses and gradients, for every family."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from tests.unit.workers.tiny import CONFIGS, OWN_ATTENTION, at, ragged_pairs, random_pairs, tiny_model
from workers.engine.attention import NAME, tail_attention, with_earlier
from workers.engine.base import AbstractForward
from workers.engine.check import exact_form, why_not_exact
from workers.engine.model import LanguageModel, load_model
from workers.engine.reference import ReferenceEngine
from workers.engine.suffix import SuffixEngine
from workers.methods.alignment import random_rotation
from workers.methods.base import Batch, to_device
from workers.methods.boundless_das import soft_masks
from workers.methods.rotation import AbstractRotation, ParametrizedRotation, TangentRotation

CPU = torch.device("cpu")


def soft_intervention(
    model: LanguageModel, engine: str, batch: Batch, point: tuple[int, int], *, n_variables: int, n_prefix: int
) -> dict[str, Tensor]:
    """Logits, loss and the gradients of rotation and boundary of one Boundless DAS step at one point."""
    layer, position = point
    matrix = random_rotation("test", model.hidden_size, CPU)[None]
    boundary = nn.Parameter(torch.tensor([0.6]))
    rotation: AbstractRotation
    if engine == "suffix":
        rotation = TangentRotation(matrix)
        prefix = batch.base.ids_BT[0, :n_prefix]
        forward = SuffixEngine(model, places=at(0, layer), prefix_P=prefix).forward(batch.base, batch.source)
    else:
        rotation = ParametrizedRotation(matrix)
        forward = ReferenceEngine(model).forward(batch.base, batch.source)
    mask_CBD = soft_masks(boundary, n_variables, 2.0, model.hidden_size)[:, batch.variable_B]
    logits = forward.intervene(at(position, layer), lambda base, source: rotation.mix(base, source, mask_CBD))
    loss = nn.functional.cross_entropy(logits[0], batch.label_B) + boundary.sum()
    loss.backward()
    (gradient,) = (parameter.grad for parameter in rotation.parameters)
    below = torch.tril(gradient.view(model.hidden_size, -1), -1)  # torch parametrises by the entries below the diagonal
    return {"logits": logits, "loss": loss, "rotation": below, "boundary": boundary.grad}


def assert_same(model: LanguageModel, batch: Batch, point: tuple[int, int], *, n_variables: int, n_prefix: int) -> None:
    found, wanted = (
        soft_intervention(model, engine, batch, point, n_variables=n_variables, n_prefix=n_prefix)
        for engine in ("suffix", "reference")
    )
    for name, value in wanted.items():
        torch.testing.assert_close(
            found[name], value, rtol=1e-5, atol=1e-5, msg=lambda text, what=name: f"{what}: {text}"
        )


@pytest.mark.parametrize("n_prefix", [0, 4])
@pytest.mark.parametrize("n_variables", [1, 2])
@pytest.mark.parametrize("family", list(CONFIGS))
def test_logits_loss_and_gradients_equal_the_hooked_whole_model(family: str, n_variables: int, n_prefix: int) -> None:
    """Every family, one and two variables, with and without a cached prefix: equal to 1e-5."""
    model = tiny_model(family)
    batch = to_device(random_pairs(3, 12, n_prefix=n_prefix, n_variables=n_variables), CPU)
    for point in ((0, 5), (1, 8), (2, 11)):
        assert_same(model, batch, point, n_variables=n_variables, n_prefix=n_prefix)


def mixed_logits(forward: AbstractForward, point: int, layers: list[int]) -> tuple[Tensor, Tensor]:
    """logits_CBV of cells that take a share of each dimension from the source, and its gradient."""
    share_D = torch.linspace(0.1, 0.9, 32).requires_grad_()
    logits_CBV = forward.intervene(at(point, *layers), lambda base, source: base + (source - base) * share_D)
    (gradient_D,) = torch.autograd.grad(torch.log_softmax(logits_CBV, dim=-1)[..., 3].sum(), share_D)
    return logits_CBV.detach(), gradient_D


@pytest.mark.parametrize(("n_prefix", "call_cost"), [(0, 0), (3, 0), (3, 20), (0, 1000)])
@pytest.mark.parametrize("family", list(CONFIGS))
def test_prompts_of_unequal_length_are_each_as_if_alone(family: str, n_prefix: int, call_cost: float) -> None:
    """Every family: a batch of unequal prompts, each with its own places, gives every pair what the plain engine gives
    it on its own, where nothing is filled up. Alike pairs have calls of their own, or some share one, or all do."""
    model, layers = tiny_model(family), [0, 1, 1, 2]
    batch = to_device(ragged_pairs(6, n_prefix=n_prefix), CPU)
    assert batch.base.reads is not None
    prefix_P = batch.base.ids_BT[0, :n_prefix]
    engine = SuffixEngine(model, places=at(0, *layers), prefix_P=prefix_P, call_cost=call_cost)
    fast = engine.forward(batch.base, batch.source)
    alone = [
        ReferenceEngine(model).forward(batch.base.rows(row, row + 1), batch.source.rows(row, row + 1))
        for row in range(len(batch))
    ]
    base_logits = torch.cat([forward.base_logits() for forward in alone])
    torch.testing.assert_close(fast.base_logits(), base_logits, rtol=1e-5, atol=1e-5)
    for point in range(3):
        of_layer = {layer: [mixed_logits(forward, point, [layer]) for forward in alone] for layer in set(layers)}
        wanted = [of_layer[layer] for layer in layers]
        logits_CBV = torch.stack([torch.cat([logits for logits, _ in cells], dim=1)[0] for cells in wanted])
        gradient_D = torch.stack([gradient for cells in wanted for _, gradient in cells]).sum(dim=0)
        found_CBV, found_D = mixed_logits(fast, point, layers)
        torch.testing.assert_close(found_CBV, logits_CBV, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found_D, gradient_D, rtol=1e-5, atol=1e-5)


def test_the_plain_engine_fills_up_without_a_trace() -> None:
    """The oracle itself: a batch of unequal prompts gives what each gives alone."""
    model, batch = tiny_model("llama"), to_device(ragged_pairs(6), CPU)
    engine = ReferenceEngine(model)
    found_CBV, _ = mixed_logits(engine.forward(batch.base, batch.source), 1, [1])
    for row in range(len(batch)):
        alone = engine.forward(batch.base.rows(row, row + 1), batch.source.rows(row, row + 1))
        torch.testing.assert_close(found_CBV[:, row : row + 1], mixed_logits(alone, 1, [1])[0], rtol=1e-5, atol=1e-5)


def test_a_place_in_the_prefix_is_refused() -> None:
    """The shared forward has no hidden state there."""
    model, batch = tiny_model("llama"), to_device(ragged_pairs(6, n_prefix=3), CPU)
    first = int(batch.base.place_BP[:, 0].min())
    engine = SuffixEngine(model, places=at(0, 0), prefix_P=batch.base.ids_BT[0, : first + 1])
    with pytest.raises(ValueError, match="position 0 lies in the common prefix"):
        engine.forward(batch.base, batch.source).activations(at(0, 0))


@pytest.mark.parametrize("family", ["llama", "mistral", "gpt2"])
def test_eager_attention_is_exact_too(family: str) -> None:
    """The families' own eager attention gives the same."""
    batch = to_device(random_pairs(3, 12, n_prefix=3), CPU)
    assert_same(tiny_model(family, attention="eager"), batch, (0, 6), n_variables=1, n_prefix=3)


def test_every_layer_and_position_of_the_demo_model(demo_model: Path) -> None:
    """All 52 points of the demo's grid, logits to 1e-5, every layer of a position in one call."""
    model = load_model(demo_model, dtype="float32", device=CPU)
    batch = to_device(random_pairs(2, 82, n_prefix=41), CPU)
    layers = range(model.n_layers)
    fast = SuffixEngine(model, places=at(0, *layers), prefix_P=batch.base.ids_BT[0, :41]).forward(
        batch.base, batch.source
    )
    plain = ReferenceEngine(model).forward(batch.base, batch.source)
    for position in range(69, 82):
        found = fast.intervene(at(position, *layers), lambda base, source: (base + source) / 2)
        for layer in layers:
            wanted = plain.intervene(at(position, layer), lambda base, source: (base + source) / 2)
            torch.testing.assert_close(found[layer], wanted[0], rtol=1e-5, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(
    n_pairs=st.integers(1, 5),
    n_tokens=st.integers(3, 14),
    layers=st.lists(st.integers(0, 2), min_size=1, max_size=5).map(sorted),
    data=st.data(),
)
def test_any_shape_agrees(n_pairs: int, n_tokens: int, layers: list[int], data: st.DataObject) -> None:
    """Random shapes, positions, prefixes and cohorts, layers repeated: logits equal the whole model's."""
    model = tiny_model("llama")
    position = data.draw(st.integers(0, n_tokens - 1))
    n_prefix = data.draw(st.integers(0, min(position, n_tokens - 1)))
    batch = to_device(random_pairs(n_pairs, n_tokens, n_prefix=n_prefix, seed=n_pairs), CPU)
    engine = SuffixEngine(model, places=at(0, *layers), prefix_P=batch.base.ids_BT[0, :n_prefix])
    shares = torch.linspace(0.2, 0.9, len(layers))[:, None, None]
    found = engine.forward(batch.base, batch.source).intervene(
        at(position, *layers), lambda base, source: base + (source - base) * shares
    )
    plain = ReferenceEngine(model).forward(batch.base, batch.source)
    for index, layer in enumerate(layers):
        share = float(shares[index])
        wanted = plain.intervene(at(position, layer), lambda base, source, w=share: base + (source - base) * w)
        torch.testing.assert_close(found[index], wanted[0], rtol=1e-5, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(
    n_pairs=st.integers(1, 6),
    n_prefix=st.integers(0, 3),
    seed=st.integers(0, 10_000),
    point=st.integers(0, 2),
    layers=st.lists(st.integers(0, 2), min_size=1, max_size=5).map(sorted),
    call_cost=st.sampled_from([0, 5, 20, 1000]),
)
def test_any_lengths_agree(
    n_pairs: int, n_prefix: int, seed: int, point: int, layers: list[int], call_cost: float
) -> None:
    """Random lengths, places, prefixes, cohorts and ways to cut the batch: logits equal the whole model's on the same
    filled-up prompts."""
    model = tiny_model("mistral")
    batch = to_device(ragged_pairs(n_pairs, n_prefix=n_prefix, seed=seed), CPU)
    prefix_P = batch.base.ids_BT[0, :n_prefix]
    engine = SuffixEngine(model, places=at(0, *layers), prefix_P=prefix_P, call_cost=call_cost)
    found, _ = mixed_logits(engine.forward(batch.base, batch.source), point, layers)
    plain = ReferenceEngine(model).forward(batch.base, batch.source)
    for index, layer in enumerate(layers):
        wanted, _ = mixed_logits(plain, point, [layer])
        torch.testing.assert_close(found[index], wanted[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt_neox"])
def test_bfloat16_differs_by_its_rounding_only(family: str) -> None:
    """In bfloat16 the two engines differ by no more than bfloat16 differs from float32."""
    batch = to_device(random_pairs(4, 12, n_prefix=4), CPU)

    def logits(model: LanguageModel, name: str) -> Tensor:
        fast = SuffixEngine(model, places=at(0, 1), prefix_P=batch.base.ids_BT[0, :4])
        engine = fast if name == "suffix" else ReferenceEngine(model)
        forward = engine.forward(batch.base, batch.source)
        return forward.intervene(at(7, 1), lambda base, source: (base + source) / 2)

    whole = logits(tiny_model(family), "reference")
    rounded = tiny_model(family, dtype=torch.bfloat16)
    rounding = (logits(rounded, "reference") - whole).abs().max()
    assert (logits(rounded, "suffix") - whole).abs().max() <= 2 * rounding


def test_the_bases_own_logits_are_a_by_product() -> None:
    """`base_logits` are those of the untouched model."""
    model = tiny_model("llama")
    batch = to_device(random_pairs(3, 9, n_prefix=2), CPU)
    forward = SuffixEngine(model, places=at(0, 0), prefix_P=batch.base.ids_BT[0, :2]).forward(batch.base, batch.source)
    torch.testing.assert_close(
        forward.base_logits(), model.model(batch.base.ids_BT).logits[:, -1], rtol=1e-5, atol=1e-5
    )


def test_the_model_is_left_as_it_was() -> None:
    """After a tail the blocks run their own forward again, with the model's own attention."""
    model = tiny_model("llama")
    batch = to_device(random_pairs(3, 9), CPU)
    before = model.model(batch.base.ids_BT).logits
    SuffixEngine(model, places=at(0, 0)).forward(batch.base, batch.source).intervene(
        at(4, 0), lambda base, source: source
    )
    assert model.model.config._attn_implementation == "sdpa"
    assert torch.equal(model.model(batch.base.ids_BT).logits, before)


class WeightsRead(TorchDispatchMode):
    """Notes each batch of products that has a weight for its one matrix: a row at a time reads it anew."""

    def __init__(self, model: LanguageModel) -> None:
        super().__init__()
        self.weights = {weight.untyped_storage().data_ptr() for weight in model.model.parameters()}
        self.repeated: list[list[torch.Size]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        is_batch = func is torch.ops.aten.bmm.default and len(args[0]) > 1
        if is_batch and not self.weights.isdisjoint(part.untyped_storage().data_ptr() for part in args):
            self.repeated.append([part.shape for part in args])
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("family", list(CONFIGS))
def test_a_weight_is_read_once_a_call(family: str) -> None:
    """Rows that do not lie side by side would make a linear layer one product a row, each of the whole weight: for the
    head of a large model on a GPU, hundreds of times the work. None is left, forward or backward."""
    model = tiny_model(family)
    batch, ragged = (to_device(pairs, CPU) for pairs in (random_pairs(3, 12, n_prefix=3), ragged_pairs(3, n_prefix=3)))
    with WeightsRead(model) as seen:
        for part, points in ((batch, (5, 10, 11)), (ragged, (0, 1, 2))):
            engine = SuffixEngine(model, places=at(0, 0, 1, 2), prefix_P=part.base.ids_BT[0, :3], call_cost=20)
            forward = engine.forward(part.base, part.source)
            for point in points:
                for layers in ([0], [1, 1], [0, 1, 2]):
                    mixed_logits(forward, point, layers)
    assert not seen.repeated


@pytest.mark.parametrize("family", list(CONFIGS))
def test_a_plain_decoder_passes_its_trial(family: str) -> None:
    """Every family does, and all but those whose attention is code of their own are given shared keys."""
    exact, why = exact_form(replace(tiny_model(family), shares_keys=True))
    assert why == ""
    assert exact is not None
    assert exact.shares_keys or family in OWN_ATTENTION


def test_a_model_whose_block_looks_at_the_whole_sequence_is_refused() -> None:
    """A block that adds the sequence's mean to each position is no causal decoder, and the trial says so."""
    model = tiny_model("llama")
    block = model.blocks[-1]
    plain = block.forward

    def with_mean(hidden: Tensor, *args: object, **kwargs: object) -> Tensor:
        return plain(hidden + hidden.mean(dim=1, keepdim=True), *args, **kwargs)

    block.forward = with_mean
    assert "logits differ" in why_not_exact(model)
    assert exact_form(model) == (None, why_not_exact(model))


def test_attention_refuses_an_option_that_it_does_not_know() -> None:
    """An option such as a bias of each position would change the result: it is refused by name."""
    part = torch.zeros(1, 1, 1, 4)
    key = with_earlier(part, part)
    with pytest.raises(ValueError, match="position_bias"):
        tail_attention(nn.Identity(), part, key, key, None, position_bias=torch.zeros(1))
    assert NAME == "causalsweep_tail"
