"""Failure classes: each carries its policy, and an exit code finds its class again."""

import pickle

import pytest

from workers.files.failure import EXIT_FINISHED, FailureClass


@pytest.mark.parametrize("kind", list(FailureClass))
def test_a_class_survives_its_journeys(kind: FailureClass) -> None:
    """A class is found again by its value and by pickling, policy and all."""
    assert FailureClass(kind.value) is kind
    assert pickle.loads(pickle.dumps(kind)).policy is kind.policy


@pytest.mark.parametrize("kind", [kind for kind in FailureClass if kind.policy.exit_code is not None])
def test_an_exit_code_names_its_class(kind: FailureClass) -> None:
    """The code that a worker ends with stands for its class, or for another that is treated alike."""
    found = FailureClass.of_exit_code(kind.exit_code)
    assert found is not None
    assert (found.retries, found.is_interruption) == (kind.retries, kind.is_interruption)


@pytest.mark.parametrize("code", [EXIT_FINISHED, 1, 2, 127, -9, -6, None])
def test_other_codes_name_no_class(code: int | None) -> None:
    """What is not a worker's own word says nothing of why it ended."""
    assert FailureClass.of_exit_code(code) is None


def test_what_fails_again_is_not_tried_again() -> None:
    """A class that would fail anywhere has no retries, one that another machine may cure has some."""
    tried = {kind for kind in FailureClass if kind.retries}
    assert tried == {
        FailureClass.OUT_OF_MEMORY,
        FailureClass.NODE,
        FailureClass.START,
        FailureClass.PREEMPTED,
        FailureClass.TIMEOUT,
    }
    assert {kind for kind in FailureClass if kind.stops_after} == {
        FailureClass.BUG,
        FailureClass.START,
        FailureClass.SETUP,
    }
