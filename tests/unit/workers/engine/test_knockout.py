"""Attention knockout: closed forms, and transformers' own masks as the oracle."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.unit.workers.planted import planted_model
from tests.unit.workers.tiny import ragged_pairs, random_pairs, tiny_model
from workers.engine.base import TokenBatch
from workers.engine.knockout import knocked_out, last_token_of
from workers.engine.model import last_logits, wrap_model

CPU = torch.device("cpu")
FAMILIES = ("llama", "gpt2", "gpt_neox", "gemma3")


def prompts_of(n_pairs: int = 4) -> TokenBatch:
    return TokenBatch.of(random_pairs(n_pairs, 9).base, CPU)


@pytest.mark.parametrize("family", FAMILIES)
def test_without_an_edge_nothing_changes(family: str) -> None:
    """No layer, or no key: the logits of the plain run."""
    model, prompts = tiny_model(family), prompts_of()
    plain = last_logits(model.model, None, input_ids=prompts.ids_BT, use_cache=False)
    for layers, keys in (((), [np.full(4, 2)]), (range(3), [])):
        found = knocked_out(model, prompts, layers=layers, keys=keys)
        torch.testing.assert_close(found, plain, rtol=0, atol=1e-5)


def test_with_all_edges_but_its_own_cut_the_last_token_is_alone() -> None:
    """The logits of that token as a prompt of its own: rotary embeddings know distances only."""
    model, prompts = tiny_model("llama"), prompts_of()
    found = knocked_out(model, prompts, layers=range(3), keys=[np.full(4, key) for key in range(8)])
    alone = last_logits(model.model, None, input_ids=prompts.ids_BT[:, -1:], use_cache=False)
    torch.testing.assert_close(found, alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox"])
def test_a_mask_given_to_the_model_itself_says_the_same(family: str) -> None:
    """In all layers: transformers takes a mask of four dimensions, with other keys for each prompt."""
    model, prompts = tiny_model(family, attention="eager"), prompts_of()
    key_B = np.array([1, 4, 6, 7])
    mask_BHQK = torch.full((4, 1, 9, 9), torch.finfo(torch.float32).min).triu(1)
    mask_BHQK[torch.arange(4), 0, 8, torch.from_numpy(key_B)] = torch.finfo(torch.float32).min
    with torch.no_grad():
        wanted = model.model(input_ids=prompts.ids_BT, attention_mask=mask_BHQK, use_cache=False).logits[:, -1]
    found = knocked_out(model, prompts, layers=range(3), keys=[key_B])
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
    plain = last_logits(model.model, None, input_ids=prompts.ids_BT, use_cache=False)
    assert not torch.allclose(found, plain, atol=1e-4)


def test_prompts_of_unequal_length_are_cut_at_their_own_last_token() -> None:
    """Each as if it were alone."""
    model, prompts = tiny_model("llama"), TokenBatch.of(ragged_pairs(6).base, CPU)
    assert prompts.filling is not None
    key_B = last_token_of(prompts) - 3
    together = knocked_out(model, prompts, layers=[0, 1], keys=[key_B])
    for row in range(6):
        one = knocked_out(model, prompts.rows(row, row + 1), layers=[0, 1], keys=[key_B[row : row + 1]])
        torch.testing.assert_close(together[row : row + 1], one, rtol=0, atol=1e-5)


def test_a_hand_wired_head_is_cut_alone() -> None:
    """Head 1 of block 0 reads z at the last token: cut, it changes the logits as all heads together do, and head 0's
    edge to z, or any edge in block 1, changes nothing."""
    model = wrap_model(planted_model())
    prompts = TokenBatch.of_ids(torch.tensor([[0, 1 + 4, 1 + 10 + 5, 1 + 20 + 9, 31]]))
    plain, z = knocked_out(model, prompts, layers=[], keys=[]), [np.array([2])]
    every, own, other, later = (
        knocked_out(model, prompts, layers=layers, keys=z, head=head)
        for layers, head in (([0], None), ([0], 1), ([0], 0), ([1], None))
    )
    torch.testing.assert_close(own, every)
    torch.testing.assert_close(other, plain)
    torch.testing.assert_close(later, plain)
    assert not torch.allclose(own, plain, atol=1e-2)
