"""Any place in the model: both engines against each other and against closed forms, for every family."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.unit.workers.tiny import CONFIGS, at, places_of, ragged_pairs, random_pairs, sharp_model, tiny_model
from workers.engine.base import AbstractForward, TokenBatch
from workers.engine.model import LanguageModel
from workers.engine.reference import ReferenceEngine
from workers.engine.sites import SITES, width_of
from workers.engine.suffix import SuffixEngine
from workers.files.place import Place
from workers.methods.base import Batch, rows_of, to_device

CPU = torch.device("cpu")
EXPERTS = ("deepseek_v3", "mixtral", "qwen3_moe", "qwen2_moe", "olmoe", "gpt_oss")
PARALLEL = ("gpt_neox", "gptj", "codegen", "falcon")


def by_width(model: LanguageModel, position: int) -> list[list[Place]]:
    """Places of all sites that the model has, as they share a call, in no order of theirs."""
    groups: dict[int, list[Place]] = {}
    for places in zip(*places_of(model, position).values(), strict=True):
        for place in reversed(places):
            groups.setdefault(width_of(model, place), []).append(place)
    return list(groups.values())


def suffix_forward(
    model: LanguageModel, batch: Batch, places: Sequence[Place], n_prefix: int = 0, call_cost: float = 1000
) -> AbstractForward:
    engine = SuffixEngine(model, places=places, prefix_P=batch.base.ids_BT[0, :n_prefix], call_cost=call_cost)
    return engine.forward(batch.base, batch.source)


def soft(forward: AbstractForward, places: Sequence[Place], batch: Batch, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, loss and its gradient for cells that take a share of each number from the source, one for a variable."""
    share_VW = torch.linspace(0.1, 0.9, 2 * width).view(2, width).requires_grad_()
    logits_CBV = forward.intervene(places, lambda base, source: base + (source - base) * share_VW[batch.variable_B])
    label_CB = batch.label_B.expand(len(places), -1)
    loss = nn.functional.cross_entropy(logits_CBV.flatten(0, 1), label_CB.flatten(), reduction="sum")
    (gradient_VW,) = torch.autograd.grad(loss, share_VW)
    return logits_CBV.detach(), loss.detach(), gradient_VW


def assert_equal(found: Tensor, wanted: Tensor, what: object) -> None:
    """Equal to 1e-5 of the largest value."""
    size = max(1.0, float(wanted.abs().max()))
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5 * size, msg=lambda text: f"{what}: {text}")


@pytest.mark.parametrize("family", CONFIGS)
def test_every_site_of_every_family_equals_the_hooked_whole_model(family: str) -> None:
    """Cells of all sites that share a call, two variables, a cached prefix: activations, logits, loss and gradient
    equal the plain engine's, cell by cell, and each cell changes the logits."""
    model, batch = sharp_model(family), to_device(random_pairs(3, 12, n_prefix=3, n_variables=2), CPU)
    plain = ReferenceEngine(model).forward(batch.base, batch.source)
    groups = by_width(model, 8)
    fast = suffix_forward(model, batch, [place for places in groups for place in places], 3)
    for places in groups:
        width = width_of(model, places[0])
        wanted = [soft(plain, [place], batch, width) for place in places]
        for found, values in zip(fast.activations(places), plain.activations(places), strict=True):
            assert_equal(found, values, places)
        logits_CBV, loss, gradient_VW = soft(fast, places, batch, width)
        for place, logits_BV, (wanted_1BV, _, _) in zip(places, logits_CBV, wanted, strict=True):
            assert_equal(logits_BV, wanted_1BV[0], place)
            if place.layer < 2:  # the last block reaches the last token through keys and values only
                assert (logits_BV - fast.base_logits()).abs().max() > 1e-4, place
        assert_equal(loss, torch.stack([cell for _, cell, _ in wanted]).sum(), places)
        assert_equal(gradient_VW, torch.stack([cell for _, _, cell in wanted]).sum(dim=0), places)


