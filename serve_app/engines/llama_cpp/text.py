"""From token bytes to text that may be sent: whole characters, no part of a stop string."""

import codecs
from typing import NamedTuple


class Piece(NamedTuple):
    """What one token adds to the text that may be sent."""

    text: str
    stopped: bool


class TextStream:
    """Assembles the text of one answer from the bytes of its tokens.

    A character that spans tokens is held back until it is whole. So is the longest end of the text
    that could still become a stop string. Bytes that are no UTF-8 become U+FFFD.

    Args:
        stop: Strings that end the answer; they are not part of it.
    """

    def __init__(self, stop: tuple[str, ...] = ()) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stop = tuple(dict.fromkeys(s for s in stop if s))
        self._held = ""
        self.n_decoded = 0
        """Characters decoded so far, held ones included."""
        self.n_sent = 0
        """Characters handed out so far."""

    @property
    def looks_for_stops(self) -> bool:
        """Whether there are strings that end the text."""
        return bool(self._stop)

    def push(self, data: bytes) -> Piece:
        """Add a token's bytes and return what may be sent now."""
        return self._add(self._decoder.decode(data))

    def finish(self) -> Piece:
        """End the answer and return all that was held back."""
        text, stopped = self._add(self._decoder.decode(b"", final=True))
        if not stopped:
            text += self._held
            self.n_sent += len(self._held)
        self._held = ""
        return Piece(text, stopped)

    def _add(self, new: str) -> Piece:
        self.n_decoded += len(new)
        if not new:
            return Piece("", stopped=False)
        text = self._held + new
        cut = min((i for i in (text.find(s) for s in self._stop) if i >= 0), default=-1)
        if cut >= 0:
            self._held = ""
            self.n_sent += cut
            return Piece(text[:cut], stopped=True)
        keep = max((_overlap(text, s) for s in self._stop), default=0)
        self._held = text[len(text) - keep :]
        sent = text[: len(text) - keep]
        self.n_sent += len(sent)
        return Piece(sent, stopped=False)


def is_utf8_fragment(data: bytes) -> bool:
    """Tell whether bytes could be a slice of valid UTF-8, cut anywhere."""
    start = 0
    while start < min(3, len(data)) and data[start] & 0xC0 == 0x80:
        start += 1
    return is_utf8_start(data[start:])


def is_utf8_start(data: bytes) -> bool:
    """Tell whether bytes could be the start of valid UTF-8, cut anywhere."""
    try:
        codecs.getincrementaldecoder("utf-8")("strict").decode(data)
    except UnicodeDecodeError:
        return False
    return True


def unfinished_tail(data: bytes) -> bytes:
    """Return the bytes of a last character that is not whole; `data` starts valid UTF-8."""
    if data.isascii():
        return b""
    decoder = codecs.getincrementaldecoder("utf-8")("strict")
    decoder.decode(data)
    return decoder.getstate()[0]


def _overlap(text: str, stop: str) -> int:
    # Length of the longest proper prefix of `stop` that `text` ends with.
    for n in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:n]):
            return n
    return 0
