"""One forward of some prompts for all that read them."""

from __future__ import annotations

import pytest
import torch

from tests.unit.workers.tiny import at, random_pairs, states_of, tiny_model
from workers.engine.suffix import SuffixEngine
from workers.methods.states import PromptStates

PLACES = at(5, 0, 1, 2)


def states(*, keeps: bool, n_prompts: int = 9) -> PromptStates:
    """Nine prompts, four at a time."""
    engine = SuffixEngine(tiny_model("llama"), places=PLACES)
    return states_of(engine, random_pairs(n_prompts, 8), PLACES, micro_batch=4, keeps=keeps)


def hidden(prompts: PromptStates) -> torch.Tensor:
    """What a pass over the prompts reads at all places."""
    return torch.cat([run.at(PLACES) for _, run in prompts.runs()], dim=1)


def test_a_second_reading_of_the_same_prompts_runs_nothing() -> None:
    """Three batches once; the second pass gives the same activations to the last bit."""
    prompts = states(keeps=True)
    first, n_forwards = hidden(prompts), prompts.n_forwards
    assert n_forwards == 3
    assert torch.equal(hidden(prompts), first)
    assert prompts.n_forwards == 3


def test_what_is_not_kept_is_run_again() -> None:
    """Three batches each time, and the same activations."""
    prompts = states(keeps=False)
    assert torch.equal(hidden(prompts), hidden(prompts))
    assert (prompts.n_forwards, prompts.is_kept) == (6, False)


def test_a_pass_that_was_not_finished_keeps_nothing() -> None:
    """A reader that fails in the middle leaves no half of the activations behind."""
    prompts = states(keeps=True)
    next(iter(prompts.runs()))
    assert not prompts.is_kept
    assert torch.equal(hidden(prompts), hidden(states(keeps=False)))


@pytest.mark.parametrize("n_prompts", [1, 4, 5, 9, 12])
def test_batches_are_even_and_give_every_prompt_once(n_prompts: int) -> None:
    """No batch is of one prompt where another has four."""
    slices = [rows for rows, _ in states(keeps=False, n_prompts=n_prompts).runs()]
    assert [index for rows in slices for index in range(rows.start, rows.stop)] == list(range(n_prompts))
    sizes = [rows.stop - rows.start for rows in slices]
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) <= 4
