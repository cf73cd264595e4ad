"""What a model that fails the gate says instead of the right answers: notes for whoever has to mend task or model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import numpy as np
import torch

from workers.engine.base import TokenBatch
from workers.engine.model import last_logits
from workers.files.progress import GATE_NOTE

if TYPE_CHECKING:
    from workers.data.pairs import PromptSet
    from workers.job.cohort import Workbench

_N_PROMPTS: Final = 64
_N_SHOWN: Final = 3
_N_TOKENS: Final = 12  # at the prompt's end


@torch.no_grad()
def wrong_answers(bench: Workbench, prompts: PromptSet) -> Iterator[str]:
    """Up to three wrong answers among the first prompts, and the accuracy by template where the task draws one."""
    n_looked_at = min(_N_PROMPTS, len(prompts.label_B))
    if n_looked_at == 0:
        return
    model = bench.language_model
    part = TokenBatch.of(prompts.prompts, model.device).rows(0, n_looked_at)
    said_B = last_logits(model.model, part.reads, input_ids=part.ids_BT, use_cache=False).argmax(dim=-1).cpu().numpy()
    right_B = said_B == prompts.label_B[:n_looked_at]
    piece = bench.tokenizer.piece
    for row in np.flatnonzero(~right_B)[:_N_SHOWN]:
        ids = prompts.prompts.ids_BT[row, : prompts.prompts.length_B[row]]
        end = bench.tokenizer.text(ids[-_N_TOKENS:].tolist())
        said, right = piece(int(said_B[row])), piece(int(prompts.label_B[row]))
        yield f"{GATE_NOTE}...{end!r}: it says {said!r}, {right!r} is right"
    templates = [str(inputs["template"]) for inputs in prompts.inputs[:n_looked_at] if "template" in inputs]
    if len(templates) == n_looked_at and prompts.rest_BN is None:  # only the first token of longer answers was asked
        for template in sorted(set(templates)):
            of_it = right_B[[one == template for one in templates]]
            yield f"{GATE_NOTE}template {template!r}: {int(of_it.sum())} of {len(of_it)} right"
