"""Several places at once: both engines against hooks on the whole model, each other and closed forms."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.unit.workers.tiny import CONFIGS, ragged_pairs, random_pairs, sharp_model
from workers.engine.base import AbstractForward, Mix
from workers.engine.model import LanguageModel
from workers.engine.reference import ReferenceEngine
from workers.engine.sites import SiteError, tap_of, width_of
from workers.engine.suffix import SuffixEngine
from workers.files.place import Place, PlaceSet
from workers.methods.base import Batch, to_device

Edit = Callable[[Tensor, Tensor], Tensor]  # a module's values, and those of the source's run -> what takes their place
CPU = torch.device("cpu")


def set_of(*points: Place) -> PlaceSet:
    """The places in the order in which plans have them."""
    return PlaceSet(name="some", points=tuple(sorted(points, key=lambda point: (point.layer, *point.rank))))


def head(layer: int, unit: int, position: int) -> Place:
    return Place(layer=layer, position=position, site="head_output", unit=unit)


SETS = {
    "heads of a layer at two tokens": set_of(head(1, 0, 5), head(1, 2, 5), head(1, 1, 7)),
    "over layers and tokens": set_of(
        head(0, 1, 5),
        Place(layer=1, position=6, site="mlp_output"),
        Place(layer=1, position=7),
        Place(layer=2, position=4, site="query", unit=1),
        Place(layer=2, position=8, site="attention_output"),
    ),
    "before the first block and behind the last": set_of(
        Place(layer=0, position=5, site="embeddings"),
        Place(layer=0, position=5, site="block_input"),
        Place(layer=0, position=7, site="block_input"),
        Place(layer=2, position=8),
    ),
    "the residual stream from a layer on": set_of(*(Place(layer=layer, position=6) for layer in (0, 1, 2))),
}


def has(model: LanguageModel, place: PlaceSet) -> bool:
    """Whether the family has every place of the set."""
    with contextlib.suppress(SiteError):
        return all(tap_of(model, point) for point in place.points)
    return False


def fast(
    model: LanguageModel, batch: Batch, place: PlaceSet, n_prefix: int = 0, call_cost: float = 1000
) -> AbstractForward:
    engine = SuffixEngine(model, places=[place], prefix_P=batch.base.ids_BT[0, :n_prefix], call_cost=call_cost)
    return engine.forward(batch.base, batch.source)


def soft(forward: AbstractForward, place: PlaceSet, batch: Batch, width: int) -> tuple[Tensor, Tensor]:
    """Logits and the gradient of a loss where a share of each number is taken over, one for a variable."""
    share_VU = torch.linspace(0.1, 0.9, 2 * width).view(2, width).requires_grad_()
    logits_1BV = forward.intervene([place], lambda base, source: base + (source - base) * share_VU[batch.variable_B])
    loss = nn.functional.cross_entropy(logits_1BV[0], batch.label_B)
    return logits_1BV.detach(), torch.autograd.grad(loss, share_VU)[0]


def assert_close(found: Tensor, wanted: Tensor, what: object) -> None:
    size = max(1.0, float(wanted.abs().max()))
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5 * size, msg=lambda text: f"{what}: {text}")


@pytest.mark.parametrize("family", CONFIGS)
def test_sets_of_every_family_equal_the_whole_model(family: str) -> None:
    """Two variables, a cached prefix: activations, logits and gradients equal the plain engine's."""
    model, batch = sharp_model(family), to_device(random_pairs(3, 10, n_prefix=3, n_variables=2), CPU)
    plain = ReferenceEngine(model).forward(batch.base, batch.source)
    tried = {name: place for name, place in SETS.items() if has(model, place)}
    assert len(tried) >= 3
    for name, place in tried.items():
        forward, width = fast(model, batch, place, 3), width_of(model, place)
        for found, wanted in zip(forward.activations([place]), plain.activations([place]), strict=True):
            assert_close(found, wanted, name)
        for found, wanted in zip(soft(forward, place, batch, width), soft(plain, place, batch, width), strict=True):
            assert_close(found, wanted, name)


@pytest.mark.parametrize("call_cost", [0, 20, 1000])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "gptj"])
def test_sets_in_unequal_prompts_equal_the_whole_model(family: str, call_cost: float) -> None:
    """Named positions at another token in each prompt, in calls of alike pairs and in one: logits and gradients equal
    the plain engine's."""
    model, batch = sharp_model(family), to_device(ragged_pairs(5, n_prefix=3, n_variables=2), CPU)
    place = set_of(head(0, 1, 1), head(1, 0, 1), Place(layer=1, position=2), Place(layer=2, position=1))
    plain, width = ReferenceEngine(model).forward(batch.base, batch.source), width_of(model, place)
    for found, wanted in zip(
        soft(fast(model, batch, place, 3, call_cost), place, batch, width),
        soft(plain, place, batch, width),
        strict=True,
    ):
        assert_close(found, wanted, family)


# By hand ----------------------------------------------------------------------------------------------------------


