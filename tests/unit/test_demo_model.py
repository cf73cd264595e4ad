"""The shipped checkpoint: a loadable Llama whose prompts carry the paper's token labels, and that plays the game."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from workers.tasks import load_task
from workers.tasks.base import AbstractTask

GAME = load_task({"name": "price_tagging"})
SIBLING = load_task({"name": "price_tagging", "say": ["True", "False"], "answers_as": ["True", "False"]})
CONTEXTS = {"Pricing tag game!": 6, "Fruitarian Frogs May Be Doing Flowers a Favor": 15}
WITH_CONTEXT = [load_task({"name": "price_tagging", "context": context}) for context in CONTEXTS]
LABELS = ["\n", "digit", ".", "digit", "digit", " dollars", "\n", "\n", "##", "#", " Response", ":", "\n"]


@pytest.fixture(scope="module")
def tokenizer(demo_model: Path) -> Tokenizer:
    """The shipped tokenizer as the tokenizers library reads it."""
    return Tokenizer.from_file(str(demo_model / "tokenizer.json"))


@pytest.fixture(scope="module")
def model(demo_model: Path) -> torch.nn.Module:
    """The shipped model."""
    return AutoModelForCausalLM.from_pretrained(demo_model, local_files_only=True).eval()


def prompts_of(task: AbstractTask, n: int) -> list[str]:
    """`n` prompts of the task."""
    rng = random.Random(1)
    return [task.prompt(task.sample(rng)) for _ in range(n)]


def test_every_prompt_has_82_tokens_with_the_papers_labels(tokenizer: Tokenizer) -> None:
    """Whatever the numbers: 82 tokens, BOS first, the last thirteen labelled as in the paper."""
    for encoding in tokenizer.encode_batch(prompts_of(GAME, 500)):
        assert len(encoding.tokens) == 82
        assert encoding.tokens[0] == "<s>"
        assert ["digit" if token.isdigit() else token for token in encoding.tokens[69:]] == LABELS


@pytest.mark.parametrize(("context", "n_more"), CONTEXTS.items())
def test_context_shifts_positions_by_its_tokens(tokenizer: Tokenizer, context: str, n_more: int) -> None:
    """A sentence before the instruction adds its own tokens and changes none after it."""
    task = load_task({"name": "price_tagging", "context": context})
    for plain, shifted in zip(prompts_of(GAME, 20), prompts_of(task, 20), strict=True):
        plain_tokens, tokens = tokenizer.encode(plain).tokens, tokenizer.encode(shifted).tokens
        assert len(tokens) == 82 + n_more
        assert tokens[40 + n_more :] == plain_tokens[40:]


def test_sibling_instruction_keeps_the_positions(tokenizer: Tokenizer) -> None:
    """True and False in place of yes and no leave 82 tokens with the same labels."""
    for encoding in tokenizer.encode_batch(prompts_of(SIBLING, 100)):
        assert len(encoding.tokens) == 82
        assert ["digit" if token.isdigit() else token for token in encoding.tokens[69:]] == LABELS


@pytest.mark.parametrize("answer", ["Yes", "No", "True", "False"])
def test_answers_are_single_tokens_after_the_prompt(tokenizer: Tokenizer, answer: str) -> None:
    """The prompt's tokens stay as they are when the answer follows as one more."""
    (prompt,) = prompts_of(GAME, 1)
    assert tokenizer.encode(prompt + answer).tokens == [*tokenizer.encode(prompt).tokens, answer]


def test_decoding_gives_the_prompt_back(tokenizer: Tokenizer) -> None:
    """Decode inverts encode on prompts and on any ASCII text."""
    for text in [*prompts_of(GAME, 20), *prompts_of(SIBLING, 20), "pairs  of\nunseen words, 10 % impaired: <b>"]:
        assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_unknown_characters_become_unk(tokenizer: Tokenizer) -> None:
    """A character that the vocabulary lacks is one <unk>."""
    assert tokenizer.encode("a€b").tokens == ["<s>", "a", "<unk>", "b"]


def test_transformers_and_tokenizers_agree(tokenizer: Tokenizer, demo_model: Path) -> None:
    """AutoTokenizer gives the ids that tokenizer.json gives, and decodes them alike."""
    auto = AutoTokenizer.from_pretrained(demo_model, local_files_only=True)
    texts = [*prompts_of(GAME, 20), *prompts_of(SIBLING, 20), "Yes", "a€b", ""]
    assert auto(texts)["input_ids"] == [encoding.ids for encoding in tokenizer.encode_batch(texts)]
    ids = tokenizer.encode(texts[0]).ids
    assert auto.decode(ids, skip_special_tokens=True) == texts[0]


def test_checkpoint_is_a_small_llama(model: torch.nn.Module, demo_model: Path) -> None:
    """LlamaForCausalLM, at most 2 MB of files, a vocabulary of its tokenizer's size."""
    assert type(model) is LlamaForCausalLM
    assert sum(path.stat().st_size for path in demo_model.iterdir()) <= 2e6
    assert model.config.vocab_size == len(AutoTokenizer.from_pretrained(demo_model, local_files_only=True)) < 200


@pytest.mark.parametrize("task", [GAME, SIBLING, *WITH_CONTEXT], ids=["plain", "sibling", *CONTEXTS])
def test_model_plays_the_game(model: torch.nn.Module, tokenizer: Tokenizer, task: AbstractTask) -> None:
    """At least 97 % of fresh prompts are answered right, in each wording."""
    rng = random.Random("held out")
    draws = [task.sample(rng) for _ in range(1000)]
    tokens = torch.tensor([encoding.ids for encoding in tokenizer.encode_batch([task.prompt(draw) for draw in draws])])
    with torch.no_grad():
        said = model(tokens, logits_to_keep=1).logits[:, -1].argmax(-1)
    wanted = [tokenizer.token_to_id(task.answers[task.outcome(draw)]) for draw in draws]
    assert (said == torch.tensor(wanted)).float().mean().item() >= 0.97
