"""Text with typed placeholders where personal data was: `<TEL_1>`, `<CEDULA_1>`."""

from experiments.pii.detect import Kind, find


class Redactor:
    """Redacts the texts of one conversation; the same value gets the same placeholder in all.

    Nothing is remembered beyond the object, and no placeholder can be turned back.
    """

    def __init__(self) -> None:
        self._numbers: dict[tuple[Kind, str], int] = {}
        self._counts: dict[Kind, int] = {}

    @property
    def counts(self) -> dict[Kind, int]:
        """How many different values of each kind were seen."""
        return dict(self._counts)

    def redact(self, text: str) -> str:
        """Return the text with placeholders; redacting it again changes nothing."""
        parts: list[str] = []
        done = 0
        for span in find(text):
            parts += [text[done : span.start], self._placeholder(span.kind, span.value)]
            done = span.end
        parts.append(text[done:])
        return "".join(parts)

    def _placeholder(self, kind: Kind, value: str) -> str:
        known = self._numbers.get((kind, value))
        if known is None:
            known = self._counts[kind] = self._counts.get(kind, 0) + 1
            self._numbers[kind, value] = known
        return f"<{kind.value}_{known}>"


def redact(text: str) -> str:
    """Return one text without its personal data."""
    return Redactor().redact(text)
