"""Attention knockout: closed forms, and transformers' own masks as the oracle."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.unit.workers.planted import planted_model
from tests.unit.workers.tiny import ragged_pairs, random_pairs, tiny_model
from workers.engine.base import TokenBatch
from workers.engine.knockout import knocked_out
from workers.engine.model import last_logits, wrap_model
from workers.engine.sites import SiteError

CPU = torch.device("cpu")
FAMILIES = ("llama", "gpt2", "gpt_neox", "gemma3")


def prompts_of(n_pairs: int = 4) -> TokenBatch:
    return TokenBatch.of(random_pairs(n_pairs, 9).base, CPU)


def cut_at(prompts: TokenBatch, *keys: int) -> Tensor:
    """cut_BT: these tokens in each prompt; negative ones count from its last token."""
    cut_BT = torch.zeros(prompts.ids_BT.shape, dtype=torch.bool)
    for row, length in enumerate(prompts.length_B):
        for key in keys:
            cut_BT[row, key if key >= 0 else int(length) + key] = True
    return cut_BT


@pytest.mark.parametrize("family", FAMILIES)
def test_without_an_edge_nothing_changes(family: str) -> None:
    """No layer, or no key: the logits of the plain run."""
    model, prompts = tiny_model(family), prompts_of()
    plain = last_logits(model.model, None, input_ids=prompts.ids_BT, use_cache=False)
    for layers, cut_BT in (((), cut_at(prompts, 2)), (range(3), cut_at(prompts))):
        found = knocked_out(model, prompts, layers=layers, cut_BT=cut_BT)
        torch.testing.assert_close(found, plain, rtol=0, atol=1e-5)


def test_with_all_edges_but_its_own_cut_the_last_token_is_alone() -> None:
    """The logits of that token as a prompt of its own: rotary embeddings know distances only."""
    model, prompts = tiny_model("llama"), prompts_of()
    found = knocked_out(model, prompts, layers=range(3), cut_BT=cut_at(prompts, *range(8)))
    alone = last_logits(model.model, None, input_ids=prompts.ids_BT[:, -1:], use_cache=False)
    torch.testing.assert_close(found, alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox"])
def test_a_mask_given_to_the_model_itself_says_the_same(family: str) -> None:
    """In all layers: transformers takes a mask of four dimensions, with other keys for each prompt."""
    model, prompts = tiny_model(family, attention="eager"), prompts_of()
    at_B, key_B = torch.arange(4), torch.tensor([1, 4, 6, 7])
    mask_BHQK = torch.full((4, 1, 9, 9), torch.finfo(torch.float32).min).triu(1)
    mask_BHQK[at_B, 0, 8, key_B] = torch.finfo(torch.float32).min
    with torch.no_grad():
        wanted = model.model(input_ids=prompts.ids_BT, attention_mask=mask_BHQK, use_cache=False).logits[:, -1]
    cut_BT = cut_at(prompts)
    cut_BT[at_B, key_B] = True
    found = knocked_out(model, prompts, layers=range(3), cut_BT=cut_BT)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
    plain = last_logits(model.model, None, input_ids=prompts.ids_BT, use_cache=False)
    assert (found - plain).abs().max() > 10 * (found - wanted).abs().max()


def test_prompts_of_unequal_length_are_cut_at_their_own_last_token() -> None:
    """Each as if it were alone."""
    model, prompts = tiny_model("llama"), TokenBatch.of(ragged_pairs(6).base, CPU)
    assert prompts.reads is not None
    together = knocked_out(model, prompts, layers=[0, 1], cut_BT=cut_at(prompts, -4))
    for row in range(6):
        part = prompts.rows(row, row + 1)
        one = knocked_out(model, part, layers=[0, 1], cut_BT=cut_at(part, -4))
        torch.testing.assert_close(together[row : row + 1], one, rtol=0, atol=1e-5)


def test_a_hand_wired_head_is_cut_alone() -> None:
    """Head 1 of block 0 reads z at the last token: cut, it changes the logits as all heads together do, and head 0's
    edge to z, or any edge in block 1, changes nothing."""
    model = wrap_model(planted_model())
    prompts = TokenBatch.of_ids(torch.tensor([[0, 1 + 4, 1 + 10 + 5, 1 + 20 + 9, 31]]))
    nothing, z = cut_at(prompts), cut_at(prompts, 2)
    plain = knocked_out(model, prompts, layers=[], cut_BT=nothing)
    every, own, other, later = (
        knocked_out(model, prompts, layers=layers, cut_BT=z, head=head)
        for layers, head in (([0], None), ([0], 1), ([0], 0), ([1], None))
    )
    torch.testing.assert_close(own, every)
    torch.testing.assert_close(other, plain)
    torch.testing.assert_close(later, plain)
    assert not torch.allclose(own, plain, atol=1e-2)


def test_an_attention_that_does_not_heed_the_mask_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its weights at the edges that were cut are not zero: a number would be of the plain run."""
    model, prompts = tiny_model("llama"), prompts_of()
    attention = type(model.blocks[0].self_attn)
    plain = attention.forward

    def deaf(self: object, *arguments: object, attention_mask: Tensor, **named: object) -> object:
        return plain(self, *arguments, attention_mask=attention_mask[:, :, 7:8].expand_as(attention_mask), **named)

    monkeypatch.setattr(attention, "forward", deaf)
    with pytest.raises(SiteError, match="LlamaAttention does not heed a mask of attention scores"):
        knocked_out(model, prompts, layers=[0], cut_BT=cut_at(prompts, 2))
