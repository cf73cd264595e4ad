"""Function vectors: the planted head ranks first, and the vector is what the heads write."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf

from tests.unit.workers.planted import HEADS, VOCABULARY, Z, planted_model
from tests.unit.workers.tiny import at, make_cohort, make_context, random_pairs, tiny_model
from workers.data.pairs import PairSet
from workers.data.token_ids import Prompts
from workers.engine.base import TokenBatch
from workers.engine.model import LanguageModel, wrap_model
from workers.engine.reference import ReferenceEngine
from workers.engine.suffix import SuffixEngine
from workers.files.place import Place
from workers.methods import function_vector
from workers.methods.alignment import Addition, Column
from workers.methods.base import FitContext, NotApplicable, to_device

CPU = torch.device("cpu")


def context_of(folder: Path, model: LanguageModel, pairs: PairSet, position: int, n_heads: int) -> FitContext:
    cohort = make_cohort([(0, position), (1, position)], method="function_vector", n_heads=n_heads)
    return make_context(folder, cohort, model, pairs, micro_batch=12)


def addition_of(column: Column) -> Addition:
    assert isinstance(column.learned, Addition)
    return column.learned


def ids(x: int, z: int, y: int) -> list[int]:
    """`<s> x z y =` of the hand-wired model's language."""
    return [0, *(VOCABULARY.index(word) for word in (f"x{x}", f"z{z}", f"y{y}", "="))]


def test_the_planted_head_ranks_first(tmp_path: Path) -> None:
    """Sources and bases differ in z alone, which head 1 of block 0 reads: its mean makes the label of the sources come
    true, and what it writes is z's dimension."""
    numbers = [(x, 4, 9) for x in range(5) for _ in range(4)]
    source = np.array([ids(*one) for one in numbers])
    base = np.array([ids(x, 0, y) for x, _, y in numbers])
    n = len(numbers)
    pairs = PairSet(
        base=Prompts.of_rows(base),
        source=Prompts.of_rows(source),
        label_B=np.full(n, VOCABULARY.index("Yes")),
        variable_B=np.zeros(n, dtype=np.int64),
        value_B=np.zeros(n),
    )
    context = replace(context_of(tmp_path, wrap_model(planted_model()), pairs, 4, 1), validation=pairs)
    (column,) = function_vector.fit(context)
    added_CD = addition_of(column).added_CD
    assert added_CD.abs().argmax(dim=1).tolist() == [Z, Z]
    assert float(added_CD[0, Z]) == pytest.approx(4.0, abs=1e-2)
    assert not torch.equal(addition_of(column).null_CD, added_CD)


def test_the_vector_is_what_the_heads_write(tmp_path: Path) -> None:
    """With every second head of the model the vector and its null together are the mean attention output, less the
    projection's bias: read by hooks at another site."""
    model, pairs = tiny_model("gpt2"), random_pairs(32, 12)
    n_heads = 3 * 4 // 2
    (column,) = function_vector.fit(context_of(tmp_path, model, pairs, 11, n_heads))
    sources = TokenBatch.of(pairs.source, CPU)
    wanted_D = torch.zeros(32)
    for layer, block in enumerate(model.blocks):
        place = Place(layer=layer, position=11, site="attention_output")
        hidden, _ = ReferenceEngine(model).forward(sources, sources).activations([place])
        wanted_D += hidden[0].mean(dim=0) - block.attn.c_proj.bias  # type: ignore[union-attr, operator]
    both_CD = addition_of(column).added_CD + addition_of(column).null_CD
    torch.testing.assert_close(both_CD, wanted_D.expand(2, -1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_both_engines_find_the_same_vector(tmp_path: Path, family: str) -> None:
    """The reference runs one head at a time through the whole model."""
    model, pairs = tiny_model(family), random_pairs(16, 12)
    context = context_of(tmp_path, model, pairs, 11, 3)
    (fast,) = function_vector.fit(context)
    plain = function_vector.fit(replace(context, engine=ReferenceEngine(model)))
    for index, column in enumerate(plain):
        torch.testing.assert_close(
            addition_of(column).added_CD[0], addition_of(fast).added_CD[index], rtol=1e-4, atol=1e-5
        )


def test_the_vector_is_added_to_the_base(tmp_path: Path) -> None:
    """h(base) + v, whatever the source: by logits of the plain engine."""
    model, pairs = tiny_model("llama"), random_pairs(16, 12)
    (column,) = function_vector.fit(context_of(tmp_path, model, pairs, 11, 3))
    batch, learned = to_device(pairs, CPU), addition_of(column)
    found = SuffixEngine(model, places=at(0, 0, 1)).forward(batch.base, batch.source)
    logits = found.intervene(at(11, 0, 1), learned.mix(batch.variable_B))
    plain = ReferenceEngine(model).forward(batch.base, batch.source)
    for index in (0, 1):
        added_D = learned.added_CD[index]
        wanted = plain.intervene(at(11, index), lambda base, _source, added=added_D: base + added)
        torch.testing.assert_close(logits[index], wanted[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("family", "n_heads", "message"),
    [("llama", 7, "n_heads: got 7; the model has 12 heads"), ("gemma2", 2, "has a norm behind the attention's output")],
)
def test_what_has_no_function_vector_is_told(tmp_path: Path, family: str, n_heads: int, message: str) -> None:
    """Too few heads for a null, or heads that do not add up."""
    assert HEADS == 3
    with pytest.raises(NotApplicable, match=message):
        function_vector.fit(context_of(tmp_path, tiny_model(family), random_pairs(16, 12), 11, n_heads))


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("Granite", {"residual_multiplier": 0.22}, "GraniteForCausalLM scales the attention's output"),
        ("Glm4", {"head_dim": 8}, "Glm4ForCausalLM has a norm behind the attention's output"),
    ],
)
def test_heads_that_write_something_else_are_refused(kind: str, options: dict[str, Any], message: str) -> None:
    """Their projection's output is scaled or normed before it enters the stream."""
    sizes = {"vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "pad_token_id": 0}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    config = getattr(hf, f"{kind}Config")(**sizes, **heads, **options)
    model = wrap_model(getattr(hf, f"{kind}ForCausalLM")(config))
    with pytest.raises(NotApplicable, match=message):
        function_vector.heads_of(model, 3)
