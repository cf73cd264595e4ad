"""Direct logit attribution: components and biases sum to the logit difference, in any family whose blocks do."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.unit.workers.tiny import CONFIGS, at, random_pairs, states_of, tiny_model
from workers.data.pairs import PairSet
from workers.engine.model import LanguageModel
from workers.engine.suffix import SuffixEngine
from workers.files.place import Place
from workers.methods.base import NotApplicable
from workers.methods.final_norm import FinalNorm
from workers.methods.lens import final_place
from workers.methods.logit_attribution import LogitAttribution, answer_directions
from workers.methods.reading import Run
from workers.methods.reading_settings import LogitAttributionSettings

LAST, N_LAYERS = 11, 3
NORMED_PARTS = ("gemma2", "gemma3", "olmo2")


def pairs_of(n_pairs: int = 6) -> PairSet:
    """Prompts of 12 tokens whose right answers are 5; the counterfactual ones are 3 and 4."""
    pairs = random_pairs(n_pairs, LAST + 1)
    return replace(pairs, base_answer_B=np.full(n_pairs, 5))


def run_of(model: LanguageModel, places: list[Place], pairs: PairSet) -> Run:
    """The prompts' run, in which these cells and all that they need are read."""
    every = [one for place in places for one in LogitAttributionSettings().reads(place, N_LAYERS)]
    every = list(dict.fromkeys(every))
    engine = SuffixEngine(model, places=every)
    with torch.no_grad():
        ((_, run),) = states_of(engine, pairs, every).runs()
    return run


def components() -> list[Place]:
    """What the stream before block 0 holds, and every attention and MLP."""
    parts = [
        Place(layer=layer, position=LAST, site=site)
        for layer in range(N_LAYERS)
        for site in ("attention_output", "mlp_output")
    ]
    return [Place(layer=0, position=LAST, site="block_input"), *parts]


def attributions(run: Run, places: list[Place]) -> torch.Tensor:
    """Those of each component and prompt."""
    with torch.no_grad():
        return torch.cat([LogitAttribution().read(run, [place]).means_CB["logit_diff"] for place in places])


@pytest.mark.parametrize("family", [name for name in CONFIGS if name not in NORMED_PARTS])
def test_components_and_biases_sum_to_the_logit_difference(family: str) -> None:
    """The model's own, from its plain logits, on each prompt."""
    model, pairs = tiny_model(family), pairs_of()
    run = run_of(model, components(), pairs)
    found_B = attributions(run, components()).sum(dim=0)
    with torch.no_grad():
        rows, direction_BD = answer_directions(run)
        norm = FinalNorm.of(model, run.unembed, run.at([final_place(LAST, N_LAYERS)])[0])
        found_B += direction_BD @ norm.bias_D
        head = model.model.get_output_embeddings()
        other_B = torch.from_numpy(pairs.label_B)
        if head.bias is not None:
            found_B += head.bias[5] - head.bias[other_B]
        logits_BV = model.model(input_ids=torch.from_numpy(pairs.base.ids_BT)).logits[:, -1]
    assert rows.tolist() == list(range(6))
    torch.testing.assert_close(found_B, logits_BV[:, 5] - logits_BV[torch.arange(6), other_B], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox"])
def test_heads_sum_to_their_attention_less_its_bias(family: str) -> None:
    """Four heads of one block, and the output projection's bias where there is one."""
    model, pairs = tiny_model(family), pairs_of()
    heads = [Place(layer=1, position=LAST, site="head_output", unit=unit) for unit in range(4)]
    whole = Place(layer=1, position=LAST, site="attention_output")
    run = run_of(model, [*heads, whole], pairs)
    found_B, wanted_B = attributions(run, heads).sum(dim=0), attributions(run, [whole])[0]
    block = model.blocks[1]
    projection = {
        "llama": lambda: block.self_attn.o_proj,
        "gpt2": lambda: block.attn.c_proj,
        "gpt_neox": lambda: block.attention.dense,
    }[family]()
    if projection.bias is not None:
        with torch.no_grad():
            norm = FinalNorm.of(model, run.unembed, run.at([final_place(LAST, N_LAYERS)])[0])
            found_B += (answer_directions(run)[1] * norm.linear(projection.bias.expand(6, -1))).sum(dim=1)
    torch.testing.assert_close(found_B, wanted_B, rtol=1e-3, atol=1e-6)


def test_the_null_is_that_of_each_cell_alone() -> None:
    """Which cells go through together, which memory decides, changes no number."""
    places = components()
    run = run_of(tiny_model("llama"), places, pairs_of())
    with torch.no_grad():
        together = LogitAttribution().read(run, places[1::2]).null_means_CB["logit_diff"]
        alone = [LogitAttribution().read(run, [place]).null_means_CB["logit_diff"] for place in places[1::2]]
    assert torch.equal(together, torch.cat(alone))


def test_a_pair_that_keeps_its_answer_is_not_counted() -> None:
    """Its two answers are one token: there is no difference to attribute."""
    pairs = pairs_of()
    pairs = replace(pairs, base_answer_B=np.where(np.arange(6) < 2, pairs.label_B, 5))
    run = run_of(tiny_model("llama"), at(LAST, 1), pairs)
    assert LogitAttribution().read(run, at(LAST, 1)).n_counted == 4


@pytest.mark.parametrize("family", NORMED_PARTS)
def test_a_family_that_norms_a_blocks_parts_is_refused(family: str) -> None:
    """Its attention and MLP do not add up to what its block adds; the stream's own sites are left."""
    place = Place(layer=1, position=LAST, site="mlp_output")
    run = run_of(tiny_model(family), [place, *at(LAST, 1)], pairs_of())
    with torch.no_grad(), pytest.raises(NotApplicable, match="adds to the stream something else"):
        LogitAttribution().read(run, [place])
    assert LogitAttribution().read(run, at(LAST, 1)).n_counted == 6


def test_only_the_last_token_has_an_attribution() -> None:
    """Nothing else is read by the head."""
    run = run_of(tiny_model("llama"), at(5, 1), pairs_of())
    with pytest.raises(NotApplicable, match="not the last token"):
        LogitAttribution().read(run, at(5, 1))


def test_a_batch_in_which_no_answer_changes_is_on_the_models_device() -> None:
    """Its sums are added to those of other batches, which are there."""
    pairs = pairs_of()
    run = run_of(tiny_model("llama"), at(LAST, 1), replace(pairs, base_answer_B=pairs.label_B))
    elsewhere = replace(run, model=replace(run.model, device=torch.device("meta")))
    read = LogitAttribution().read(elsewhere, at(LAST, 1))
    assert read.n_counted == 0
    assert {part.device.type for part in (*read.means_CB.values(), *read.null_means_CB.values())} == {"meta"}
