"""How well a classifier tells the classes of a variable apart, whatever their sizes: from counts by class.

Of class k, t prompts are of it, s are said to be, and c both. With several variables each class of each counts.

    balanced accuracy = mean over k of c / t
    F1                = mean over k of 2 c / (t + s)        (macro average)
    MCC               = (c n - sum t s) / sqrt((n^2 - sum s^2) (n^2 - sum t^2))

with c, t, s summed over the classes as written and n prompts. The last is Matthews' correlation coefficient for two
classes, and its generalisation R_K for more.

Source: Gorodkin, "Comparing two K-category assignments by a K-category correlation coefficient", Comput. Biol. Chem. 28
(2004), 367-374; Brodersen et al., "The balanced accuracy and its posterior distribution", ICPR 2010.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from workers.files.metrics import CLASS_SCORES
from workers.files.shard import CLASS_COLUMNS


def add_class_scores(lines: pd.DataFrame) -> None:
    """Add the columns of `CLASS_SCORES`; NaN where a line has no classes. `chance` is what guessing gives in balanced
    accuracy: the number of variables over that of their classes. `variables` has their names in each line."""
    counts = lines[[*CLASS_COLUMNS, "variables"]].itertuples(index=False)
    found = [_scores(total, said, correct, variables) for total, said, correct, variables in counts]
    for index, name in enumerate(CLASS_SCORES):
        lines[name] = pd.Series([scores[index] for scores in found], index=lines.index, dtype="float64")


def _scores(total: Any, said: Any, correct: Any, variables: Any) -> tuple[float, ...]:
    if not _is_list(total):
        return (math.nan,) * len(CLASS_SCORES)
    return class_scores(total, said, correct, n_variables=len(variables) if _is_list(variables) else 1)


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence | np.ndarray) and not isinstance(value, str) and len(value) > 0


def class_scores(
    total: Sequence[int], said: Sequence[int], correct: Sequence[int], *, n_variables: int
) -> tuple[float, ...]:
    """Chance, balanced accuracy, F1 and MCC of counts by class, those of all variables side by side.

    A class without prompts, and said of none, is left out; where all prompts are of one class, or all said to be, MCC
    is 0.
    """
    t, s, c = (np.asarray(counts, dtype="float64") for counts in (total, said, correct))
    there = t > 0
    balanced = float((c[there] / t[there]).mean())
    either = t + s > 0
    f1 = float((2 * c[either] / (t + s)[either]).mean())
    n = t.sum()
    spread = (n**2 - (s**2).sum()) * (n**2 - (t**2).sum())
    mcc = float((c.sum() * n - (t * s).sum()) / math.sqrt(spread)) if spread > 0 else 0.0
    return n_variables / int(there.sum()), balanced, f1, mcc
