"""How Dominican an answer sounds, by a lexicon with a cap."""

import re
from functools import cache
from pathlib import Path

_LEXICON_FILE = Path(__file__).with_name("data") / "dominican_lexicon.txt"
MOST_HITS_PER_WORD = 0.35
"""More than every third word from the lexicon is a caricature, once there are three of them."""


def naturalness(response: str) -> float:
    """Return 1 for an answer that uses the lexicon, 0 for one that does not or overdoes it.

    One expression is enough: counting more would reward piling them up.

    Args:
        response: The customer-visible text.
    """
    words = len(re.findall(r"\w+", response))
    hits = sum(1 for _ in _lexicon().finditer(response))
    if not hits or hits > max(2, MOST_HITS_PER_WORD * words):
        return 0.0
    return 1.0


@cache
def _lexicon() -> re.Pattern[str]:
    lines = _LEXICON_FILE.read_text(encoding="utf-8").splitlines()
    entries = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    return re.compile(rf"(?<!\w)(?:{'|'.join(entries)})(?!\w)", re.IGNORECASE)
