"""How many prompts a model is asked before the gate decides."""

from __future__ import annotations

import numpy as np
import pytest

from workers.data.pairs import PromptSet
from workers.data.token_ids import Prompts
from workers.job.gate import gate_result


class Model:
    """Says whether it is right on each prompt, whose number is its first token; counts what it is asked."""

    def __init__(self, right_B: list[bool]) -> None:
        self.right_B, self.asked = np.array(right_B), list[int]()

    def __call__(self, prompts: PromptSet) -> np.ndarray:
        rows = prompts.prompts.ids_BT[:, :1].flatten()
        self.asked += rows.tolist()
        return self.right_B[rows]


def prompts_of(n: int) -> PromptSet:
    """Prompts that are numbered."""
    return PromptSet(prompts=Prompts.of_rows([[number] for number in range(n)]), label_B=np.zeros(n, dtype=np.int64))


def test_a_hopeless_model_is_asked_once() -> None:
    """A third of 1,000 prompts right under a gate of 0.8: 64 prompts, in random order."""
    model = Model([number % 3 == 0 for number in range(1000)])
    found = gate_result(prompts_of(1000), model, threshold=0.8)
    assert (found.n_total, found.n_all, found.is_whole) == (64, 1000, False)
    assert found.accuracy is not None
    assert found.accuracy < 0.5
    assert len(set(model.asked)) == 64
    assert model.asked != sorted(model.asked)


def test_a_model_that_passes_has_the_accuracy_of_all_prompts() -> None:
    """A first look at 64, then every prompt in its order: the counts are those of a gate without a first look."""
    model = Model([number % 10 != 0 for number in range(1000)])
    found = gate_result(prompts_of(1000), model, threshold=0.8)
    assert (found.n_correct, found.n_total, found.is_whole) == (900, 1000, True)
    assert model.asked[-1000:] == list(range(1000))
    assert len(model.asked) <= 1000 + 256


def test_hard_prompts_at_the_beginning_of_a_file_do_not_fail_it() -> None:
    """A file that is sorted by difficulty: the first fifth is wrong, and four fifths are right."""
    found = gate_result(prompts_of(1000), Model([number >= 200 for number in range(1000)]), threshold=0.8)
    assert (found.n_correct, found.is_whole) == (800, True)


@pytest.mark.parametrize("n", [0, 1, 40])
def test_few_prompts_are_all_asked(n: int) -> None:
    """There is nothing to save, and without any prompt no accuracy."""
    found = gate_result(prompts_of(n), Model([False] * max(1, n)), threshold=0.8)
    assert (found.n_total, found.is_whole) == (n, True)
    assert (found.accuracy is None) == (n == 0)


def test_without_a_gate_every_prompt_is_asked() -> None:
    """The accuracy on a further setting's data is never cut short."""
    model = Model([False] * 500)
    assert gate_result(prompts_of(500), model, threshold=0.0).n_total == 500
    assert model.asked == list(range(500))
