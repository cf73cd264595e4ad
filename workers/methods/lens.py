"""What a lens says of activations: its token distribution beside the model's own at the same token.

Shapes, by suffix: C cells at one position, B prompts, D hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workers.data.pairs import UNKNOWN
from workers.engine.model import Token
from workers.files.place import AnyPlace, Place, single
from workers.methods.reading import Read, Run

LOGITS_AT_ONCE: Final = 2**24  # 64 MiB in float32


def final_logprobs(run: Run, position: int) -> Tensor:
    """logprob_BV: the model's own distribution at each prompt's token."""
    return run.unembed(run.at([final_place(position, run.model.n_layers)])[0]).log_softmax(dim=-1)


def final_place(position: int, n_layers: int) -> Place:
    """Behind the last block: what the model's own distribution at the position is of."""
    return Place(layer=n_layers - 1, position=position)


def read_lens(run: Run, places: Sequence[AnyPlace], hidden_CBD: Tensor) -> Read:
    """The measures of `workers.methods.logit_lens` for a lens that shows the model's head `hidden_CBD`."""
    position = single(places)[0].position
    own_BV = final_logprobs(run, position)
    next_B, is_known_B = next_tokens(run, position)
    n_vocabulary = own_BV.shape[-1]
    step = max(1, LOGITS_AT_ONCE // (n_vocabulary * len(run)))
    parts = [
        _compared(run.unembed(some_CBD.flatten(0, 1)).unflatten(0, some_CBD.shape[:2]), own_BV, next_B)
        for some_CBD in hidden_CBD.split(step)
    ]
    kl_CB, null_CB, entropy_CB, logprob_CB, agrees_CB = (torch.cat(column) for column in zip(*parts, strict=True))
    return Read(
        n_counted=len(run),
        right_CB=agrees_CB,
        means_CB={
            "kl": kl_CB,
            "entropy": entropy_CB,
            "label_logprob": logprob_CB.where(is_known_B, torch.full_like(logprob_CB, torch.nan)),
        },
        null_means_CB={"kl": null_CB},
    )


def _compared(logits_CBV: Tensor, own_BV: Tensor, next_B: Tensor) -> tuple[Tensor, ...]:
    """KL, KL of another prompt's lens, entropy, log-probability of the next token, and agreement, each _CB."""
    lens_CBV = logits_CBV.log_softmax(dim=-1)
    chosen_CB = lens_CBV.gather(2, next_B[None, :, None].expand(len(lens_CBV), -1, 1))[..., 0]
    return (
        kl_between(own_BV, lens_CBV),
        kl_between(own_BV, lens_CBV.roll(1, dims=1)),
        -(lens_CBV.exp() * lens_CBV).nan_to_num().sum(dim=-1),
        chosen_CB,
        lens_CBV.argmax(dim=-1) == own_BV.argmax(dim=-1),
    )


def kl_between(own_BV: Tensor, lens_CBV: Tensor) -> Tensor:
    """KL_CB in nats from the model's distribution to the lens's, both as log-probabilities."""
    return (own_BV.exp() * (own_BV - lens_CBV)).nan_to_num().sum(dim=-1).clamp_min(0)


def next_tokens(run: Run, position: int) -> tuple[Tensor, Tensor]:
    """next_B, the token behind the position, or behind a prompt's last token its answer; and where it is known."""
    prompts = run.prompts
    token_B = each_token(prompts.token_of(position), len(run))
    is_last_B = token_B == prompts.length_B - 1
    ids_BT = prompts.ids_BT.cpu().numpy()
    follow_B = ids_BT[np.arange(len(run)), np.minimum(token_B + 1, ids_BT.shape[1] - 1)]
    answer_B = run.pairs.base_answer_B
    answer_B = np.full(len(run), UNKNOWN) if answer_B is None else answer_B
    next_B = np.where(is_last_B, answer_B, follow_B)
    is_known_B = next_B != UNKNOWN
    device = run.model.device
    return torch.from_numpy(np.where(is_known_B, next_B, 0)).to(device), torch.from_numpy(is_known_B).to(device)


def each_token(token: Token, n_prompts: int) -> NDArray[np.int64]:
    """The token's index in each prompt."""
    return np.full(n_prompts, token) if isinstance(token, int) else token


def is_at_last_token(run: Run, position: int) -> bool:
    """Whether the position is the last token of every prompt."""
    return bool((each_token(run.prompts.token_of(position), len(run)) == run.prompts.length_B - 1).all())
