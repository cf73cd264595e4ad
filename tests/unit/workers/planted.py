"""A hand-wired GPT-2 that decides X <= Z <= Y by P = [X <= Z] and Q = [Z <= Y], each in a known direction.

Prompt: `<s> x3 z5 y7 =`, each letter with its number 0..9 being one token; the answer is Yes or No. Words that say
nothing (`um`) may come before the letters.

    embedding   a number's value in dimension VALUE; one dimension a letter, and one for `=`
    block 0     at `=`, heads 0, 1, 2 read x, z, y into dimensions X, Z, Y, wherever these are; the MLP writes
                P = relu(Z - X + 1) - relu(Z - X) into dimension P, and Q likewise: exactly 0 or 1 for whole numbers
    block 1     no attention; the MLP writes relu(P + Q - 1), P and Q, into dimension BOTH and erases P, Q, X, Y and Z
                (left there, a linear reading of P from the source and Q from the base would be a conjunction too)
    head        Yes where BOTH > 1/2

So after block 0, at the last position, dimension P carries the left boundary's variable and nothing else does. A
constant pair of dimensions +C, -C makes every layer norm a division by a known number (to one part in C^2), and
dimension BALANCE gets the opposite of all that is written elsewhere, so that the norms find a mean of zero.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import GPT2Config, GPT2LMHeadModel, Starcoder2Config, Starcoder2ForCausalLM

from workers.causal_model import Hypothesis
from workers.tasks.base import AbstractTask
from workers.tasks.price_tagging import HYPOTHESES

D, HEADS = 24, 3
PLUS, MINUS, VALUE, X, Z, Y, P, Q, BOTH = 0, 1, 2, 3, 4, 5, 6, 7, 8
IS = 9  # dimensions 9..12: whether this is an x, z, y or =
BALANCE = 14
C, SHARP = 1000.0, 60.0
LETTERS = "xzy"
VOCABULARY = ["<s>", *(f"{letter}{number}" for letter in LETTERS for number in range(10)), "=", "um", "Yes", "No"]


@dataclass(frozen=True, kw_only=True)
class Planted(AbstractTask):
    """Is Z between X and Y? In the model's own little language: `lead` words that say nothing come first, and up to
    `fillers` of them before x and before z."""

    name: ClassVar[str] = "planted"

    lead: int = 0
    fillers: int = 0

    def sample(self, rng: random.Random) -> dict[str, Any]:
        numbers = {"X": rng.randrange(10), "Y": rng.randrange(10), "Z": rng.randrange(10)}
        return numbers | {"before_x": rng.randint(0, self.fillers), "before_z": rng.randint(0, self.fillers)}

    def prompt(self, inputs: Mapping[str, Any]) -> str:
        fillers = ["um " * inputs[name] for name in ("before_x", "before_z")]
        return f"{'um ' * self.lead}{fillers[0]}x{inputs['X']} {fillers[1]}z{inputs['Z']} y{inputs['Y']} ="

    def positions(self, inputs: Mapping[str, Any]) -> dict[str, int]:
        return {letter: self.prompt(inputs).index(letter) for letter in LETTERS}

    @property
    def answers(self) -> Mapping[Any, str]:
        return {True: " Yes", False: " No"}

    @property
    def hypotheses(self) -> Mapping[str, Hypothesis]:
        return HYPOTHESES


def planted_model(*, wired: bool = True, n_before: int = 0) -> GPT2LMHeadModel:
    """The model; with `wired` false a random one of the same shape. `n_before` blocks that do nothing come first: the
    truth is then so much deeper."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(VOCABULARY),
        n_positions=16,
        n_embd=D,
        n_layer=2 + n_before,
        n_head=HEADS,
        n_inner=8,
        activation_function="relu",
        tie_word_embeddings=False,
        layer_norm_epsilon=1e-12,
        bos_token_id=0,
        eos_token_id=0,
    )
    model = GPT2LMHeadModel(config).eval()
    if wired:
        with torch.no_grad():
            _wire(model, n_before)
    return model


