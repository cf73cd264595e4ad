"""Prompts in a checkpoint's chat template: transformers' own tokens, positions and answers where they belong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from tests.unit.workers.data.small_tokenizers import KINDS, byte_level, save
from workers.data.model_info import ModelError
from workers.data.sources import open_source
from workers.data.tokenizer import Tokenizer
from workers.tasks import TaskError

TEMPLATES = {
    "chatml": (
        "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + "
        "'\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    "llama": (  # trims its messages, begins with BOS, asks for the clock where there is one
        "{{ bos_token }}{%- if strftime_now is defined %}{%- set date = strftime_now('%d %b %Y') %}"
        "{%- else %}{%- set date = '26 Jul 2024' %}{%- endif %}"
        "{% for message in messages %}{{ '<|im_start|>' + message['role'] + ' ' + date + '\n\n' + message['content'] | "
        "trim + '<|im_end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n\n' }}{% endif %}"
    ),
    "mistral": (  # no system message; a reply begins with a blank
        "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}{{ '[INST] ' + "
        "message['content'] + ' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'] + "
        "eos_token }}{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}"
        "{% endfor %}"
    ),
}
PROMPT = "When Mary and John went to the store, John gave a drink to"


def chat(folder: Path, template: str, *, kind: str = "byte_level", system: str = "") -> Tokenizer:
    save(KINDS[kind](), folder, chat_template=TEMPLATES[template])
    return Tokenizer.load(folder).in_chat(system)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("template", "system"), [("chatml", ""), ("chatml", "Please answer briefly."), ("llama", ""), ("mistral", "")]
)
def test_tokens_are_those_of_transformers(tmp_path: Path, kind: str, template: str, system: str) -> None:
    """The oracle: apply_chat_template of the same folder, of a plain prompt and of one with blanks at its ends."""
    tokenizer = chat(tmp_path, template, kind=kind, system=system)
    own = AutoTokenizer.from_pretrained(tmp_path)
    if template == "llama":  # transformers hands the clock over, which changes with the day
        own.chat_template = TEMPLATES["llama"].replace("strftime_now is defined", "false")
    for prompt in (PROMPT, f" {PROMPT}\n"):
        messages = [{"role": "system", "content": system}] if system else []
        messages.append({"role": "user", "content": prompt})
        wanted = own.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=False)
        assert tokenizer.encode([prompt]) == [wanted]


@pytest.mark.parametrize("template", TEMPLATES)
def test_positions_count_from_the_messages_own_start(tmp_path: Path, template: str) -> None:
    """`gave` is the token that reads so, in the middle of whatever the template puts around it."""
    tokenizer = chat(tmp_path, template)
    for prompt in (PROMPT, f"  {PROMPT}"):
        rows, places = tokenizer.encode_placed([prompt], [{"verb": prompt.index("gave")}])
        assert tokenizer.piece(int(rows.row(0)[places["verb"][0]])).strip() == "gave"


def test_a_blank_that_the_template_takes_off_is_at_no_token(tmp_path: Path) -> None:
    """The first of two blanks before a message that is trimmed; what is there then is the template's."""
    tokenizer = chat(tmp_path, "llama")
    with pytest.raises(ValueError, match="blank"):
        tokenizer.encode_placed([f"  {PROMPT}"], [{"blank": 0}])
    with pytest.raises(ValueError, match="behind"):
        tokenizer.encode_placed([PROMPT], [{"behind": len(PROMPT)}])


@pytest.mark.parametrize(("template", "piece"), [("chatml", "Mary"), ("llama", "Mary"), ("mistral", " Mary")])
def test_an_answer_follows_as_the_template_writes_a_reply(tmp_path: Path, template: str, piece: str) -> None:
    """` Mary` after a line break is `Mary`; after Mistral's `[/INST]` it keeps a blank."""
    tokenizer = chat(tmp_path, template)
    (prompt,), (answered,) = tokenizer.encode([PROMPT]), tokenizer.encode_answered([PROMPT], [" Mary"])
    assert answered[: len(prompt)] == prompt
    assert "".join(tokenizer.piece(token) for token in answered[len(prompt) :]) == piece


