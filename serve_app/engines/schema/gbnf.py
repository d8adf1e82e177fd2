"""From a parsed schema to the grammar text that llama.cpp reads.

The answer is compact JSON, keys in the order of the schema: that is what models see in training,
and it leaves a grammar nothing to say about spaces. Every distinct part becomes one rule, so that
shared definitions cost nothing and the size stays linear in the schema's.
"""

import json

from serve_app.engines.schema import limits
from serve_app.engines.schema.nodes import (
    AnyObject,
    AnyOf,
    Array,
    Choice,
    Integer,
    Node,
    Number,
    Object,
    Text,
)
from serve_app.engines.schema.ranges import integer_expression, number_expression
from serve_app.engines.schema.subset import parse_schema
from serve_app.errors import InvalidSchema

_CHARACTER = (
    # Everything but quote, backslash, controls, surrogates and the two non-characters.
    r"[ !#-\[\]-~\u00A0-\uD7FF\uE000-\uFFFD\U00010000-\U0010FFFF]"
    # \u escapes leave surrogates out, so that one escape is always one code point.
    r' | "\\" (["\\/bfnrt] | "u" ([0-9a-cA-CefEF] [0-9a-fA-F]{3} | [dD] [0-7] [0-9a-fA-F]{2}))'
)
_ANY_NUMBER = r'"-"? ("0" | [1-9] [0-9]{0,14}) ("." [0-9]{1,6})?'


def compile_schema(text: str) -> str:
    """Return the grammar of a schema, with the start rule `root`.

    Args:
        text: JSON text of a schema.

    Raises:
        InvalidSchema: If it is outside the subset, or its grammar would be too large.
    """
    compiler = _Compiler()
    root = compiler.rule_of(parse_schema(text))
    return compiler.text(root)


class _Compiler:
    """Collects rules; equal bodies share one."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        self._compiled: dict[int, tuple[Node, str]] = {}
        self._n_repetitions = 0

    def text(self, root: str) -> str:
        lines = [f"root ::= {root}"]
        lines += [f"{name} ::= {body}" for body, name in self._names.items()]
        return "\n".join(lines) + "\n"

    def rule_of(self, node: Node) -> str:
        """Return the name of a node's rule."""
        # By identity, since shared definitions may be reached on very many paths; the node is kept
        # beside its name so that its id stays taken.
        known = self._compiled.get(id(node))
        if known is None:
            known = self._compiled[id(node)] = (node, self._compile(node))
        return known[1]

    def _compile(self, node: Node) -> str:
        match node:
            case Text():
                return self._text(node)
            case Integer():
                return self._rule("integer", integer_expression(node))
            case Number():
                bounded = node.minimum is not None or node.maximum is not None
                return self._rule("number", number_expression(node) if bounded else _ANY_NUMBER)
            case Choice():
                return self._rule("choice", " | ".join(_literal(value) for value in node.values))
            case Array():
                return self._array(node)
            case Object():
                return self._object(node)
            case AnyOf():
                options = dict.fromkeys(self.rule_of(option) for option in node.options)
                return self._rule("any", " | ".join(options))
            case AnyObject():
                return self._any_object(limits.ANY_JSON_DEPTH)

    def _text(self, node: Text) -> str:
        character = self._rule("character", _CHARACTER)
        count = self._repeat(node.min_length, node.max_length)
        body = f'"\\"" {character}{count} "\\""' if node.max_length != 0 else '"\\"\\""'
        return self._rule("string", body)

    def _array(self, node: Array) -> str:
        if node.max_items == 0:
            return self._rule("array", '"[]"')
        item = self.rule_of(node.items)
        more = self._rule("more", f'"," {item}')
        last = None if node.max_items is None else node.max_items - 1
        items = f"{item} {more}{self._repeat(max(node.min_items - 1, 0), last)}"
        if last == 0:
            items = item
        if node.min_items == 0:
            items = f"({items})?"
        return self._rule("array", f'"[" {items} "]"')

    def _object(self, node: Object) -> str:
        # `tail` is what may follow once a key has been written, `head` what may while none has.
        head = tail = '""'
        for entry in reversed(node.properties):
            key = _literal(json.dumps(entry.name, ensure_ascii=False) + ":")
            member = self._rule("member", f"{key} {self.rule_of(entry.value)}")
            begun = f"{member} {tail}"
            if entry.required:
                head = self._rule("head", begun)
                tail = self._rule("tail", f'"," {begun}')
            else:
                head = self._rule("head", f"{begun} | {head}")
                tail = self._rule("tail", f'("," {member})? {tail}')
        return self._rule("object", f'"{{" {head} "}}"')

    def _any_object(self, depth: int) -> str:
        text = self._text(Text())
        number = self._rule("number", _ANY_NUMBER)
        options = [text, number, '"true"', '"false"', '"null"']
        if depth > 1:
            options.append(self._any_object(depth - 1))
        scalar = self._rule("value", " | ".join(options))
        if depth > 1:
            more = self._rule("more", f'"," {scalar}')
            array = self._rule("array", f'"[" ({scalar} {more}*)? "]"')
            scalar = self._rule("value", f"{scalar} | {array}")
        member = self._rule("member", f'{text} ":" {scalar}')
        more = self._rule("more", f'"," {member}')
        return self._rule("object", f'"{{" ({member} {more}*)? "}}"')

    def _repeat(self, low: int, high: int | None) -> str:
        self._n_repetitions += max(low, high or 0)
        if self._n_repetitions > limits.MAX_REPETITIONS:
            raise InvalidSchema(
                "the lengths in the schema add up to more than "
                f"{limits.MAX_REPETITIONS}: lower maxLength and maxItems",
                "response_format",
            )
        return f"{{{low},{'' if high is None else high}}}"

    def _rule(self, kind: str, body: str) -> str:
        if body not in self._names:
            self._names[body] = f"{kind}-{len(self._names)}"
        return self._names[body]


def _literal(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