@pytest.mark.parametrize("call_cost", [0, 1000])
@pytest.mark.parametrize("family", CONFIGS)
def test_unequal_prompts_in_micro_batches_equal_the_hooked_whole_model(family: str, call_cost: float) -> None:
    """Prompts of unequal length with named places, two micro-batches, in calls of alike pairs and in one: losses and
    gradients add up to the plain engine's on the whole batch."""
    model, batch = sharp_model(family), to_device(ragged_pairs(5, n_prefix=3, n_variables=2), CPU)
    parts = [rows_of(batch, 0, 2), rows_of(batch, 2, 5)]
    plain = ReferenceEngine(model).forward(batch.base, batch.source)
    for places in by_width(model, 1):
        some, width = places[::2], width_of(model, places[0])
        wanted = [soft(plain, [place], batch, width) for place in some]
        found = [soft(suffix_forward(model, part, some, 3, call_cost), some, part, width) for part in parts]
        assert_equal(torch.cat([cell[0] for cell in found], dim=1), torch.cat([cell[0] for cell in wanted]), some)
        for index in (1, 2):
            totals = [torch.stack([cell[index] for cell in cells]).sum(dim=0) for cells in (found, wanted)]
            assert_equal(*totals, some)


@settings(max_examples=12, deadline=None)
@given(
    data=st.data(),
    n_pairs=st.integers(1, 4),
    n_prefix=st.integers(0, 3),
    seed=st.integers(0, 10_000),
    call_cost=st.sampled_from([0, 20, 1000]),
)
def test_any_cohort_agrees(data: st.DataObject, n_pairs: int, n_prefix: int, seed: int, call_cost: float) -> None:
    """Random families, cohorts of mixed sites with places repeated, points, lengths and prefixes: logits equal the
    whole model's."""
    model = sharp_model(data.draw(st.sampled_from(["llama", "gpt2", "gemma2", "phi3", "falcon", "opt"])))
    is_ragged = data.draw(st.booleans())
    pairs = ragged_pairs(n_pairs, n_prefix=n_prefix, seed=seed) if is_ragged else random_pairs(n_pairs, 9, seed=seed)
    batch = to_device(pairs, CPU)
    point = data.draw(st.integers(0, 2 if is_ragged else 8))
    places = data.draw(
        st.lists(st.sampled_from(data.draw(st.sampled_from(by_width(model, point)))), min_size=1, max_size=6)
    )
    forward = suffix_forward(model, batch, places, n_prefix if is_ragged else 0, call_cost)
    found_CBV = forward.intervene(places, lambda base, source: 0.3 * base + 0.7 * source)
    plain = ReferenceEngine(model).forward(batch.base, batch.source)
    for place, found_BV in zip(places, found_CBV, strict=True):
        assert_equal(found_BV, plain.intervene([place], lambda base, source: 0.3 * base + 0.7 * source)[0], place)


