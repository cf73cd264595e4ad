"""Pairs that a task draws: built in, or of a user's Python file."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, final

from workers.data.layout import PromptLayout, encode_prompts, read_layout
from workers.data.pairs import Draw, PairSet, PromptSet, as_number, check_drawable, make_pairs, make_prompts
from workers.data.source import AbstractPairSource, Example, Keep
from workers.data.tokenizer import Tokenizer
from workers.data.values import NO_VALUE, value_id
from workers.files.folder import SweepFolder, replace_file
from workers.tasks import AbstractTask, TaskError
from workers.tasks.blame import blamed

_N_DRAWS: Final = 64  # looked at for values that are no numbers
_POOL_FACTOR: Final = 4  # prompts looked at for each pair that keeps to right or wrong answers


@final
class TaskSource(AbstractPairSource):
    """The pairs of `task`. `file` is the user's Python file that defines it, if one does; `form` what the tokenizer
    makes of prompts, as part of the cell key."""

    def __init__(self, task: AbstractTask, tokenizer: Tokenizer, *, file: Path | None, form: dict[str, Any]) -> None:
        self.task, self.name = task, task.name
        self._tokenizer, self._form = tokenizer, form
        self._code = None if file is None else file.read_bytes()
        self._layout = read_layout(task, tokenizer)

    @property
    def variables(self) -> Mapping[str, tuple[str, ...]]:
        """Those of the task's hypotheses."""
        return {name: tuple(hypothesis.variables) for name, hypothesis in self.task.hypotheses.items()}

    def science(self) -> dict[str, Any]:
        """The task's settings, the form of its prompts, and the hash of the user's file."""
        science = self.task.settings() | self._form
        return science if self._code is None else science | {"file_sha256": hashlib.sha256(self._code).hexdigest()}

    def carry(self, folder: SweepFolder) -> None:
        """The user's file as it was planned. Raises: OSError."""
        if self._code is not None:
            target = folder.task_file(self.science()["file_sha256"])
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                replace_file(target, self._code)

    def layout(self, hypothesis: str) -> PromptLayout:
        """That of all prompts of the task. Raises: TaskError."""
        return self._layout

    def unordered(self, hypothesis: str) -> tuple[str, ...]:
        """Those that had a value that is no number in one of some draws. Raises: TaskError."""
        return self._with_a_value(hypothesis, lambda value: math.isnan(as_number(value)))

    def nameless(self, hypothesis: str) -> tuple[str, ...]:
        """Those that had a value that is neither number nor text in one of some draws. Raises: TaskError."""
        return self._with_a_value(hypothesis, lambda value: value_id(value) == NO_VALUE)

    def _with_a_value(self, hypothesis: str, is_one: Callable[[Any], bool]) -> tuple[str, ...]:
        rng, one = random.Random(0), self.task.hypotheses[hypothesis]
        with blamed(self.task):
            runs = [one.model.run(self.task.sample(rng)) for _ in range(_N_DRAWS)]
        return tuple(name for name in one.variables if any(is_one(run[name]) for run in runs))

    def check(self, hypothesis: str, splits: Sequence[str]) -> None:
        """Nothing, where balanced pairs can be drawn and each variable matters. Raises: TaskError."""
        check_drawable(self.task, self.task.hypotheses[hypothesis])

    def pairs(self, hypothesis: str, *, n_pairs: int, split: str, seed: int, keep: Keep | None = None) -> PairSet:
        """Balanced pairs (`workers.data.pairs.make_pairs`). Raises: TaskError."""
        return make_pairs(
            self.task,
            self.task.hypotheses[hypothesis],
            self._tokenizer,
            self._layout,
            n_pairs=n_pairs,
            split=split if keep is None else f"{split} {keep.which}",
            seed=seed,
            draw=None if keep is None else self._draw_kept(keep, n_pairs),
        )

    def _draw_kept(self, keep: Keep, n_pairs: int) -> Draw:
        """A sampling of the prompts that `keep` wants."""
        prompts = self._make_prompts(_POOL_FACTOR * n_pairs, f"pool {keep.which}")
        wanted_B = keep.wants(prompts).tolist()
        pool = [inputs for inputs, wanted in zip(prompts.inputs, wanted_B, strict=True) if wanted]
        if len(pool) < 2:
            raise TaskError(f"the model gives {len(pool)} {keep.which} answers among {len(wanted_B)} prompts")

        def draw(rng: random.Random) -> Mapping[str, Any]:
            return pool[rng.randrange(len(pool))]

        return draw

    def prompts(self, hypothesis: str, *, n_prompts: int) -> PromptSet:
        """Fresh prompts, the same for all hypotheses. Raises: TaskError."""
        return self._make_prompts(n_prompts, "gate")

    def _make_prompts(self, n_prompts: int, split: str) -> PromptSet:
        return make_prompts(self.task, self._tokenizer, self._layout, n_prompts=n_prompts, split=split)

    def example(self, hypothesis: str, number: int) -> Example:
        """The prompt drawn by the generator of that number. Raises: TaskError."""
        task = self.task
        with blamed(task):
            inputs = task.sample(random.Random(number))
            text, answer = task.prompt(inputs), task.answers[task.outcome(inputs)]
            prompts = encode_prompts(task, self._tokenizer, self._layout, [text], [task.positions(inputs)])
        return Example(text=text, prompts=prompts, answer=answer, answers=tuple(task.answers.values()))
