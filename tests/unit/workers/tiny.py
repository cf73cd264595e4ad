"""Tiny random models and hand-made cohorts for tests of engines and methods."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as hf

from workers.data.pairs import PairSet
from workers.data.token_ids import Prompts
from workers.engine.base import AbstractEngine
from workers.engine.model import LanguageModel, wrap_model
from workers.engine.reference import ReferenceEngine
from workers.engine.sites import SITES, SiteError, n_units, width_of
from workers.engine.suffix import SuffixEngine
from workers.files.job import Cohort, JobCell, Stream
from workers.files.place import AnyPlace, Place
from workers.methods.base import FitContext, Interrupted
from workers.methods.checkpoint import CheckpointFile
from workers.methods.settings import method_settings
from workers.methods.states import PromptStates

_SIZES = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_GROUPED = {**_SIZES, "num_key_value_heads": 2}
_GPT2 = {
    "vocab_size": 97,
    "n_embd": 32,
    "n_layer": 3,
    "n_head": 4,
    "n_positions": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

_GPT_NEO = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_layers": 3,
    "num_heads": 4,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

_NO_MLP = {name: size for name, size in _SIZES.items() if name != "intermediate_size"}
_DEEPSEEK = {
    **_SIZES,
    "num_key_value_heads": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
}
_EXPERTS = {**_GROUPED, "num_experts_per_tok": 2, "moe_intermediate_size": 16}

# A window of 5 tokens, so that sliding attention cuts off earlier positions in prompts of a dozen tokens.
CONFIGS: dict[str, Any] = {
    "llama": lambda: hf.LlamaConfig(**_GROUPED),
    "mistral": lambda: hf.MistralConfig(**_GROUPED, sliding_window=5),
    "qwen2": lambda: hf.Qwen2Config(**_GROUPED),
    "qwen3": lambda: hf.Qwen3Config(**_GROUPED, head_dim=8),
    "gemma2": lambda: hf.Gemma2Config(**_GROUPED, head_dim=8, sliding_window=5),
    "gemma3": lambda: hf.Gemma3TextConfig(**_GROUPED, head_dim=8, sliding_window=5),
    "olmo2": lambda: hf.Olmo2Config(**_GROUPED),
    "gpt_neox": lambda: hf.GPTNeoXConfig(**_SIZES),
    "gpt2": lambda: hf.GPT2Config(**_GPT2),
    "phi3": lambda: hf.Phi3Config(**_GROUPED),
    "stablelm": lambda: hf.StableLmConfig(**_GROUPED),
    "opt": lambda: hf.OPTConfig(**_NO_MLP, ffn_dim=48, word_embed_proj_dim=32),
    "gptj": lambda: hf.GPTJConfig(**_GPT2, rotary_dim=4),
    "codegen": lambda: hf.CodeGenConfig(**_GPT2, rotary_dim=4),
    "gpt_neo": lambda: hf.GPTNeoConfig(**_GPT_NEO, window_size=5, attention_types=[[["global", "local", "local"], 1]]),
    "falcon": lambda: hf.FalconConfig(**_NO_MLP, ffn_hidden_size=48),
    "deepseek_v3": lambda: hf.DeepseekV3Config(**_DEEPSEEK, n_group=1, topk_group=1, first_k_dense_replace=0),
    "mixtral": lambda: hf.MixtralConfig(**_GROUPED, num_local_experts=4),
    "qwen3_moe": lambda: hf.Qwen3MoeConfig(**_EXPERTS, head_dim=8, num_experts=4, output_router_logits=True),
    "qwen2_moe": lambda: hf.Qwen2MoeConfig(**_EXPERTS, num_experts=4, shared_expert_intermediate_size=24),
    "olmoe": lambda: hf.OlmoeConfig(**_GROUPED, num_experts_per_tok=2, num_experts=4),
    "gpt_oss": lambda: hf.GptOssConfig(**_GROUPED, head_dim=8, num_local_experts=4, sliding_window=5),
}
_EAGER_ONLY = ("gemma2", "gptj", "codegen", "gpt_neo", "gpt_oss")
# in some version of transformers that pyproject.toml allows
OWN_ATTENTION = ("gptj", "codegen", "gpt_neo", "falcon", "deepseek_v3")


def tiny_model(family: str, *, attention: str = "sdpa", dtype: torch.dtype = torch.float32) -> LanguageModel:
    """A random model of the family, always the same one."""
    torch.manual_seed(0)
    attention = "eager" if family in _EAGER_ONLY else attention
    model = hf.AutoModelForCausalLM.from_config(CONFIGS[family](), attn_implementation=attention)
    return replace(wrap_model(model.to(dtype)), shares_keys=family not in OWN_ATTENTION)


def random_pairs(n_pairs: int, n_tokens: int, *, n_prefix: int = 0, n_variables: int = 1, seed: int = 0) -> PairSet:
    """Arbitrary prompts that share `n_prefix` first tokens; the variable's value is the parity of the last one."""
    rng = np.random.default_rng(seed)
    base_BT, source_BT = rng.integers(3, 97, (2, n_pairs, n_tokens))
    base_BT[:, :n_prefix] = source_BT[:, :n_prefix] = base_BT[0, :n_prefix]
    return PairSet(
        base=Prompts.of_rows(base_BT),
        source=Prompts.of_rows(source_BT),
        label_B=rng.integers(3, 5, n_pairs),
        variable_B=rng.integers(0, n_variables, n_pairs),
        value_B=(base_BT[:, -1] % 2).astype(np.float64),
    )