def by_hand(
    model: LanguageModel, batch: Batch, edits: Mapping[nn.Module, Callable[[Tensor, Tensor], Tensor]]
) -> Tensor:
    """logits_BV of a Llama with plain hooks: each module's input (`o_proj`) or output is what its edit makes of it and
    of the source's own."""
    kept: dict[nn.Module, Tensor] = {}
    is_input = {block.self_attn.o_proj for block in model.blocks}

    def run(ids_BT: Tensor, hook: Callable[[nn.Module, Tensor], Tensor]) -> Tensor:
        handles = []
        for module in edits:
            if module in is_input:
                handles.append(module.register_forward_pre_hook(lambda one, inputs: (hook(one, inputs[0]),)))
            else:
                handles.append(module.register_forward_hook(lambda one, _inputs, output: hook(one, output)))
        logits = model.model(input_ids=ids_BT, use_cache=False).logits[:, -1]
        for handle in handles:
            handle.remove()
        return logits

    def keep(module: nn.Module, values: Tensor) -> Tensor:
        kept[module] = values.clone()
        return values

    with torch.no_grad():
        run(batch.source.ids_BT, keep)
        return run(batch.base.ids_BT, lambda module, values: edits[module](values.clone(), kept[module]))


def take(token: int, columns: slice, share: float) -> Callable[[Tensor, Tensor], Tensor]:
    """An edit that takes a share of some columns at one token from the source."""

    def edit(values: Tensor, source: Tensor) -> Tensor:
        base = values[:, token, columns].clone()
        values[:, token, columns] = base + share * (source[:, token, columns] - base)
        return values

    return edit


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_points_of_several_layers_compose(share: float) -> None:
    """Head 1 of layer 0, then the MLP of layer 1, then the last block's output: each takes from the source's plain run
    what the points before have left of the base's."""
    model, batch = sharp_model("llama"), to_device(random_pairs(3, 10), CPU)
    blocks: Any = model.blocks
    wanted = by_hand(
        model,
        batch,
        {
            blocks[0].self_attn.o_proj: take(5, slice(8, 16), share),
            blocks[1].mlp: take(6, slice(None), share),
            blocks[2]: take(9, slice(0, 32), share),
        },
    )
    place = set_of(head(0, 1, 5), Place(layer=1, position=6, site="mlp_output"), Place(layer=2, position=9))
    mix: Mix = lambda base, source: base + share * (source - base)  # noqa: E731
    for forward in (fast(model, batch, place), ReferenceEngine(model).forward(batch.base, batch.source)):
        assert_close(forward.intervene([place], mix)[0], wanted, type(forward))


# Closed forms -----------------------------------------------------------------------------------------------------


def whole(base: Tensor, source: Tensor) -> Tensor:
    return source


@pytest.mark.parametrize("family", CONFIGS)
def test_all_heads_at_once_are_the_attentions_output(family: str) -> None:
    """Each head of a layer swapped at a position, as a set: the attention's output swapped there."""
    model, batch = sharp_model(family), to_device(random_pairs(3, 9), CPU)
    heads, attention = (
        set_of(*(head(1, unit, 6) for unit in range(4))),
        Place(layer=1, position=6, site="attention_output"),
    )
    engine = SuffixEngine(model, places=[heads, attention])
    forward = engine.forward(batch.base, batch.source)
    found, wanted = (forward.intervene([place], whole)[0] for place in (heads, attention))
    assert_close(found, wanted, family)
    assert (found - forward.base_logits()).abs().max() > 1e-4


@pytest.mark.parametrize("name", SETS)
def test_a_source_equal_to_its_base_changes_nothing(name: str) -> None:
    """Whatever the set."""
    model, batch = sharp_model("llama"), to_device(random_pairs(3, 10), CPU)
    forward = SuffixEngine(model, places=[SETS[name]]).forward(batch.base, batch.base)
    assert_close(forward.intervene([SETS[name]], whole)[0], forward.base_logits(), name)


def test_a_set_of_one_place_is_that_place() -> None:
    """At each site."""
    model, batch = sharp_model("llama"), to_device(random_pairs(3, 10), CPU)
    points = [
        head(1, 2, 6),
        Place(layer=1, position=6),
        Place(layer=1, position=6, site="mlp_neurons"),
    ]
    for point in points:
        forward = SuffixEngine(model, places=[point, set_of(point)]).forward(batch.base, batch.source)
        found, wanted = (forward.intervene([place], whole) for place in (set_of(point), point))
        assert_close(found, wanted, point)


def test_two_points_on_one_token_are_refused() -> None:
    """Named positions that come to lie on one token in some prompt: which site, layer and positions."""
    model, batch = sharp_model("llama"), to_device(ragged_pairs(4), CPU)
    assert batch.base.place_BP is not None
    place_BP = batch.base.place_BP.copy()
    place_BP[2, 1] = place_BP[2, 2]
    batch = replace(batch, base=replace(batch.base, place_BP=place_BP))
    place = set_of(Place(layer=1, position=1), Place(layer=1, position=2))
    with pytest.raises(SiteError, match=r"site `block_output` at layer 1: positions 1 and 2 are the same token"):
        fast(model, batch, place).intervene([place], whole)
