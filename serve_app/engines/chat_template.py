"""Chat templates in which what people write can never become a control token.

A template is rendered with an unguessable placeholder for each message's text. The result is cut
at the placeholders, which leaves segments of two kinds: the template's own text, in which the names
of special tokens count, and the messages' text, in which they are just characters. A template that
does anything to a message but place it (and strip it) is refused when the model is loaded.

Templates come with the model, whose hash the operator has pinned, or with the assistant's profile;
clients never supply one. They still run sandboxed and within bounds.
"""

import hashlib
import json
import re
import secrets
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from serve_app.engines.protocol import Message
from serve_app.errors import InvalidField, ModelFileError

MAX_TEMPLATE_CHARS = 128 * 1024
MAX_OUTPUT_CHARS = 1 << 20
"""Characters that a template may write besides the messages."""
MAX_ITERATIONS = 100_000
"""Turns of all loops of one rendering together."""
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


class TemplateFailed(Exception):
    """The template raised, or went over its bounds."""


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
        self._constants = {
            "bos_token": bos_token,
            "eos_token": eos_token,
            "tools": None,
            "documents": None,
        }
        try:
            self._template = _Environment().compile_bounded(source)
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
        try:
            pieces = self._template.generate(
                messages=messages, add_generation_prompt=True, _budget=_Budget(), **self._constants
            )
            return _bounded_join(pieces)
        except TemplateFailed:
            raise
        except Exception as error:  # templates are code: they may raise whatever Python can
            raise TemplateFailed(str(error) or type(error).__name__) from error

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


class _Budget:
    """Counts the loop turns of one rendering."""

    def __init__(self) -> None:
        self._left = MAX_ITERATIONS

    def spend(self, items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            self._left -= 1
            if self._left < 0:
                raise TemplateFailed(f"more than {MAX_ITERATIONS} loop turns")
            yield item


class _Environment(ImmutableSandboxedEnvironment):
    """The options that Hugging Face templates are written for, with bounded loops and operators."""

    intercepted_binops = frozenset({"*", "**", "+", "%"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _GenerationBlock]
        )
        self.filters["tojson"] = _tojson
        self.filters["_bounded_loop"] = _bounded_loop
        self.filters["_bounded_text"] = _bounded_text
        self.globals["raise_exception"] = _raise_exception
        self.globals["strftime_now"] = _strftime_now

    def compile_bounded(self, source: str) -> jinja2.Template:
        """Compile with a count on every loop turn and a bound on every concatenation."""
        tree = self.parse(source)
        for loop in tree.find_all(nodes.For):
            if not loop.recursive:
                loop.iter = nodes.Filter(loop.iter, "_bounded_loop", [], [], None, None)
        _bound_concatenations(tree)
        return self.from_string(tree)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Refuse operators whose result would be enormous."""
        if operator == "**" or (operator in "*%" and not _is_small(left, right, operator)):
            raise TemplateFailed(f"operator {operator!r} with these values")
        result = super().call_binop(context, operator, left, right)
        return _bounded_text(result)


class _GenerationBlock(Extension):
    """`{% generation %}` marks the assistant's text for training; serving renders it as it is."""

    tags = {"generation"}  # noqa: RUF012 (Jinja's own declaration is a plain set)

    def parse(self, parser: Any) -> nodes.Node | list[nodes.Node]:
        next(parser.stream)
        body: list[nodes.Node] = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return body


def _bound_concatenations(node: nodes.Node) -> None:
    for name, value in list(node.iter_fields()):
        if isinstance(value, nodes.Node):
            _bound_concatenations(value)
            if isinstance(value, nodes.Concat):
                setattr(node, name, nodes.Filter(value, "_bounded_text", [], [], None, None))
        elif isinstance(value, list):
            for i, item in enumerate(value):
                if isinstance(item, nodes.Node):
                    _bound_concatenations(item)
                    if isinstance(item, nodes.Concat):
                        value[i] = nodes.Filter(item, "_bounded_text", [], [], None, None)


@jinja2.pass_context
def _bounded_loop(context: Any, items: Any) -> Any:
    if isinstance(items, jinja2.Undefined):
        return items
    # A list, because templates ask for `loop.last` and `loop.length`.
    return list(context["_budget"].spend(items))


def _bounded_text(value: Any) -> Any:
    if isinstance(value, str | list | tuple) and len(value) > MAX_OUTPUT_CHARS:
        raise TemplateFailed(f"a text of more than {MAX_OUTPUT_CHARS} characters")
    return value


def _bounded_join(pieces: Iterable[str]) -> str:
    parts, n = [], 0
    for piece in pieces:
        n += len(piece)
        if n > MAX_OUTPUT_CHARS:
            raise TemplateFailed(f"more than {MAX_OUTPUT_CHARS} characters of output")
        parts.append(piece)
    return "".join(parts)


def _is_small(left: Any, right: Any, operator: str) -> bool:
    if operator == "%":
        return not isinstance(left, str) or len(left) < 1000
    sizes = [
        value if isinstance(value, int) else len(value)
        for value in (left, right)
        if isinstance(value, int | str | list | tuple)
    ]
    return len(sizes) < 2 or abs(sizes[0] * sizes[1]) <= MAX_OUTPUT_CHARS


def _role(role: str) -> str:
    # "developer" is OpenAI's newer word for "system"; templates know only the old one.
    return "system" if role == "developer" else role


def _tojson(value: Any, indent: int | None = None, ensure_ascii: bool = False) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)


def _raise_exception(message: object) -> None:
    raise TemplateFailed(str(message)[:200])


def _strftime_now(format_: str) -> str:
    return datetime.now().strftime(format_[:100])  # templates mean local time
