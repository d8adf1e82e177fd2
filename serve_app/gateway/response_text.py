"""Taking the `response` text out of a JSON answer while it is still being written."""

import json
import re

_KEY = "response"
_UNREADABLE = "\ufffd"
"""Shown for an escape that stands for no character."""
_HIGH_SURROGATE = re.compile(r"\\u[dD][89abAB][0-9a-fA-F]{2}")
_LOW_SURROGATE = re.compile(r"\\u[dD][c-fC-F][0-9a-fA-F]{2}")


class ResponseText:
    """Feeds on pieces of a JSON object and yields the text of its top-level `response` as it grows.

    Tolerates truncation: what has arrived is what is returned. Text that is no JSON object yields
    nothing; callers fall back to the raw text.
    """

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = False
        self._raw: list[str] = []
        """Characters of the current string, escapes undecoded."""
        self._escape = ""
        self._last_key: str | None = None
        self._awaits_value = False
        self._capturing = False
        self.found = False
        """Whether a `response` has begun."""

    def feed(self, text: str) -> str:
        """Return what the piece adds to the response text."""
        out: list[str] = []
        for char in text:
            if self._in_string:
                self._string_char(char, out)
            else:
                self._structure_char(char)
        return "".join(out)

    def _structure_char(self, char: str) -> None:
        if char == '"':
            self._in_string = True
            self._raw = []
            if self._depth == 1 and self._awaits_value and self._last_key == _KEY:
                self._capturing = self.found = True
        elif char in "{[":
            self._depth += 1
            self._awaits_value = False
        elif char in "}]":
            self._depth -= 1
        elif char == ":" and self._depth == 1:
            self._awaits_value = True
        elif char == "," and self._depth == 1:
            self._awaits_value = False
            self._last_key = None

    def _string_char(self, char: str, out: list[str]) -> None:
        if self._escape:
            self._escape_char(char, out)
        elif char == "\\":
            self._escape = char
        elif char == '"':
            self._in_string = False
            if self._depth == 1 and not self._awaits_value:
                self._last_key = "".join(self._raw)
            self._capturing = False
        else:
            self._emit(char, out)

    def _escape_char(self, char: str, out: list[str]) -> None:
        awaits_other_half = len(self._escape) in (6, 7)
        if awaits_other_half and char != "\\u"[len(self._escape) - 6]:
            rest, self._escape = self._escape[6:] + char, ""
            self._emit(_UNREADABLE, out)
            for left_over in rest:
                self._string_char(left_over, out)
            return
        self._escape += char
        self._finish_escape(out)

    def _finish_escape(self, out: list[str]) -> None:
        escape = self._escape
        if escape[1] == "u":
            if len(escape) < 6 or (_HIGH_SURROGATE.match(escape) and len(escape) < 12):
                return
            if len(escape) == 12 and not _LOW_SURROGATE.match(escape, 6):
                self._emit(_UNREADABLE, out)
                self._escape = escape[6:]
                self._finish_escape(out)
                return
        self._escape = ""
        try:
            decoded: str = json.loads(f'"{escape}"')
        except json.JSONDecodeError:
            decoded = _UNREADABLE
        self._emit(_UNREADABLE if "\ud800" <= decoded <= "\udfff" else decoded, out)

    def _emit(self, text: str, out: list[str]) -> None:
        if self._capturing:
            out.append(text)
        else:
            self._raw.append(text)


def response_of(answer: str) -> str:
    """Return the `response` of a JSON answer, or the answer itself if it has none."""
    extractor = ResponseText()
    text = extractor.feed(answer)
    return text if extractor.found else answer
