"""Tiny random hybrid decoders: attention in some layers, and recurrences, state spaces or convolutions in others."""

from __future__ import annotations

import functools
from typing import Any

import torch
import transformers as hf

from workers.engine.model import LanguageModel, wrap_model

_SIZES = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_MAMBA2 = {
    "vocab_size": 97,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "state_size": 8,
    "num_heads": 8,
    "head_dim": 8,
    "n_groups": 1,
    "chunk_size": 8,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1, "mamba_chunk_size": 8}
_LINEAR = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
}
_EVERY_SECOND = ["attention" if layer % 2 else "mamba" for layer in range(4)]

HYBRIDS: dict[str, Any] = {
    "qwen3_next": lambda: hf.Qwen3NextConfig(**_SIZES, **_LINEAR, head_dim=8),
    "mamba2": lambda: hf.Mamba2Config(**_MAMBA2),
    "granitemoehybrid": lambda: hf.GraniteMoeHybridConfig(
        **_SIZES, **_MAMBA, num_local_experts=0, num_experts_per_tok=0, layer_types=_EVERY_SECOND
    ),
    "lfm2": lambda: hf.Lfm2Config(**_SIZES, layer_types=["conv", "full_attention"] * 2),
    "falcon_h1": lambda: hf.FalconH1Config(**_SIZES, **_MAMBA, mamba_d_ssm=64, head_dim=8),
}


@functools.cache
def hybrid_model(family: str) -> LanguageModel:
    """A random model of the family, always the same one. Shared by all tests: leave it as it is."""
    torch.manual_seed(0)
    return wrap_model(hf.AutoModelForCausalLM.from_config(HYBRIDS[family](), attn_implementation="eager"))
