"""The logit lens: nothing is lost behind the last block, in any family; the closed forms of its measures."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers as hf

from tests.unit.workers.tiny import CONFIGS, at, make_cohort, make_context, random_pairs, states_of, tiny_model
from workers.data.pairs import UNKNOWN, PairSet
from workers.engine.model import LanguageModel, wrap_model
from workers.engine.reference import ReferenceEngine
from workers.engine.suffix import SuffixEngine
from workers.engine.unembed import Unembedding
from workers.job.evaluate import Counts
from workers.job.reading_counts import count_read
from workers.methods import logit_lens
from workers.methods.settings import places_read

POSITION = 9


def lens_counts(
    folder: Path, model: LanguageModel, layers: list[int], *, pairs: PairSet | None = None, position: int = POSITION
) -> list[Counts]:
    """What the lens reads at these layers of some prompts."""
    pairs = pairs or random_pairs(6, 12)
    cohort = make_cohort([(layer, position) for layer in layers], method="logit_lens")
    places = places_read(cohort.stream.method, [cell.place for cell in cohort.cells], model.n_layers)
    engine = SuffixEngine(model, places=places)
    columns = logit_lens.fit(make_context(folder, cohort, model, pairs, engine=engine))
    (counts,) = count_read(states_of(engine, pairs, places), columns)
    return counts


def capped(family: str) -> LanguageModel:
    """A family with more behind its last block than a norm and a head."""
    small = {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
    heads = {"intermediate_size": 48, "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    configs = {
        "soft-capped": lambda: hf.Gemma2Config(**small, **heads, head_dim=8, final_logit_softcapping=0.3),
        "scaled": lambda: hf.CohereConfig(**small, **heads, logit_scale=0.25),
        "divided": lambda: hf.GraniteConfig(**small, **heads, logits_scaling=4.0),
        "tied": lambda: hf.LlamaConfig(**small, **heads, tie_word_embeddings=True),
        "projected": lambda: hf.OPTConfig(**small, ffn_dim=48, word_embed_proj_dim=16),
    }
    torch.manual_seed(0)
    return wrap_model(hf.AutoModelForCausalLM.from_config(configs[family](), attn_implementation="eager"))


@pytest.mark.parametrize("family", CONFIGS)
def test_behind_the_last_block_the_lens_is_the_model(tmp_path: Path, family: str) -> None:
    """KL 0, and the model's first token every time; one block earlier it is neither."""
    inner, last = lens_counts(tmp_path, tiny_model(family), [1, 2])
    assert last.sums["sum_kl"] == pytest.approx(0, abs=1e-5)
    assert last.n_correct == last.n_total == 6
    assert inner.sums["sum_kl"] > 1e-4


@pytest.mark.parametrize("family", ["soft-capped", "scaled", "divided", "tied", "projected"])
def test_the_lens_does_what_the_family_does_behind_its_last_block(family: str) -> None:
    """The model's own logits from the stream behind its last block, capped, scaled and projected as they are."""
    model, ids_BT = capped(family), torch.from_numpy(random_pairs(5, 12).base.ids_BT)
    kept: list[torch.Tensor] = []
    handle = model.blocks[-1].register_forward_hook(
        lambda _module, _inputs, output: kept.append(output[0] if isinstance(output, tuple) else output)
    )
    with torch.no_grad():
        wanted = model.model(input_ids=ids_BT, use_cache=False).logits
        handle.remove()
        found = Unembedding(model)(kept[0].flatten(0, 1)).unflatten(0, ids_BT.shape)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_the_measures_are_the_closed_forms(tmp_path: Path) -> None:
    """KL, entropy and cross-entropy by torch's own distributions from the norm and the head called by name."""
    model, pairs = tiny_model("llama"), random_pairs(6, 12)
    (found,) = lens_counts(tmp_path, model, [0], pairs=pairs)
    prompts = states_of(ReferenceEngine(model), pairs, at(POSITION, 0, 2))
    with torch.no_grad():
        ((_, run),) = prompts.runs()
        inner_BD, last_BD = run.at(at(POSITION, 0, 2))
        lens, own = (
            torch.distributions.Categorical(logits=model.model.lm_head(model.model.model.norm(part)))
            for part in (inner_BD, last_BD)
        )
    assert found.sums["sum_kl"] == pytest.approx(float(torch.distributions.kl_divergence(own, lens).sum()), rel=2e-3)
    assert found.sums["sum_entropy"] == pytest.approx(float(lens.entropy().sum()), rel=1e-5)
    target = torch.from_numpy(pairs.base.ids_BT[:, POSITION + 1])
    assert found.sums["sum_label_logprob"] == pytest.approx(float(lens.log_prob(target).sum()), rel=1e-5)
    agreed = lens.logits.argmax(dim=1) == own.logits.argmax(dim=1)
    assert found.n_correct == int(agreed.sum())


def test_the_control_is_the_lens_of_another_prompt(tmp_path: Path) -> None:
    """Behind the last block it is the KL between two prompts' own distributions."""
    model, pairs = tiny_model("llama"), random_pairs(6, 12)
    (found,) = lens_counts(tmp_path, model, [2], pairs=pairs)
    with torch.no_grad():
        logits = model.model(input_ids=torch.from_numpy(pairs.base.ids_BT)).logits[:, POSITION]
    own, other = (torch.distributions.Categorical(logits=part) for part in (logits, logits.roll(1, 0)))
    wanted = float(torch.distributions.kl_divergence(own, other).sum())
    assert found.sums["sum_kl_random"] == pytest.approx(wanted, rel=2e-3)


def test_an_answer_that_nobody_knows_leaves_the_cross_entropy_out(tmp_path: Path) -> None:
    """At the last token the next one is the prompt's answer; a sum with an unknown one is no number."""
    known = random_pairs(6, 12)
    assert known.base_answer_B is None
    (found,) = lens_counts(tmp_path, tiny_model("llama"), [0], pairs=known, position=11)
    assert found.sums["sum_label_logprob"] != found.sums["sum_label_logprob"]
    assert UNKNOWN == -1