def test_a_folder_without_a_template_is_refused(tmp_path: Path) -> None:
    """The file, and what it lacks."""
    save(byte_level(), tmp_path)
    with pytest.raises(ModelError, match=r"tokenizer_config\.json: no chat template; chat: true needs an instruct"):
        Tokenizer.load(tmp_path).in_chat("")


def test_a_template_that_refuses_a_system_message_is_quoted(tmp_path: Path) -> None:
    """Mistral's own words."""
    with pytest.raises(ModelError, match="fails on a system message and a user's message: Only user and assistant"):
        chat(tmp_path, "mistral", system="Be brief.")


def test_a_template_that_changes_messages_is_refused(tmp_path: Path) -> None:
    """Positions and answers would be guesses."""
    save(byte_level(), tmp_path, chat_template="{{ messages[0]['content'] | upper }}")
    with pytest.raises(ModelError, match="changes the text of messages"):
        Tokenizer.load(tmp_path).in_chat("")


def test_a_template_in_a_file_of_its_own_is_read(tmp_path: Path) -> None:
    """chat_template.jinja, where transformers writes it today, before tokenizer_config.json."""
    save(byte_level(), tmp_path, chat_template="{{ 'old' }}")
    (tmp_path / "chat_template.jinja").write_text(TEMPLATES["chatml"], encoding="utf-8")
    frame = Tokenizer.load(tmp_path).in_chat("").chat
    assert frame is not None
    assert frame.before == "<|im_start|>user\n"


@pytest.fixture
def demo_in_chat(tmp_path: Path, demo_model: Path) -> Path:
    """The demo's tokenizer with a template of words that it knows."""
    (tmp_path / "tokenizer.json").write_bytes((demo_model / "tokenizer.json").read_bytes())
    template = "{{ bos_token }}{% for m in messages %}## {{ m['content'] }}\n{% endfor %}### Response:\n"
    config = {"chat_template": template, "bos_token": "<s>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return tmp_path


def test_every_task_can_be_a_chat(demo_in_chat: Path) -> None:
    """A built-in one: six tokens behind the prompt, and the same answers; the key knows the template."""
    tokenizer = Tokenizer.load(demo_in_chat)
    plain, framed = (
        open_source({"name": "price_tagging"} | chat, tokenizer, None) for chat in ({}, {"chat": True, "system": "Hi"})
    )
    before, behind = plain.layout("left_boundary"), framed.layout("left_boundary")
    assert behind.answer_tokens == before.answer_tokens
    assert behind.n_tokens > before.n_tokens
    assert plain.science() == {key: value for key, value in framed.science().items() if key in plain.science()}
    assert framed.science().keys() - plain.science().keys() == {"chat", "system", "chat_template_sha256"}


def test_a_template_that_changed_since_the_plan_is_refused(demo_in_chat: Path) -> None:
    """What a node finds is what was planned."""
    science = open_source({"name": "price_tagging", "chat": True}, Tokenizer.load(demo_in_chat), None).science()
    open_source(science, Tokenizer.load(demo_in_chat), None)
    (demo_in_chat / "chat_template.jinja").write_text("{{ messages[0]['content'] }}", encoding="utf-8")
    with pytest.raises(TaskError, match=r"chat: the chat template beside .* has changed since the sweep was planned"):
        open_source(science, Tokenizer.load(demo_in_chat), None)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"chat": "yes"}, "chat: got 'yes'; expected true or false"),
        ({"system": "Hi"}, "system: got 'Hi' without `chat: true`"),
    ],
)
def test_a_wrong_setting_is_named(demo_model: Path, settings: dict[str, object], message: str) -> None:
    """Key, value, and what is expected."""
    with pytest.raises(TaskError, match=message):
        open_source({"name": "price_tagging"} | settings, Tokenizer.load(demo_model), None)
