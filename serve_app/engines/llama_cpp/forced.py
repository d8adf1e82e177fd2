"""Text that a grammar leaves no choice about, found once per place and then remembered.

The keys, quotes and commas of a fixed schema are known before the model is asked. Their tokens can
be computed in the batch of the token before them, instead of one step each.

llama.cpp does not say what a grammar allows next, so it is asked with one-character tokens: if a
single one passes, that character is forced. This takes some microseconds per character, so the
outcome is kept under the answer's *path*: its bytes so far, without the insides of free strings.
Two answers with the same path go on in the same ways, because what follows a string does not depend
on what is in it. That holds for all schemas but those with `schema.lookalikes`: there nothing is
forced behind an answer's first free string.
"""

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from serve_app.engines.llama_cpp.vocabulary import Vocabulary

_FREE_AT = 94
"""Printable characters allowed inside a free string, at least: all but perhaps the quote. Property
names cannot begin in so many ways (`schema.limits.MAX_PROPERTIES`), and whether the values of an
enum do makes no difference to what follows them."""
_MAX_BYTES = 512
"""Longest forced text that is looked for at once."""
_MAX_SPOTS = 4096
_PRINTABLE = range(0x20, 0x7F)
_LEAD_BYTES = range(0xC2, 0xF5)


class Walk(Protocol):
    """What is asked of a grammar's state."""

    def allowed_of(self, tokens: Sequence[int]) -> list[int]: ...  # noqa: D102
    def accept(self, token: int) -> None: ...  # noqa: D102


class TokenIndex:
    """The tokens of a vocabulary by their bytes; made once per model, some 0.1 s for 128k tokens.

    Args:
        vocabulary: The model's tokens.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        usable = [
            (piece, token)
            for token, piece in enumerate(vocabulary.pieces)
            if piece and token not in vocabulary.unsafe_in_grammar
        ]
        self._sorted = sorted(piece for piece, _ in usable)
        single = {piece[0]: token for piece, token in reversed(usable) if len(piece) == 1}
        self.byte_of = {single[byte]: byte for byte in _PRINTABLE if byte in single}
        """Tokens of one printable ASCII character."""
        lead = [single[byte] for byte in _LEAD_BYTES if byte in single]
        ends = sorted(vocabulary.eog)[:1]
        self.probes: tuple[int, ...] = ()
        """Tokens that between them can start any continuation; empty if the vocabulary has no token
        of its own for some character, so that nothing could be said for certain."""
        if len(self.byte_of) == len(_PRINTABLE) and len(lead) == len(_LEAD_BYTES):
            self.probes = (*self.byte_of, *lead, *ends)

    def tokens(self, text: bytes) -> tuple[int, ...]:
        """Return the tokens of a forced text, as far as the model could not prefer others.

        Where some longer token begins inside the text and goes on behind it, the model may know
        that one better: the text is cut there, and the model asked.

        Args:
            text: Printable ASCII.
        """
        kept: list[int] = []
        rest = text
        for token in self._vocabulary.tokenize(text.decode("ascii"), parse_special=False):
            piece = self._vocabulary.pieces[token]
            if not piece or not rest.startswith(piece) or self._goes_on(rest):
                break
            kept.append(token)
            rest = rest[len(piece) :]
        return tuple(kept)

    def _goes_on(self, text: bytes) -> bool:
        after = bisect_right(self._sorted, text)
        return after < len(self._sorted) and self._sorted[after].startswith(text)


class Spot(NamedTuple):
    """What a grammar says about the next text at some path."""

    tokens: tuple[int, ...]
    """Tokens that must come next; often none."""
    is_free: bool
    """Whether it is the inside of a free string."""


NOTHING = Spot((), is_free=False)


class Spots:
    """Known spots of one grammar, by path. Used by the engine thread only.

    Args:
        index: Tokens of the model.
        lookalikes: Whether what is in a string may decide what follows it.
    """

    def __init__(self, index: TokenIndex, *, lookalikes: bool = False) -> None:
        self.lookalikes = lookalikes
        self._index = index
        self._known: dict[bytes, Spot] = {}

    def get(self, path: bytes) -> Spot | None:
        """Return what is known of a path."""
        return self._known.get(path) if self._index.probes else NOTHING

    def explore(self, path: bytes, walk: Walk) -> Spot:
        """Find out, and remember.

        Args:
            path: Where the walk is.
            walk: A copy of the grammar's state, which is moved.
        """
        text = bytearray()
        allowed = walk.allowed_of(self._index.probes)
        is_free = sum(token in self._index.byte_of for token in allowed) >= _FREE_AT
        while len(allowed) == 1 and len(text) < _MAX_BYTES:
            byte = self._index.byte_of.get(allowed[0])
            if byte is None:  # the end, or a character that is not ASCII
                break
            text.append(byte)
            walk.accept(allowed[0])
            allowed = walk.allowed_of(self._index.probes)
        spot = Spot(self._index.tokens(bytes(text)), is_free)
        if len(self._known) >= _MAX_SPOTS:
            self._known.clear()
        self._known[path] = spot
        return spot


class Path:
    """The bytes of one answer, without the insides of free strings; only their hash is kept."""

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=16)
        self._in_string = False
        self._escaped = False

    @property
    def value(self) -> bytes:
        """A hash of the path so far."""
        return self._hash.digest()

    @property
    def in_string(self) -> bool:
        """Whether the answer is inside a string that was entered by `enter_string`."""
        return self._in_string

    def enter_string(self) -> None:
        """Leave out what comes until the string's closing quote."""
        self._in_string = True
        self._escaped = False

    def add(self, data: bytes) -> None:
        """Append the bytes of a token."""
        if self._in_string:
            end = self._closing_quote(data)
            if end is None:
                return
            self._in_string = False
            data = data[end:]
        self._hash.update(data)

    def _closing_quote(self, data: bytes) -> int | None:
        if not self._escaped and b"\\" not in data:
            end = data.find(b'"')
            return None if end < 0 else end
        for at, byte in enumerate(data):
            if self._escaped:
                self._escaped = False
            elif byte == 0x5C:
                self._escaped = True
            elif byte == 0x22:
                return at
        return None
