"""Where tokens lie in a prompt: the demo's against the paper's figure, and prompts that are refused."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from workers.causal_model import CausalModel, Hypothesis
from workers.data.layout import EncodedPrompts, PromptLayout, read_layout
from workers.data.layout import layout_of as shared_layout
from workers.data.model_info import ModelError
from workers.data.token_ids import TokenRows
from workers.data.tokenizer import Tokenizer
from workers.tasks import TaskError, load_task
from workers.tasks.price_tagging import PriceTagging

# Source: Wu et al., NeurIPS 2023, figure 3: positions 69 to 81.
LABELS = ["\n", "digit", ".", "digit", "digit", " dollars", "\n", "\n", "##", "#", " Response", ":", "\n"]


@pytest.fixture(scope="module")
def tokenizer(demo_model: Path) -> Tokenizer:
    """The demo's."""
    return Tokenizer.load(demo_model)


@pytest.fixture(scope="module")
def layout(tokenizer: Tokenizer) -> PromptLayout:
    """The game's, in the demo's tokens."""
    return read_layout(load_task({"name": "price_tagging"}), tokenizer)


def test_the_game_has_82_tokens_with_the_papers_labels(layout: PromptLayout) -> None:
    """Positions 69 to 81, digits as such."""
    assert layout.n_tokens == len(layout.tokens) == 82
    assert list(layout.tokens[69:]) == LABELS


def test_the_common_prefix_ends_before_the_first_number(layout: PromptLayout) -> None:
    """All tokens before the lower bound's first digit are the same in every prompt, and that digit is not."""
    assert layout.tokens[layout.n_prefix] == "digit"
    assert "digit" not in layout.tokens[: layout.n_prefix]
    assert layout.tokens[layout.n_prefix - 2 : layout.n_prefix][0].strip() == "between"


def test_answers_are_token_ids(layout: PromptLayout, tokenizer: Tokenizer) -> None:
    """Yes for inside, No for outside."""
    assert {value: tokenizer.piece(token).strip() for value, token in layout.answer_tokens.items()} == {
        True: "Yes",
        False: "No",
    }


@pytest.mark.parametrize(
    ("label", "wanted"),
    [
        ("Response", [79]),
        (" Response", [79]),
        ("dollars", [74]),
        ("#", [78]),
        ("digit", [70, 72, 73]),
        ("Nonsense", []),
    ],
)
def test_labels_are_found_whatever_blanks_they_have(layout: PromptLayout, label: str, wanted: list[int]) -> None:
    """Every place of the token; here those among the paper's positions."""
    assert [index for index in layout.find(label) if index >= 69] == wanted


def test_a_label_is_found_wherever_it_stands(layout: PromptLayout) -> None:
    """The brackets' dollars and the amount's."""
    assert [layout.tokens[index] for index in layout.find("dollars")] == [" dollars"] * 2


def test_newlines_are_found(layout: PromptLayout) -> None:
    """A label of white space alone names just that token."""
    assert [index for index in layout.find("\n") if index >= 69] == [69, 75, 76, 81]


@dataclass(frozen=True, kw_only=True)
class Wordy(PriceTagging):
    """Now and then a longer prompt."""

    def prompt(self, inputs: Mapping[str, Any]) -> str:
        return super().prompt(inputs).replace("dollars", "dollars and no more") if inputs["Z"] > 900 else "No bracket"


def test_prompts_of_unequal_length_are_shown(tokenizer: Tokenizer) -> None:
    """Both counts and the ends of both prompts, and what to do."""
    with pytest.raises(TaskError, match=r"unequal token count \(\d+ and \d+\): '.*' and '.*'; word the prompt"):
        read_layout(Wordy(), tokenizer)


def test_the_tokens_behind_a_moving_position_are_counted_on_average(tokenizer: Tokenizer) -> None:
    """Prompts of 3 and 6 tokens: a name that lies before two and before three of them, and the last token."""
    encoded = EncodedPrompts.of(TokenRows.of([[5, 6, 7], [5, 6, 7, 8, 9, 10]]), {"name": np.array([1, 3])})
    layout = shared_layout(encoded, tokenizer, {True: [3], False: [4]})
    assert (layout.n_tokens, layout.mean_tokens) == (6, 4.5)
    assert {name: layout.tail_tokens[point] for name, point in layout.named.items()} == {"name": 2.5, "last": 1.0}


