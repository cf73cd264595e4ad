"""A spec's `task:` block, or a cell's science parameters, become the source of the pairs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Final

from workers.data.model_info import ModelError
from workers.data.source import AbstractPairSource
from workers.data.task_source import TaskSource
from workers.data.tokenizer import Tokenizer
from workers.files.folder import SweepFolder
from workers.tasks import TaskError, find_task, make_task

_CHAT_KEYS: Final = ("chat", "system", "chat_template_sha256")


def open_source(settings: Mapping[str, Any], tokenizer: Tokenizer, folder: SweepFolder | None) -> AbstractPairSource:
    """The source that the settings describe; `folder` has the sweep's own copies of a user's files, once it is planned.

    `chat` and `system` may stand beside any task's settings; a user's task with settings of these names keeps them.
    Raises: TaskError naming the key, its value and what would be right.
    """
    kind, options, file = find_task(_with_own_file(settings, folder))
    own = {field.name for field in fields(kind)}
    chat: dict[str, Any] = {key: options.pop(key) for key in _CHAT_KEYS if key in options and key not in own}
    tokenizer, form = _in_chat(tokenizer, chat)
    return TaskSource(make_task(kind, options, file), tokenizer, file=file, form=form)


def _with_own_file(settings: Mapping[str, Any], folder: SweepFolder | None) -> dict[str, Any]:
    """The settings with the sweep's own copy of the user's Python file that defines the task, where one does."""
    digest = settings.get("file_sha256")
    return dict(settings) | ({"file": str(folder.task_file(digest))} if digest and folder else {})


def _in_chat(tokenizer: Tokenizer, chat: Mapping[str, Any]) -> tuple[Tokenizer, dict[str, Any]]:
    """The tokenizer of prompts in this form, and the form's part of a cell key: nothing where none is asked for."""
    wanted, system = chat.get("chat", False), chat.get("system", "")
    if not isinstance(wanted, bool):
        raise TaskError(f"chat: got {wanted!r}; true or false is right")
    if not isinstance(system, str):
        raise TaskError(f"system: got {system!r}; text is right")
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
