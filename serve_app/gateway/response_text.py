"""Taking the `response` text out of a JSON answer while it is still being written."""

import json

_KEY = "response"


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
            self._escape += char
            self._finish_escape(out)
        elif char == "\\":
            self._escape = char
        elif char == '"':
            self._in_string = False
            if self._depth == 1 and not self._awaits_value:
                self._last_key = "".join(self._raw)
            self._capturing = False
        else:
            self._emit(char, out)

    def _finish_escape(self, out: list[str]) -> None:
        escape = self._escape
        if escape[1] == "u":
            if len(escape) < 6:
                return
            high_surrogate = escape[2:3] in "dD" and escape[3:4] in "89abAB"
            if high_surrogate and len(escape) < 12:
                return
        try:
            decoded = json.loads(f'"{escape}"')
        except json.JSONDecodeError:
            decoded = "\ufffd"
        self._escape = ""
        self._emit(decoded.encode("utf-8", "replace").decode(), out)

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
