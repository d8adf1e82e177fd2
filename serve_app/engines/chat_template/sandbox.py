"""Jinja with the options of Hugging Face templates, sandboxed and bounded.

The sandbox keeps a template from the interpreter. What it does not stop are loops, products and
concatenations that take for ever or all memory, so these are counted as well.
"""

import json
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

MAX_OUTPUT_CHARS = 1 << 20
"""Characters that a template may write besides the messages."""
MAX_ITERATIONS = 100_000
"""Turns of all loops of one rendering together."""


class TemplateFailed(Exception):
    """The template raised, or went over its bounds."""


def compile_template(source: str) -> jinja2.Template:
    """Compile a template with a count on every loop turn and a bound on every concatenation.

    Raises:
        jinja2.TemplateError: If it is no valid Jinja.
    """
    return _Environment().compile_bounded(source)


def render_template(template: jinja2.Template, values: dict[str, Any]) -> str:
    """Render within the bounds.

    Raises:
        TemplateFailed: Whatever goes wrong.
    """
    try:
        return _bounded_join(template.generate(**values, _budget=_Budget()))
    except TemplateFailed:
        raise
    except Exception as error:  # templates are code: they may raise whatever Python can
        raise TemplateFailed(str(error) or type(error).__name__) from error


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


def _tojson(value: Any, indent: int | None = None, ensure_ascii: bool = False) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)


def _raise_exception(message: object) -> None:
    raise TemplateFailed(str(message)[:200])


def _strftime_now(format_: str) -> str:
    return datetime.now().strftime(format_[:100])  # templates mean local time
