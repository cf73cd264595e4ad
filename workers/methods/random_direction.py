"""Random directions: interchange of a random subspace of k dimensions for each variable. Nothing is learned.

The floor of every method that chooses directions: those of a cell depend on its key alone. It says how much a subspace
of this width takes over whatever its direction is.

Unit: IIA, the share of pairs. Control of its own: another random subspace of the same width, so that the two differ by
chance only.

Source: Arora, Jurafsky, Potts, "CausalGym: Benchmarking Causal Interpretability Methods on Linguistic Tasks", ACL 2024,
section 3.2; `workers.methods.alignment.random_directions`.
"""

from __future__ import annotations

import torch

from workers.methods.alignment import Alignment, CellFacts, Column, part_names, random_rotation, together
from workers.methods.base import FitContext, NotApplicable
from workers.methods.settings import why_not


def fit(context: FitContext) -> list[Column]:
    """The cohort's cells, ready at once. Raises: NotApplicable."""
    k, n_variables = context.settings["k"], context.n_variables
    width = min(group.width // group.n_blocks for group in context.groups)
    if why := why_not(context.settings, width=width, n_variables=n_variables):
        raise NotApplicable(why)
    mask_VK = torch.eye(n_variables, device=context.device).repeat_interleave(k, dim=1)
    context.monitor.advance(cell_steps=len(context.cohort.cells), pairs=0)
    columns = []
    for group in context.groups:
        names, width = part_names(group), group.width // group.n_blocks
        rotations = [random_rotation(name, width, context.device) for name in names]
        directions_CDK = torch.stack(rotations)[:, :, : k * n_variables].contiguous()
        learned = Alignment(directions_CDK, mask_VK.expand(len(names), -1, -1).contiguous())
        if group.n_blocks > 1:
            learned = together(learned)
        facts = CellFacts(subspace_dim=k * n_variables * group.n_blocks)
        columns.append(
            Column(position=group.position, cells=group.cells, learned=learned, facts=(facts,) * len(group.cells))
        )
    return columns
