"""What `init` proposes for a model and a task: experiments, layers, positions, numbers of pairs."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from orchestrator.drafting.model import NamedModel
from orchestrator.drafting.task_file import ANSWERS, task_text
from orchestrator.errors import SpecError
from workers.data.layout import PromptLayout
from workers.data.model_info import ModelError
from workers.data.source import AbstractPairSource
from workers.data.sources import open_source
from workers.tasks import TASKS, TaskError

_MOST_LAYERS: Final = 8  # all of them up to here; more are spread over the model
_MOST_POSITIONS: Final = 12
_MOST_EXPERIMENTS: Final = 4
_VARYING: Final = ("digit", "*")  # how a layout calls a token in which prompts differ


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskChoice:
    """The `task:` block of the spec, and the file to write beside it, where one is to be written."""

    settings: Mapping[str, Any]
    source: AbstractPairSource
    text: str = ""  # the new task file's


def choose_task(model: NamedModel, wanted: str, file: Path) -> TaskChoice:
    """The task of `--task`: a built-in one's name, a Python file, a file of pairs; without it a new file at `file`.

    Raises: SpecError.
    """
    if not wanted:
        return _new_task(model, file)
    path = Path(wanted)
    if wanted in TASKS:
        settings: dict[str, Any] = {"name": wanted}
    elif not path.exists():
        known = ", ".join(TASKS)
        raise SpecError(f"--task: got {wanted!r}; expected a Python file, a file of pairs, or one of {known}")
    elif path.suffix == ".py":
        settings = {"file": str(path.resolve())}
    else:
        settings = {"name": "pairs", "file": str(path.resolve())}
    try:
        return TaskChoice(settings=settings, source=open_source(settings, model.tokenizer, None))
    except (TaskError, ModelError) as error:
        raise SpecError(f"--task: {wanted}: {error}") from error


def _new_task(model: NamedModel, file: Path) -> TaskChoice:
    """The example task with the first answers that are one token each. Raises: SpecError."""
    reason = ""
    for yes, no in ANSWERS:
        text = task_text(yes, no)
        with tempfile.TemporaryDirectory(prefix="causalsweep-init-") as folder:
            trial = Path(folder) / file.name
            trial.write_text(text, encoding="utf-8")
            try:
                source = open_source({"file": str(trial)}, model.tokenizer, None)
                for hypothesis in source.variables:
                    source.layout(hypothesis)
            except (TaskError, ModelError) as error:
                reason = reason or str(error)
                continue
        return TaskChoice(settings={"file": file.name}, source=source, text=text)
    raise SpecError(f"init: the example task does not fit the model's tokenizer ({reason}); give --task")


def experiments_of(source: AbstractPairSource) -> list[str]:
    """The first hypotheses of the task."""
    return list(source.variables)[:_MOST_EXPERIMENTS]


def layers_of(n_layers: int) -> list[int] | str:
    """All layers of a small model; else some, spread evenly from the first to the last."""
    if n_layers <= _MOST_LAYERS:
        return "all"
    last = _MOST_LAYERS - 1
    return sorted({round(index * (n_layers - 1) / last) for index in range(_MOST_LAYERS)})


def positions_of(layout: PromptLayout) -> list[int | str] | str:
    """From the first token in which prompts differ to the last one, thinned out where these are many; names where
    prompts differ in length."""
    names = [name for name, point in layout.named.items() if not layout.is_index(point)]
    if not layout.is_indexed:
        return list(dict.fromkeys([*names[: _MOST_POSITIONS - 1], "last"]))
    last = layout.n_tokens - 1
    varying = [at for at in range(layout.n_tokens) if layout.tokens[at] in _VARYING]
    first = min(varying, default=max(last - _MOST_POSITIONS + 1, 0))
    if last - first < _MOST_POSITIONS:
        return f"{first}..{last}" if first < last else [last]
    named = [point for point in layout.named.values() if layout.is_index(point)]
    chosen: list[int] = []
    for at in (last, *named, *varying, *range(last - 1, first, -1)):
        if at not in chosen and len(chosen) < _MOST_POSITIONS:
            chosen.append(at)
    return [*sorted(chosen), *names]


def limited(source: AbstractPairSource, experiments: list[str], sizes: Mapping[str, int]) -> dict[str, int]:
    """The numbers of pairs, not more than a file has for any of the experiments."""
    splits = {"n_train": "train", "n_eval": "validation", "n_test": "test"}
    found = dict(sizes)
    for experiment in experiments:
        with contextlib.suppress(TaskError):
            available = source.n_available(experiment)
            found = {key: min(n, available.get(splits[key], n)) for key, n in found.items()}
    return found
