"""A checkpoint's chat template as a frame: the text before and after a user's message, and before the reply.

The template is Jinja, as transformers reads it, rendered in a sandbox. Prompts by the million cannot each be rendered,
so the frame is rendered once, and a template that treats messages differently is refused. The clock is not handed to
the template: a prompt that depends on the day would differ from job to job. Templates that ask whether there is one
(Llama 3) fall back to their fixed date.

Source: transformers, `utils/chat_template_utils.py` (environment, names) and docs "Chat templates".
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from workers.data.model_info import ModelError

_PROBES: Final = ("Is 7 odd?", "x\n\nWhen, 3.10 <b> {y}", "Ünïcode 你好 'q' \"z\"")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatFrame:
    """`before` + message + `behind` is what the model reads, the blanks at the message's ends taken off where `strips`.

    `reply_blank` is what the template puts between that and the reply's first word. `sha256` is the template's.
    """

    before: str
    behind: str
    strips: bool
    reply_blank: str
    sha256: str

    def framed(self, message: str) -> str:
        """What the model reads."""
        return f"{self.before}{message.strip() if self.strips else message}{self.behind}"

    def move(self, message: str) -> tuple[int, int]:
        """The message's first character that stays, and how far the characters move."""
        n_gone = len(message) - len(message.lstrip()) if self.strips else 0
        return n_gone, len(self.before) - n_gone

    def reply(self, answer: str) -> str:
        """The answer as it follows the frame: blanks at its start are the template's matter."""
        return self.reply_blank + answer.strip()


def read_chat_frame(model_path: Path, system: str) -> ChatFrame:
    """The frame that the checkpoint's template makes. Raises: ModelError naming the file and what is expected."""
    path, template, names = _read_template(model_path)
    render = _renderer(path, template, names, system)
    framed = {probe: render(probe) for probe in _PROBES}
    before, found, behind = framed[_PROBES[0]].partition(_PROBES[0])
    if not found or any(text != before + probe + behind for probe, text in framed.items()):
        raise ModelError(f"{path}: its chat template changes the text of messages; write the prompts' frame by hand")
    padded = render(f" {_PROBES[0]} ")
    strips = padded == framed[_PROBES[0]]
    if not strips and padded != f"{before} {_PROBES[0]} {behind}":
        raise ModelError(f"{path}: its chat template changes blanks around messages; write the prompts' frame by hand")
    return ChatFrame(
        before=before,
        behind=behind,
        strips=strips,
        reply_blank=_reply_blank(render, before + _PROBES[0] + behind),
        sha256=hashlib.sha256(template.encode()).hexdigest(),
    )


def _reply_blank(render: Any, prompt: str) -> str:
    """The blanks that the template writes between the prompt and a reply; none where it shows a reply otherwise."""
    try:
        text = render(_PROBES[0], reply="Yes")
    except ModelError:
        return ""
    behind = text.removeprefix(prompt)
    blank, found, _ = behind.partition("Yes")
    return blank if text.startswith(prompt) and found and not blank.strip() else ""


def _read_template(model_path: Path) -> tuple[Path, str, Mapping[str, Any]]:
    """The file that has the template, its text, and the special tokens' texts that it may name."""
    config_path, own_path = model_path / "tokenizer_config.json", model_path / "chat_template.jinja"
    config: Any = {}
    try:
        if config_path.is_file():
            config = json.loads(config_path.read_text(encoding="utf-8"))
        own = own_path.read_text(encoding="utf-8") if own_path.is_file() else None
    except (OSError, ValueError) as error:
        raise ModelError(f"{config_path}: not readable: {error}; save the tokenizer again") from error
    if not isinstance(config, dict):
        raise ModelError(f"{config_path}: got {type(config).__name__}; expected a JSON object")
    names = {
        key: value["content"] if isinstance(value, dict) else value
        for key, value in config.items()
        if key.endswith("_token") and isinstance(value, (str, dict))
    }
    template = config.get("chat_template") if own is None else own
    if isinstance(template, list):  # several, by name
        template = next((one["template"] for one in template if one.get("name") == "default"), None)
    if not isinstance(template, str):
        right = "chat: true needs an instruct model's `chat_template` there, or a chat_template.jinja beside it"
        raise ModelError(f"{config_path}: no chat template; {right}")
    return (config_path if own is None else own_path), template, names


def _renderer(path: Path, template: str, names: Mapping[str, Any], system: str) -> Any:
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False, **options)
    environment.globals["raise_exception"] = _refuse

    def render(message: str, reply: str | None = None) -> str:
        messages = [{"role": "system", "content": system}] if system else []
        messages.append({"role": "user", "content": message})
        if reply is not None:
            messages.append({"role": "assistant", "content": reply})
        try:
            compiled = environment.from_string(template)
            return compiled.render(messages=messages, add_generation_prompt=reply is None, **names)
        except (jinja2.TemplateError, TypeError, ValueError, KeyError) as error:
            kind = "a system message and " if system else ""
            raise ModelError(f"{path}: its chat template fails on {kind}a user's message: {error}") from error

    return render


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)
