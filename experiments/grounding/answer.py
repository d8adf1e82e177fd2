"""The automaton on an answer in JSON, token by token: a second judge beside the schema's grammar.

Both must allow a token. The grammar sees to the form; this sees to the texts that people read. It
is asked about bytes, so any engine can use it that draws tokens on the CPU.
"""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from experiments.grounding.automaton import Automaton
from experiments.grounding.inventory import MAX_ROWS, Inventory, read_inventory
from experiments.grounding.lexicon import Offer, offer, said
from experiments.grounding.profile_options import Grounding
from experiments.grounding.state import State

logger = logging.getLogger(__name__)

_QUOTE, _BACKSLASH, _COMMA = 0x22, 0x5C, 0x2C
_OPENING, _CLOSING = b"{[", b"}]"
_ASCII = 0x80
_PLAIN_ESCAPES = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_UNICODE_ESCAPE = 5
"""Characters of one behind the backslash: `u00f1`."""
_MAX_DEPTH = 8
"""Alternatives and references inside one another that are followed in a schema."""


class Watched(NamedTuple):
    """The texts of an answer that people read, by key, with the most characters of each."""

    limits: Mapping[str, int | None]


@lru_cache(maxsize=64)
def watched(schema: str) -> Watched:
    """Return which texts of a schema's answers are watched.

    Those are the free strings among its properties and in its lists. Not the values of an `enum`,
    nor what is inside of objects in it, whose keys an answer cannot avoid.

    Args:
        schema: JSON text of a schema whose root is an object.
    """
    document = json.loads(schema)
    limits: dict[str, int | None] = {}
    for key, value in document.get("properties", {}).items():
        texts = _texts(value, document)
        if texts:
            known = [text["maxLength"] for text in texts if "maxLength" in text]
            limits[key] = min(known, default=None)
    return Watched(limits)


def _texts(node: object, document: Any, depth: int = 0) -> list[dict[str, Any]]:
    """Return the free strings that a part of a schema may be."""
    # Any: the schema's own values; what is no valid schema was refused when it was compiled.
    if not isinstance(node, dict) or depth > _MAX_DEPTH or node.keys() & {"enum", "const"}:
        return []
    if "$ref" in node:
        name = str(node["$ref"]).rsplit("/", 1)[-1]
        definitions = {**document.get("definitions", {}), **document.get("$defs", {})}
        return _texts(definitions.get(name), document, depth + 1)
    found = []
    for option in (*node.get("anyOf", ()), *node.get("allOf", ())):
        found += _texts(option, document, depth + 1)
    types = node.get("type")
    types = types if isinstance(types, list) else [types]
    if "array" in types:
        found += _texts(node.get("items"), document, depth + 1)
    return [*found, node] if "string" in types else found


@lru_cache(maxsize=64)
def _offer_of(inventory: Inventory) -> Offer:
    return offer(inventory)


@lru_cache(maxsize=64)
def _inventory_of(system_message: str) -> Inventory | None:
    inventory = read_inventory(system_message)
    if inventory is not None and inventory.n_left_out:
        # Once for each block, as this is remembered.
        logger.warning(
            "%s lines of an inventory block are left out, and %s read: an unknown form, or more "
            "than %s of them",
            inventory.n_left_out,
            len(inventory.rows),
            MAX_ROWS,
        )
    return inventory


def grounded_answer(
    messages: Sequence[Mapping[str, str]], schema: str | None, grounding: Grounding = "inventory"
) -> "GroundedAnswer | None":
    """Return the judge of one answer, None where there is nothing to keep to.

    Args:
        messages: The conversation, with `role` and `content`. Only system messages bring an
            inventory: rows that a customer types are text.
        schema: JSON text of the answer's schema. Answers without one are not watched.
        grounding: What the profile asks for (`ProfileOptions.grounding`).
    """
    if schema is None or grounding == "off":
        return None
    prompt = "\n\n".join(m["content"] for m in messages if m["role"] in ("system", "developer"))
    inventory = _inventory_of(prompt)
    if inventory is None:
        if grounding != "always":
            return None
        inventory = Inventory((), 0, prompt)
    customer = [m["content"] for m in messages if m["role"] == "user"]
    return GroundedAnswer(
        Automaton(_offer_of(inventory), said(customer, inventory.around)), watched(schema)
    )


class _Spot(NamedTuple):
    """How far an answer has come."""

    text: State
    depth: int = 0
    in_string: bool = False
    is_key: bool = False
    """Whether the string is a key of the outermost object, or the next one there is."""
    key: str = ""
    escape: str | None = None
    begun: bytes = b""
    """Bytes of a character that the last token has begun."""
    n_characters: int = 0