class Failing(PriceTagging):
    """Its sampling fails."""

    def sample(self, rng: random.Random) -> dict[str, Any]:
        return {"X": 1}["Y"]


class Undecided(PriceTagging):
    """A hypothesis of its own that takes the ends of the bracket for outside."""

    @property
    def hypotheses(self) -> Mapping[str, Hypothesis]:
        model = CausalModel(P=lambda X, Z: X < Z, answer=lambda P, X, Y: P and X + 100 > Y)
        return {**super().hypotheses, "strict": Hypothesis(name="strict", model=model, variables=("P",))}


def test_an_error_in_a_tasks_code_says_where(tokenizer: Tokenizer) -> None:
    """File, line and function, as a user's file may fail when it is used and not when it is read."""
    with pytest.raises(TaskError, match=r"task 'price_tagging': .*test_layout.py:\d+, sample: KeyError: 'Y'"):
        read_layout(Failing(), tokenizer)


def test_hypotheses_that_disagree_on_the_answer_are_refused(tokenizer: Tokenizer) -> None:
    """Without an intervention all must say the same; the message shows a draw and what each says of it."""
    with pytest.raises(TaskError, match=r"hypotheses disagree on the right answer for .*'strict': False"):
        read_layout(Undecided(), tokenizer)


def test_answers_may_have_several_tokens(tokenizer: Tokenizer) -> None:
    """Each with its own number of them, teacher-forced; what follows the first is kept apart."""
    task = load_task({"name": "price_tagging", "answers_as": ["Yes.", "No"]})
    layout = read_layout(task, tokenizer)
    assert [tokenizer.piece(token) for token in layout.answer(True)] == ["Yes", "."]
    assert [tokenizer.piece(token) for token in layout.answer(False)] == ["No"]
    assert (layout.answer_tokens[True], layout.answer("neither")) == (layout.answer(True)[0], ())
    assert (layout.longest_answer, layout.n_answer_tokens) == (("Yes", "."), 2)


def test_an_answer_of_too_many_tokens_is_refused(tokenizer: Tokenizer) -> None:
    """The message names the answer, the limit and its tokens."""
    task = load_task({"name": "price_tagging", "answers_as": ["Yes" + "." * 16, "No"]})
    with pytest.raises(TaskError, match=r"answer 'Yes\.+' is not one to 16 tokens after the prompt but \['Yes', '\.'"):
        read_layout(task, tokenizer)


def test_an_answer_that_begins_another_is_refused(tokenizer: Tokenizer) -> None:
    """`Yes` and `Yes.`: a model that says the second has said the first."""
    task = load_task({"name": "price_tagging", "answers_as": ["Yes.", "Yes"]})
    with pytest.raises(TaskError, match=r"answer 'Yes\.' begins with the tokens of 'Yes', so no token tells"):
        read_layout(task, tokenizer)


def test_answers_that_are_the_same_token_are_refused(tokenizer: Tokenizer) -> None:
    """Two characters that the vocabulary lacks are one and the same unknown token."""
    task = load_task({"name": "price_tagging", "answers_as": ["€", "¥"]})
    with pytest.raises(TaskError, match=r"answers \['€', '¥'\] are the same tokens; two that differ are needed"):
        read_layout(task, tokenizer)


def test_a_missing_or_broken_tokenizer_is_named(tmp_path: Path) -> None:
    """The file, and how to write it."""
    with pytest.raises(ModelError, match=r"tokenizer.json: missing; write it once with transformers"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"model": 1}')
    with pytest.raises(ModelError, match=r"tokenizer.json: not a tokenizer"):
        Tokenizer.load(tmp_path)


def test_each_character_lies_in_the_token_that_holds_it(tokenizer: Tokenizer) -> None:
    """Every character of a prompt, by name: read back from their tokens, the text is whole and in order."""
    task = load_task({"name": "price_tagging"})
    text = task.prompt(task.sample(random.Random(0)))
    rows, places = tokenizer.encode_placed([text], [{f"c{index}": index for index in range(len(text))}])
    ids = rows.row(0).tolist()
    assert [ids] == tokenizer.encode([text])
    tokens = [int(places[f"c{index}"][0]) for index in range(len(text))]
    assert tokens == sorted(tokens)
    assert "".join(tokenizer.piece(ids[token]) for token in dict.fromkeys(tokens)) == text
    assert tokens[0] == 1  # behind the token that the tokenizer adds
