"""Principal components: interchange along the k directions in which the hidden states of the prompts vary most.

No variable has a say in them, so each variable of a hypothesis takes over the same k: a baseline for methods that look
for a variable, and a reading vector where one variable is most of what varies.

Source: Zou et al., "Representation Engineering", 2023, section 3.1 (reading vectors); Tigges, Hollinsworth, Geiger,
Nanda, "Linear Representations of Sentiment in Large Language Models", 2023 (interchange along the first component).

Shapes, by suffix: N training prompts, D width of the site, K components, V variables.
"""

from __future__ import annotations

import torch
from torch import Tensor

from workers.methods.activations import fit_on_activations
from workers.methods.alignment import Alignment, CellFacts, Column
from workers.methods.base import FitContext, NotApplicable
from workers.methods.settings import why_not


def fit(context: FitContext) -> list[Column]:
    """The cohort's cells from one pass over the training prompts. Raises: Interrupted, NotApplicable."""
    k = context.settings["k"]
    width = min(group.width for group in context.groups)
    if why := why_not(context.settings, width=width, n_variables=context.n_variables):
        raise NotApplicable(why)
    facts = CellFacts(subspace_dim=k)
    mask_1VK = torch.ones(1, context.n_variables, k, device=context.device)

    def fit_cell(hidden_ND: Tensor) -> tuple[Alignment, CellFacts]:
        return Alignment(principal_components(hidden_ND, k)[None], mask_1VK), facts

    return fit_on_activations(context, fit_cell)


def principal_components(hidden_ND: Tensor, k: int) -> Tensor:
    """components_DK, the one of largest variance first; each one's largest entry is positive."""
    centred_ND = hidden_ND.double() - hidden_ND.double().mean(dim=0)
    _, vectors_DD = torch.linalg.eigh(centred_ND.T @ centred_ND)  # ascending
    components_DK = vectors_DD.flip(1)[:, :k]
    largest_1K = components_DK.gather(0, components_DK.abs().argmax(dim=0, keepdim=True))
    return (components_DK * largest_1K.sign()).float()
