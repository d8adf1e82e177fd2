"""What a second reader made of phrases, who saw the words and `LABELS.md` but no label.

Phrases that are measured on, for development or held out, are only those on which both readings
agree. Those that are trained on have one reading: leaving out or relabelling what two readers
understand differently made no classifier better.
"""

import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

READINGS_FILE = Path(__file__).resolve().parent / "second_reading.tsv"
UNDECIDED = "?"
"""Two intents are equally right without the conversation."""
Phrase = tuple[str, str]
"""First intent and text, as the phrase stands in the files."""


class ReadingCounts(NamedTuple):
    """How the phrases of one split were read."""

    n_phrases: int
    n_read: int
    """Of them, by a second reader."""
    n_agreed: int
    """With the same intent as the first."""
    n_undecided: int
    """Where the second reader found that nobody can tell."""


class ReadingsError(ValueError):
    """The file of the second readings contradicts itself; the message names the line."""


@cache
def second_readings() -> Mapping[Phrase, str]:
    """Return the second intent, or `?`, of every phrase of this package that was read again.

    Raises:
        ReadingsError: If a line is no reading.
    """
    return read_readings(READINGS_FILE)


def read_readings(path: Path) -> dict[Phrase, str]:
    """Read a file of readings: first intent, second intent or `?`, phrase, between tabs.

    Raises:
        ReadingsError: If a line has not three fields, or one phrase was read twice.
    """
    found: dict[Phrase, str] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        fields = line.split("\t")
        if len(fields) != 3:
            raise ReadingsError(
                f"{path.name}:{number}: {len(fields)} fields instead of 3 (first intent, second, "
                "phrase)"
            )
        first, second, text = fields
        if (first, text) in found:
            raise ReadingsError(f"{path.name}:{number}: {text!r} of {first} is there twice")
        found[first, text] = second
    return found


def agree(phrase: Phrase) -> bool:
    """Return whether a second reader gave a phrase the intent of the first."""
    return second_readings().get(phrase) == phrase[0]


def reading_counts(phrases: Sequence[Phrase], readings: Mapping[Phrase, str]) -> ReadingCounts:
    """Count the readings of some phrases."""
    read = [(phrase[0], readings[phrase]) for phrase in phrases if phrase in readings]
    return ReadingCounts(
        n_phrases=len(phrases),
        n_read=len(read),
        n_agreed=sum(first == second for first, second in read),
        n_undecided=sum(second == UNDECIDED for _, second in read),
    )


def unread_phrases(phrases: Sequence[Phrase], readings: Mapping[Phrase, str]) -> list[str]:
    """Return the texts without a second reading, in an order that tells nothing of intents."""
    texts = (text for intent, text in phrases if (intent, text) not in readings)
    return sorted(texts, key=lambda text: hashlib.sha256(text.encode()).hexdigest())
