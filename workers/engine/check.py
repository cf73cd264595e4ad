"""Whether the suffix engine is exact on a model: tried, not guessed from the architecture's name."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import torch

from workers.engine.base import TokenBatch
from workers.engine.model import LanguageModel
from workers.engine.reference import ReferenceEngine
from workers.engine.suffix import SuffixEngine

_N_TOKENS: Final = 12
_TOLERANCES: Final = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}  # of the logits' largest size


def exact_form(language_model: LanguageModel) -> tuple[LanguageModel | None, str]:
    """The model as the suffix engine gives its logits: with shared keys where it can be, else with its own attention.
    None where neither does, and why."""
    why = why_not_exact(language_model)
    if not why:
        return language_model, ""
    alone = replace(language_model, shares_keys=False)
    return (None, why) if why_not_exact(alone) else (alone, "")


def why_not_exact(language_model: LanguageModel) -> str:
    """Why the suffix engine must not be used on this model; empty where it gives the whole model's logits.

    Two pairs of arbitrary prompts are intervened on in the middle of the model, with and without a prefix.
    """
    vocabulary = language_model.model.get_input_embeddings().num_embeddings
    ids = torch.arange(4 * _N_TOKENS, device=language_model.device).mul(7).remainder(vocabulary).view(4, _N_TOKENS)
    ids[:, :3] = ids[0, :3]
    layer, position = (language_model.n_layers - 1) // 2, _N_TOKENS - 4
    base, source = TokenBatch.of_ids(ids[:2]), TokenBatch.of_ids(ids[2:])
    plain = ReferenceEngine(language_model).forward(base, source)
    try:
        engine = SuffixEngine(language_model, layers=[layer], prefix_P=ids[0, :3])
        fast = engine.forward(base, source)
        with torch.no_grad():
            wanted = plain.intervene(position, [layer], lambda base, source: (base + source) / 2)
            found = fast.intervene(position, [layer], lambda base, source: (base + source) / 2)
    except Exception as error:  # whatever a model that is no plain causal decoder runs into
        return f"{type(error).__name__}: {error}"
    error_size = float((found - wanted).abs().max() / wanted.abs().max())
    if not error_size <= _TOLERANCES[language_model.dtype]:
        return f"its logits differ by {error_size:.1e} of their size"
    return ""