@pytest.mark.parametrize("site", ["head_output", "mlp_output", "block_mid", "value"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_bfloat16_differs_by_its_rounding_only(family: str, site: str) -> None:
    """In bfloat16 the two engines differ by no more than bfloat16 differs from float32."""
    batch = to_device(random_pairs(4, 12, n_prefix=3), CPU)
    exact, rounded = tiny_model(family), tiny_model(family, dtype=torch.bfloat16)
    (place, _) = places_of(exact, 8)[site]

    def logits(forward: AbstractForward) -> Tensor:
        return forward.intervene([place], lambda base, source: 0.3 * base + 0.7 * source)[0]

    plain = [logits(ReferenceEngine(model).forward(batch.base, batch.source)) for model in (exact, rounded)]
    rounding = float((plain[0] - plain[1]).abs().max())
    found = logits(suffix_forward(rounded, batch, [place], 3))
    assert rounding > 0
    assert float((found - plain[1]).abs().max()) <= 1.5 * rounding


# Closed forms ---------------------------------------------------------------------------------------------------


def swapped(model: LanguageModel, batch: Batch, place: Place) -> Tensor:
    """logits_BV when the source's vector is at the place."""
    return suffix_forward(model, batch, [place]).intervene([place], lambda _base, source: source)[0]


@pytest.mark.parametrize("family", CONFIGS)
def test_all_heads_are_the_attention_and_all_neurons_the_mlp(family: str) -> None:
    """The whole input of a projection, swapped, is its output, swapped."""
    model, batch = sharp_model(family), to_device(random_pairs(3, 9), CPU)
    parts = {"head_output": "attention_output"} | ({} if family in EXPERTS else {"mlp_neurons": "mlp_output"})
    for inner, outer in parts.items():
        places = [Place(layer=1, position=5, site=site) for site in (inner, outer)]
        assert_equal(*(swapped(model, batch, place) for place in places), places)


@pytest.mark.parametrize("family", CONFIGS)
def test_a_source_that_is_the_base_changes_nothing(family: str) -> None:
    """At every site."""
    model, batch = sharp_model(family), to_device(random_pairs(3, 9), CPU)
    for places in by_width(model, 5):
        engine = SuffixEngine(model, places=places)
        forward = engine.forward(batch.base, batch.base)
        found_CBV = forward.intervene(places, lambda _base, source: source)
        assert_equal(found_CBV, forward.base_logits().expand_as(found_CBV), places)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3", "gpt_neox"])
def test_a_blocks_input_is_the_output_of_the_block_before(family: str) -> None:
    """`block_input` of block 2 and `block_output` of block 1 are one place."""
    model, batch = sharp_model(family), to_device(random_pairs(3, 9), CPU)
    found = swapped(model, batch, Place(layer=2, position=5, site="block_input"))
    assert torch.equal(found, swapped(model, batch, *at(5, 1)))


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3", "opt"])
def test_a_swapped_embedding_is_a_swapped_token(family: str) -> None:
    """The base with the source's token there, run as it is."""
    model, batch = sharp_model(family), to_device(random_pairs(3, 9), CPU)
    ids_BT = batch.base.ids_BT.clone()
    ids_BT[:, 5] = batch.source.ids_BT[:, 5]
    wanted = ReferenceEngine(model).forward(TokenBatch.of_ids(ids_BT), batch.source).base_logits()
    assert_equal(swapped(model, batch, Place(layer=0, position=5, site="embeddings")), wanted, family)


def test_the_middle_of_the_last_block_is_what_follows_by_hand() -> None:
    """Llama, the last position: the source's stream through the block's MLP, the last norm and the head."""
    model, batch = sharp_model("llama"), to_device(random_pairs(3, 9), CPU)
    sites = ("block_input", "attention_output")
    before, attention = (Place(layer=2, position=8, site=site) for site in sites)
    forward = suffix_forward(model, batch, [before, attention])
    middle_BD = sum(forward.activations([place])[1][0] for place in (before, attention))
    block, whole = model.blocks[2], model.model
    stream_BD = middle_BD + block.mlp(block.post_attention_layernorm(middle_BD))
    wanted = whole.lm_head(whole.model.norm(stream_BD))
    assert_equal(swapped(model, batch, Place(layer=2, position=8, site="block_mid")), wanted, "block_mid")


@pytest.mark.parametrize("family", [family for family in CONFIGS if family not in PARALLEL])
def test_the_middle_of_the_last_block_decides_the_answer(family: str) -> None:
    """Swapped at the last position, it makes the model say what it says of the source."""
    model, batch = sharp_model(family), to_device(random_pairs(3, 9), CPU)
    place = Place(layer=2, position=8, site="block_mid")
    wanted = ReferenceEngine(model).forward(batch.source, batch.source).base_logits()
    for engine in (SuffixEngine(model, places=[place]), ReferenceEngine(model)):
        found = engine.forward(batch.base, batch.source).intervene([place], lambda _base, source: source)
        assert_equal(found[0], wanted, engine)


# What is kept ---------------------------------------------------------------------------------------------------


def test_only_what_cells_read_is_kept() -> None:
    """One head of block 1 at one position: its projection's input there, and the streams about block 1."""
    model, batch = sharp_model("llama"), to_device(random_pairs(3, 9), CPU)
    forward = SuffixEngine(model, places=[Place(layer=1, position=5, site="head_output", unit=2)]).forward(
        batch.base, batch.source
    )
    assert set(forward.base.values) == set(forward.source.values) == {(1, "head_output", 5)}
    assert forward.base.values[1, "head_output", 5].shape == (3, 32)
    assert (set(forward.base.hidden), set(forward.source.hidden)) == ({0, 1}, set())


def test_a_site_in_the_prefix_is_refused() -> None:
    """The shared forward has nothing there."""
    model, batch = sharp_model("llama"), to_device(random_pairs(3, 9, n_prefix=4), CPU)
    place = Place(layer=1, position=3, site="mlp_output")
    with pytest.raises(ValueError, match="position 3 lies in the common prefix of 4 tokens"):
        suffix_forward(model, batch, [place], 4)


def test_the_sites_are_those_of_the_table() -> None:
    """Llama has each of them."""
    assert set(places_of(sharp_model("llama"), 0)) == set(SITES)