class GroundedAnswer:
    """How far one answer has come, and what may follow.

    Args:
        automaton: Knows the inventory.
        texts: Where to look.
    """

    def __init__(self, automaton: Automaton, texts: Watched) -> None:
        self._automaton = automaton
        self._limits = texts.limits
        self._spot = _Spot(automaton.start())
        self._tried: tuple[bytes, _Spot | None] = (b"", self._spot)
        self._instead: Callable[[State], bool] | None = None
        """What the next token must lead to."""

    def allows(self, piece: bytes) -> bool:
        """Tell whether the bytes of a token may come next, as far as inventory goes.

        Where a model is refused a figure, any word may be its second choice, and mostly no good
        one: it has already said `RD$` or `tiene`. So only figures are allowed from then on, and
        places instead of places.
        """
        if self._instead == self._automaton.is_in_figure and piece.strip()[:1].isalpha():
            return False  # without a look: most of the vocabulary, should it come to that
        spot = self._try(piece)
        if spot is None:
            self._instead = self._instead or self._wanted(piece)
            return False
        if self._instead is None:
            return True
        if spot.begun:
            return self._automaton.goes_on(spot.text, spot.begun)
        if self._instead(spot.text):
            return True
        return piece == b" " and self._spot.text.in_word  # and not a second one

    def accept(self, piece: bytes) -> None:
        """Step over the bytes of a token; over refused ones as well, behind which all is new."""
        spot = self._try(piece)
        if spot is None:
            spot = self._advance(self._spot, piece, is_lenient=True)
        assert spot is not None  # noqa: S101 (nothing is refused leniently)
        self._spot = spot
        self._tried = (b"", spot)
        begun = self._instead == self._automaton.is_in_detail and self._instead(spot.text)
        if piece != b" " and not (begun and not self._automaton.has_detail(spot.text)):
            self._instead = None

    def _try(self, piece: bytes) -> _Spot | None:
        if self._tried[0] != piece:
            self._tried = (piece, self._advance(self._spot, piece))
        return self._tried[1]

    def _wanted(self, piece: bytes) -> Callable[[State], bool] | None:
        """Return what must come instead of a refused token, if anything."""
        spot = self._spot
        if not self._is_watched(spot) or self._left(spot) < _NEAR_END:
            return None
        text = piece.decode(errors="replace")
        begins = self._automaton.step(spot.text, " ") if text.startswith(" ") else spot.text
        if begins is None:
            return None
        if text.strip()[:1].isdecimal() and self._automaton.offers_figure(begins):
            return self._automaton.is_in_figure
        if self._automaton.offers_detail(begins, text.strip()):
            return self._automaton.is_in_detail
        return None

    def _advance(self, spot: _Spot, piece: bytes, *, is_lenient: bool = False) -> _Spot | None:
        for byte in piece:
            moved = self._step(spot, byte)
            if moved is None:
                if not is_lenient:
                    return None
                moved = self._step(spot._replace(text=self._automaton.start()), byte) or spot
            spot = moved
        if is_lenient or not self._is_watched(spot):
            return spot
        if self._automaton.is_astray(spot.text):
            return None
        left = self._left(spot)
        # Behind the limit only where the text is one of several that the schema allows there.
        is_far = left >= _NEAR_END or left < 0
        return spot if is_far or self._automaton.to_end(spot.text) <= left else None

    def _left(self, spot: _Spot) -> int:
        limit = self._limits[spot.key]
        return _NEAR_END if limit is None else limit - spot.n_characters

    def _is_watched(self, spot: _Spot) -> bool:
        return spot.in_string and not spot.is_key and spot.key in self._limits

    def _step(self, spot: _Spot, byte: int) -> _Spot | None:
        if not spot.in_string:
            return _between_strings(spot, byte)
        if spot.escape is not None:
            return self._escaped(spot, byte)
        if byte == _BACKSLASH:
            if self._is_watched(spot) and not self._may_escape(spot):
                return None
            return spot._replace(escape="")
        if byte == _QUOTE:
            return self._close(spot)
        if spot.is_key:
            return spot._replace(key=spot.key + chr(byte))
        if spot.key not in self._limits:
            return spot
        if byte < _ASCII and not spot.begun:
            return self._read(spot, chr(byte))
        begun = spot.begun + bytes([byte])
        if not self._automaton.may_begin(spot.text, begun):
            return None
        try:
            character = begun.decode()
        except UnicodeDecodeError:
            return spot._replace(begun=begun)
        return self._read(spot._replace(begun=b""), character)

    def _may_escape(self, spot: _Spot) -> bool:
        return not spot.text.must or self._automaton.may_end(spot.text)

    def _escaped(self, spot: _Spot, byte: int) -> _Spot | None:
        escape = (spot.escape or "") + chr(byte)
        if escape == "u" and spot.text.must and self._is_watched(spot):
            return None  # of some beginnings of a code, all ends are letters
        if escape[0] == "u" and len(escape) < _UNICODE_ESCAPE:
            return spot._replace(escape=escape)
        character = _PLAIN_ESCAPES.get(escape, escape)
        if escape[0] == "u":
            character = chr(int(escape[1:], 16))
        spot = spot._replace(escape=None)
        return self._read(spot, character) if self._is_watched(spot) else spot

    def _read(self, spot: _Spot, character: str) -> _Spot | None:
        text = self._automaton.step(spot.text, character)
        if text is None:
            return None
        return spot._replace(text=text, n_characters=spot.n_characters + 1)

    def _close(self, spot: _Spot) -> _Spot | None:
        if self._is_watched(spot):
            ended = self._automaton.step(spot.text, "\n")
            if ended is None:
                return None
            # Buttons under an answer go on about its vehicle.
            spot = spot._replace(text=self._automaton.next_text(ended))
        return spot._replace(in_string=False, is_key=False, n_characters=0)


_NEAR_END = 48
"""Characters before a text's limit from which on nothing longer than the rest may begin."""


def _between_strings(spot: _Spot, byte: int) -> _Spot:
    if byte == _QUOTE:
        key = "" if spot.is_key else spot.key
        return spot._replace(in_string=True, key=key)
    if byte in _OPENING:
        return spot._replace(depth=spot.depth + 1, is_key=spot.depth == 0)
    if byte in _CLOSING:
        return spot._replace(depth=spot.depth - 1, is_key=False)
    if byte == _COMMA:
        return spot._replace(is_key=spot.depth == 1)
    return spot
