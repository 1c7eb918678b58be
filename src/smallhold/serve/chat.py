"""From the messages of a chat to the text that the model reads.

A bundle may bring its model's own template: `chat_template.jinja`, or `chat_template` in `tokenizer_config.json`, as
Hugging Face writes them. It is code from elsewhere, so it runs in Jinja's sandbox. A bundle without one gets the plain
form of a dialogue, which a base model at least continues.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from smallhold.decide.local import LocalBundle
from smallhold.errors import BundleError
from smallhold.serve.request_error import RequestError
from smallhold.serve.vocabulary import Vocabulary

TEMPLATE_FILE, CONFIG_FILE = "chat_template.jinja", "tokenizer_config.json"
#: Ends an answer in the plain form: what would begin the other side's next turn.
PLAIN_STOP = "\nUser:"
_TITLES = {"system": "System", "user": "User", "assistant": "Assistant"}


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a chat.

    Attributes:
        role: `system`, `user` or `assistant`.
        content: What was said.
    """

    role: str
    content: str


class ChatForm:
    """How a bundle's model wants to be talked to.

    Args:
        vocabulary: Spells the text.
        source: The template's source; None = the plain form.
        marks: Names that the template may use for the tokens that begin and end a text.

    Raises:
        BundleError: the template is not valid.
    """

    def __init__(self, vocabulary: Vocabulary, source: str | None, marks: Mapping[str, str]) -> None:
        self._vocabulary, self._marks = vocabulary, marks
        self.is_plain = source is None
        self.stops = (PLAIN_STOP,) if self.is_plain else ()
        if source is not None:
            environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
            environment.filters["tojson"] = lambda value, indent=None: json.dumps(
                value, indent=indent, ensure_ascii=False
            )
            environment.globals["raise_exception"] = _refuse
            try:
                self._template = environment.from_string(source)
            except jinja2.TemplateError as error:
                raise BundleError(f"the bundle's chat template is not valid: {error}") from error

    def tokens(self, messages: Sequence[Message]) -> list[int]:
        """The dialogue up to where the assistant's answer begins.

        Raises:
            RequestError: the template refuses the messages, or one of them spells a special token.
        """
        if self.is_plain:
            return self._vocabulary.encode(plain_dialogue(messages))
        for i, message in enumerate(messages):
            if spelled := [word for word in self._vocabulary.special_words if word in message.content]:
                # The template's own marks are read as such, and a message must not be able to end its turn.
                raise RequestError(f"messages[{i}]: spells the special token {spelled[0]!r}", param="messages")
        said = [{"role": message.role, "content": message.content} for message in messages]
        try:
            text = self._template.render(messages=said, add_generation_prompt=True, **self._marks)
        except Exception as error:  # a template is a program and may fail in any way
            problem = f"messages: the bundle's chat template refuses them: {error}"
            raise RequestError(problem, param="messages") from error
        return self._vocabulary.encode_template(text)


def plain_dialogue(messages: Sequence[Message]) -> str:
    r"""The form for a model without a template.

    >>> plain_dialogue([Message("user", "Hello.")])
    'User: Hello.\nAssistant:'
    """
    return "".join(f"{_TITLES[message.role]}: {message.content}\n" for message in messages) + "Assistant:"


def read_template(bundle: LocalBundle) -> tuple[str | None, dict[str, str]]:
    """A bundle's chat template, if it has one, and its `bos_token` and `eos_token`, empty where it names none.

    Raises:
        BundleError: the files cannot be read.
    """
    config: dict[str, Any] = {}
    try:
        if CONFIG_FILE in bundle.manifest.files:
            config = json.loads(bundle.read(CONFIG_FILE))
        source = config.get("chat_template")
        if TEMPLATE_FILE in bundle.manifest.files:
            source = bundle.read(TEMPLATE_FILE).decode()
        marks = {name: config.get(name) for name in ("bos_token", "eos_token")}
    except (ValueError, AttributeError) as error:
        raise BundleError(f"bundle {bundle.manifest.name}: {CONFIG_FILE} cannot be read: {error}") from error
    # A mark is a text, or an object that holds it.
    spelled = {name: mark.get("content", "") if isinstance(mark, dict) else mark or "" for name, mark in marks.items()}
    return (source if isinstance(source, str) else None), spelled


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)