def _wire(model: GPT2LMHeadModel, n_before: int) -> None:
    for parameter in model.parameters():
        parameter.zero_()
    body = model.transformer
    for index, letter in enumerate(LETTERS):
        for number in range(10):
            row = VOCABULARY.index(f"{letter}{number}")
            body.wte.weight[row, VALUE], body.wte.weight[row, IS + index] = number, 1.0
    body.wte.weight[VOCABULARY.index("="), IS + 3] = 1.0
    body.wpe.weight[:, PLUS], body.wpe.weight[:, MINUS] = C, -C
    scale = C * (2 / D) ** 0.5  # a layer norm divides by this
    for norm in (*(norm for block in body.h for norm in (block.ln_1, block.ln_2)), body.ln_f):
        norm.weight.fill_(scale)
    first_block, second_block = body.h[n_before:]
    head_size = D // HEADS
    attention = first_block.attn
    for head, target in enumerate((X, Z, Y)):
        first = head * head_size
        attention.c_attn.weight[IS + 3, first] = SHARP * head_size**0.5  # query: the `=`
        attention.c_attn.weight[IS + head, D + first] = 1.0  # key: the letter
        attention.c_attn.weight[VALUE, 2 * D + first] = 1.0
        attention.c_proj.weight[first, target] = 1.0
    for first, (low, high, target) in zip((0, 2), ((X, Z, P), (Z, Y, Q)), strict=True):
        _step(first_block.mlp, first, high, low, target)
    both = second_block.mlp
    both.c_fc.weight[P, 0] = both.c_fc.weight[Q, 0] = 1.0
    both.c_fc.bias[0] = -1.0
    both.c_proj.weight[0, BOTH] = 1.0
    for unit, erased in enumerate((P, Q, X, Y, Z), start=1):
        both.c_fc.weight[erased, unit], both.c_proj.weight[unit, erased] = 1.0, -1.0
    for writer in (attention.c_proj, first_block.mlp.c_proj, second_block.mlp.c_proj, body.wte, body.wpe):
        writer.weight[:, BALANCE] = -writer.weight.sum(dim=1)
    model.lm_head.weight[VOCABULARY.index("Yes"), BOTH] = 20.0
    model.lm_head.weight[VOCABULARY.index("No"), PLUS] = 10.0 / C


def planted_grouped_model() -> Starcoder2ForCausalLM:
    """The same with grouped queries: the three heads share one key and one value. It has rotary positions, so a letter
    is looked for in dimensions of the key that hardly turn over five tokens: 2, 3 and 7 of 8."""
    plain = planted_model()
    config = Starcoder2Config(
        vocab_size=len(VOCABULARY),
        max_position_embeddings=16,
        hidden_size=D,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        num_key_value_heads=1,
        intermediate_size=8,
        hidden_act="relu",
        norm_epsilon=1e-12,
        sliding_window=None,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=0,
    )
    model = Starcoder2ForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        body, old = model.model, plain.transformer
        body.embed_tokens.weight.copy_(old.wte.weight + old.wpe.weight[0])
        for new, norm in ((body.norm, old.ln_f), *_norms(body, old)):
            new.weight.copy_(norm.weight)
        for block, other in zip(body.layers, old.h, strict=True):
            for name in ("c_fc", "c_proj"):  # GPT-2 holds these weights the other way round
                new, layer = getattr(block.mlp, name), getattr(other.mlp, name)
                new.weight.copy_(layer.weight.T)
                new.bias.copy_(layer.bias)
            block.self_attn.o_proj.weight.copy_(other.attn.c_proj.weight.T)
        attention, head_size = body.layers[0].self_attn, D // HEADS
        for head, dimension in enumerate((2, 3, 7)):
            attention.q_proj.weight[head * head_size + dimension, IS + 3] = SHARP * head_size**0.5
            attention.k_proj.weight[dimension, IS + head] = 1.0
        attention.v_proj.weight[0, VALUE] = 1.0
        model.lm_head.weight.copy_(plain.lm_head.weight)
    return model


def _norms(body: Any, old: Any) -> list[tuple[Any, Any]]:
    """The norms of each block, new and old."""
    pairs = [(block, other) for block, other in zip(body.layers, old.h, strict=True)]
    before = [(block.input_layernorm, other.ln_1) for block, other in pairs]
    return before + [(block.post_attention_layernorm, other.ln_2) for block, other in pairs]


def _step(mlp: Any, first: int, high: int, low: int, target: int) -> None:
    """relu(high - low + 1) - relu(high - low): 1 where low <= high, for whole numbers."""
    for unit, (bias, sign) in enumerate(((1.0, 1.0), (0.0, -1.0)), start=first):
        mlp.c_fc.weight[high, unit], mlp.c_fc.weight[low, unit] = 1.0, -1.0
        mlp.c_fc.bias[unit] = bias
        mlp.c_proj.weight[unit, target] = sign


def save_planted(folder: Path, *, wired: bool = True, n_before: int = 0) -> Path:
    """The model and its tokenizer as a checkpoint folder."""
    planted_model(wired=wired, n_before=n_before).save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(VOCABULARY)}, unk_token="<s>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder
