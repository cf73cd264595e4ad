"""Difference of means: interchange along the line between the mean hidden states of a variable's two classes.

For each variable, over the base prompts of the training pairs that interchange it: w is the mean where its value is
above the cut less the mean where it is not, scaled to length 1. Truth values are cut at 1/2, numbers at their median.
A variable whose values are no numbers, such as names, or any with `classes: each`, has the subspace in which the means
of its values lie, of one dimension less than there are values.

Unit: IIA, the share of pairs. Control of its own: a random direction. It does not show that the direction is the only
one, and where the classes differ by chance in something else, the direction carries that too.

Source: Marks, Tegmark, "The Geometry of Truth", 2023 (the mass-mean direction); Tigges, Hollinsworth, Geiger, Nanda,
"Linear Representations of Sentiment in Large Language Models", 2023 (interchange along it).
"""

from __future__ import annotations

from workers.methods.alignment import Column
from workers.methods.base import FitContext
from workers.methods.directions import difference_of_class_means, fit_directions, means_apart


def fit(context: FitContext) -> list[Column]:
    """The cohort's cells from one pass over the training prompts. Raises: Interrupted, NotApplicable."""
    return fit_directions(context, difference_of_class_means, find_all=means_apart)