def ragged_pairs(n_pairs: int, *, n_prefix: int = 0, n_variables: int = 1, seed: int = 0) -> PairSet:
    """Arbitrary prompts of 8 to 12 tokens that share `n_prefix` first ones, with three points: one before the last
    four tokens, one among them, and the last."""
    rng = np.random.default_rng(seed)
    shared = rng.integers(3, 97, n_prefix)

    def prompts() -> Prompts:
        lengths = rng.integers(8, 13, n_pairs)
        rows = [[*shared, *rng.integers(3, 97, length - n_prefix)] for length in lengths]
        places = np.stack([rng.integers(n_prefix, lengths - 4), lengths - rng.integers(2, 5, n_pairs), lengths - 1])
        return Prompts.of_rows(rows, places.T)

    base = prompts()
    return PairSet(
        base=base,
        source=prompts(),
        label_B=rng.integers(3, 5, n_pairs),
        variable_B=rng.integers(0, n_variables, n_pairs),
        value_B=(base.ids_BT[:, n_prefix] % 2).astype(np.float64),
    )


@functools.cache
def sharp_model(family: str) -> LanguageModel:
    """The tiny model of the family with weights so large that each part of a block is seen in the logits. Shared by all
    tests: leave it as it is."""
    model = tiny_model(family)
    with torch.no_grad():
        for name, weight in model.model.named_parameters():
            if weight.dim() > 1 and "embed" not in name and "lm_head" not in name:
                weight *= 8
    return model


def places_of(model: LanguageModel, position: int) -> dict[str, list[Place]]:
    """Two places of each site that the model has, at different layers, with the first and the last unit."""
    found: dict[str, list[Place]] = {}
    for index, site in enumerate(SITES):
        layers = (0, 0) if site == "embeddings" else (index % 3, (index + 1) % 3)
        with contextlib.suppress(SiteError):
            count = n_units(model, layers[0], site)
            units = (None, None) if count is None else (0, count - 1)
            places = [
                Place(layer=layer, position=position, site=site, unit=unit)
                for layer, unit in zip(layers, units, strict=True)
            ]
            for place in places:
                width_of(model, place)
            found[site] = places
    return found


def at(position: int, *layers: int) -> list[Place]:
    """The outputs of these blocks at a position."""
    return [Place(layer=layer, position=position) for layer in layers]


def make_cohort(
    points: Sequence[tuple[int, int]], *, method: str = "boundless_das", engine: str = "suffix", **settings: Any
) -> Cohort:
    """A cohort of cells at these (layer, position) points, keyed by the point."""
    places = [Place(layer=layer, position=position) for layer, position in points]
    return cohort_at(places, method=method, engine=engine, **settings)


def cohort_at(
    places: Sequence[AnyPlace], *, method: str = "boundless_das", engine: str = "suffix", **settings: Any
) -> Cohort:
    """A cohort of cells at these places, keyed by layer and position, and by site and unit where there are others."""
    stream = Stream(
        model={},
        task={},
        hypothesis="h",
        seed=1,
        data={},
        method=method_settings(method, settings),
        engine=engine,
    )
    cells = tuple(
        JobCell(key=".".join(str(part) for part in place.science().values()), place=place, token="") for place in places
    )
    return Cohort(experiment="h", stream=stream, cells=cells)


class SilentMonitor:
    """Counts steps; stops after `stop_after` of them where that is given."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.n_steps, self.stop_after = 0, stop_after
        self.reports: list[Mapping[str, float]] = []

    @contextlib.contextmanager
    def timed(self, name: str) -> Iterator[None]:
        yield

    def advance(self, *, cell_steps: int, pairs: int) -> None:
        self.n_steps += 1
        if self.n_steps == self.stop_after:
            raise Interrupted

    def resumed(self, *, cell_steps: int) -> None: ...

    def checkpoint_due(self) -> bool:
        return False

    def checkpoint_written(self, seconds: float) -> None: ...

    def report(self, metrics: Mapping[str, float]) -> None:
        self.reports.append(metrics)


def states_of(
    engine: AbstractEngine, pairs: PairSet, places: Sequence[Place], *, micro_batch: int = 64, keeps: bool = False
) -> PromptStates:
    """The activations of the pairs' base prompts at these places, by `engine`."""
    assert isinstance(engine, SuffixEngine | ReferenceEngine)
    model = engine.language_model
    return PromptStates(lambda: engine, pairs, places, model=model, micro_batch=micro_batch, keeps=keeps)


def make_context(
    folder: Path,
    cohort: Cohort,
    language_model: LanguageModel,
    train: PairSet,
    *,
    engine: AbstractEngine | None = None,
    n_variables: int = 1,
    micro_batch: int = 64,
    monitor: SilentMonitor | None = None,
) -> FitContext:
    """What a method's `fit` takes."""
    places = [cell.place for cell in cohort.cells]
    engine = engine or SuffixEngine(language_model, places=places)
    return FitContext(
        cohort=cohort,
        engine=engine,
        states=states_of(engine, train, places, micro_batch=micro_batch),
        width_of=lambda place: width_of(language_model, place),
        variables=tuple("PQR"[:n_variables]),
        train=train,
        validation=train.take(slice(0, 8)),
        device=language_model.device,
        micro_batch=micro_batch,
        checkpoint=CheckpointFile(folder, cohort.key(), "job-0001"),
        monitor=monitor or SilentMonitor(),
    )
