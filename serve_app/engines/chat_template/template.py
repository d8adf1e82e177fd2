"""Chat templates in which what people write can never become a control token.

A template is rendered with an unguessable placeholder for each message's text. The result is cut
at the placeholders, which leaves segments of two kinds: the template's own text, in which the names
of special tokens count, and the messages' text, in which they are just characters. A template that
does anything to a message but place it (and strip it) is refused when the model is loaded.

Templates come with the model, whose hash the operator has pinned, or with the assistant's profile;
clients never supply one. They still run sandboxed and within bounds.
"""

import hashlib
import re
import secrets
from collections.abc import Sequence
from typing import Any, NamedTuple

import jinja2

from serve_app.engines.chat_template.sandbox import (
    TemplateFailed,
    compile_template,
    render_template,
)
from serve_app.engines.protocol import Message
from serve_app.errors import InvalidField, ModelFileError

MAX_TEMPLATE_CHARS = 128 * 1024
_PROBE = "Ñandú \"q\\u0041\"\n  {{ 7*7 }} {% x %} <|a|> & 't' ¡hola!"
"""A text that every escaping, casing or cutting would change."""
_PROBES: tuple[tuple[str, ...], ...] = (
    ("user",),
    ("system", "user"),
    ("user", "assistant", "user"),
    ("system", "user", "assistant", "user"),
)


class Segment(NamedTuple):
    """A piece of a rendered conversation."""

    text: str
    is_template: bool
    """Whether the names of special tokens in it count."""


class ChatTemplate:
    """A compiled template.

    Args:
        source: Jinja2 text.
        bos_token: Text of the begin-of-sequence token, as templates expect it.
        eos_token: Text of the end-of-sequence token.

    Raises:
        ModelFileError: If it is too long, no valid Jinja, fails on a plain question, or changes the
            messages' text.
    """

    def __init__(self, source: str, *, bos_token: str = "", eos_token: str = "") -> None:
        if len(source) > MAX_TEMPLATE_CHARS:
            raise ModelFileError(
                f"the chat template has {len(source)} characters, allowed: {MAX_TEMPLATE_CHARS}"
            )
        self.sha256 = hashlib.sha256(source.encode("utf-8", "replace")).hexdigest()
        self._constants: dict[str, Any] = {
            "bos_token": bos_token,
            "eos_token": eos_token,
            "tools": None,
            "documents": None,
        }
        try:
            self._template = compile_template(source)
        except (jinja2.TemplateError, RecursionError) as error:
            raise ModelFileError(f"the chat template is no valid Jinja: {error}") from error
        self._stripped_roles: set[str] = set()
        self._probe()

    def render(self, messages: Sequence[Message]) -> list[Segment]:
        """Return the conversation as segments, up to where the assistant's answer begins.

        Raises:
            InvalidField: If the template refuses this order of roles.
        """
        contents = [message.content for message in messages]
        roles = [_role(message.role) for message in messages]
        try:
            return self._segments(roles, contents)
        except TemplateFailed as error:
            raise InvalidField(
                f"the model's chat template refuses these messages: {error}", "messages"
            ) from error

    def _segments(self, roles: list[str], contents: list[str]) -> list[Segment]:
        nonce = secrets.token_hex(16)
        places = [f"Carril{nonce}N{i}Z" for i in range(len(contents))]
        rendered = self._run(roles, places)
        segments: list[Segment] = []
        seen = set()
        # one capturing group: `split` gives template text and placeholder numbers in turn
        parts = re.split(f"Carril{nonce}N([0-9]+)Z", rendered)
        for number, part in enumerate(parts):
            if number % 2 == 0:
                text, is_template = part, True
            else:
                seen.add(int(part))
                text, is_template = contents[int(part)], False
                if roles[int(part)] in self._stripped_roles:
                    text = text.strip()
            if text:
                segments.append(Segment(text, is_template))
        if nonce in "".join(segment.text for segment in segments if segment.is_template):
            raise TemplateFailed("it cuts or changes the text of a message")
        if missing := sorted(set(range(len(contents))) - seen):
            raise TemplateFailed(f"it leaves out the text of message {missing[0]}")
        return segments

    def _run(self, roles: list[str], contents: list[str]) -> str:
        messages = [
            {"role": role, "content": content}
            for role, content in zip(roles, contents, strict=True)
        ]
        values = self._constants | {"messages": messages, "add_generation_prompt": True}
        return render_template(self._template, values)

    def _probe(self) -> None:
        # A plain question must work. Other role orders may be refused, but not garbled.
        for roles in _PROBES:
            try:
                self._compare(list(roles))
            except TemplateFailed as error:
                if roles == ("user",):
                    raise ModelFileError(f"the chat template fails: {error}") from error

    def _compare(self, roles: list[str]) -> None:
        contents = [f" {_PROBE} {i} " for i in range(len(roles))]
        plain = self._run(roles, contents)
        for role in set(roles):
            stripped = [
                text.strip() if role == own else text
                for own, text in zip(roles, contents, strict=True)
            ]
            if self._run(roles, stripped) == plain:
                self._stripped_roles.add(role)
        try:
            spliced = "".join(segment.text for segment in self._segments(roles, contents))
        except TemplateFailed as error:
            raise ModelFileError(f"the chat template is not supported: {error}") from error
        if spliced != plain:
            raise ModelFileError(
                "the chat template is not supported: it changes the text of messages "
                f"(roles {roles}), so user text could not be kept apart from control tokens"
            )


def _role(role: str) -> str:
    # "developer" is OpenAI's newer word for "system"; templates know only the old one.
    return "system" if role == "developer" else role
