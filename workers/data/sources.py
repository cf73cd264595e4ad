"""A spec's `task:` block, or a cell's science parameters, become the source of the pairs."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import fields
from typing import Any, Final

from workers.data.model_info import ModelError
from workers.data.pair_file.settings import NAME as PAIRS
from workers.data.pair_file.settings import PairFileSettings
from workers.data.pair_file.source import FileSource
from workers.data.source import AbstractPairSource
from workers.data.task_source import TaskSource
from workers.data.tokenizer import Tokenizer
from workers.files.folder import SweepFolder
from workers.tasks import TaskError, find_task, make_task

_CHAT_KEYS: Final = ("chat", "system", "chat_template_sha256")


def open_source(settings: Mapping[str, Any], tokenizer: Tokenizer, folder: SweepFolder | None) -> AbstractPairSource:
    """The source that the settings describe; `folder` has the sweep's own copies of a user's files, once it is planned.

    `chat` and `system` may be given beside any task's settings; a user's task with settings of these names keeps them.
    Raises: TaskError naming the key, its value and what is expected.
    """
    if is_pair_file(settings):
        options = {key: value for key, value in settings.items() if key != "name"}
        tokenizer, form = _in_chat(tokenizer, _popped(options, ()))
        return FileSource.open(options, tokenizer, folder, form=form)
    kind, options, file = find_task(_with_own_file(settings, folder))
    tokenizer, form = _in_chat(tokenizer, _popped(options, {field.name for field in fields(kind)}))
    return TaskSource(make_task(kind, options, file), tokenizer, file=file, form=form)


def is_pair_file(settings: Mapping[str, Any]) -> bool:
    """Whether the settings are of a file of pairs, and not of a task; a user's Python file may have one named alike."""
    is_python = "file_sha256" in settings or str(settings.get("file", "")).endswith(".py")
    return settings.get("name") == PAIRS and not is_python


def task_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a spec's `task:` block with the defaults filled in, the file apart. Raises: TaskError."""
    if is_pair_file(settings):
        options = {key: value for key, value in settings.items() if key not in ("name", "file")}
        chat = _popped(options, ())
        return {"name": PAIRS, **PairFileSettings.parse(options).science(), **chat}
    kind, options, file = find_task(settings)
    chat = _popped(options, {field.name for field in fields(kind)})
    return make_task(kind, options, file).settings() | chat


def _popped(options: dict[str, Any], own: Collection[str]) -> dict[str, Any]:
    """The keys of a chat, taken out of `options`, but for the task's `own` settings."""
    return {key: options.pop(key) for key in _CHAT_KEYS if key in options and key not in own}


def _with_own_file(settings: Mapping[str, Any], folder: SweepFolder | None) -> dict[str, Any]:
    """The settings with the sweep's own copy of the user's Python file that defines the task, where one does."""
    digest = settings.get("file_sha256")
    return dict(settings) | ({"file": str(folder.task_file(digest))} if digest and folder else {})


def _in_chat(tokenizer: Tokenizer, chat: Mapping[str, Any]) -> tuple[Tokenizer, dict[str, Any]]:
    """The tokenizer of prompts in this form, and the form's part of a cell key: nothing where none is asked for."""
    wanted, system = chat.get("chat", False), chat.get("system", "")
    if not isinstance(wanted, bool):
        raise TaskError(f"chat: got {wanted!r}; expected true or false")
    if not isinstance(system, str):
        raise TaskError(f"system: got {system!r}; expected text")
    if not wanted:
        if system:
            raise TaskError(f"system: got {system!r} without `chat: true`; a system message is part of a chat")
        return tokenizer, {}
    try:
        framed = tokenizer.in_chat(system)
    except ModelError as error:
        raise TaskError(f"chat: {error}") from error
    assert framed.chat is not None
    found, planned = framed.chat.sha256, chat.get("chat_template_sha256")
    if planned not in (None, found):
        raise TaskError(
            f"chat: the chat template beside {tokenizer.path} has changed since the sweep was planned "
            f"({found[:12]}, planned {planned[:12]}); put the old one back"
        )
    form = {"chat": True, "chat_template_sha256": found}
    return framed, form | ({"system": system} if system else {})
