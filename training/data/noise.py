"""Named, seeded transforms that write a phrase the way thumbs do on WhatsApp."""

import re
import unicodedata
from collections.abc import Callable

from training.data.stream import Stream

Transform = Callable[[str, Stream], str]

_NEIGHBOURS = dict(zip("aeionstrcl", "sropmartvk", strict=True))
"""Key that the thumb hits instead."""
_ABBREVIATIONS = {
    "también": "tmb",
    "dónde": "dnd",
    "porque": "pq",
    "para": "pa",
    "está": "ta",
    "estoy": "toy",
}
_EMOJI = ("🙏", "😂", "👍", "🚗", "🔥", "😅", "💯", "🙌", "👀", "🤝")


def drop_accents(text: str, stream: Stream) -> str:  # noqa: ARG001 - all transforms share a signature
    """Write without accents, keeping ñ."""
    return "".join(c if c in "ñÑ" else _base(c) for c in text)


def drop_opening_marks(text: str, stream: Stream) -> str:  # noqa: ARG001
    """Write no ¿ and no ¡."""
    return text.replace("¿", "").replace("¡", "")


def drop_punctuation(text: str, stream: Stream) -> str:  # noqa: ARG001
    """Write no question marks, commas or final stops."""
    return re.sub(r"[¿?¡!,]|\.$", "", text)


def lowercase(text: str, stream: Stream) -> str:  # noqa: ARG001
    """Write in lower case."""
    return text.lower()


def shout(text: str, stream: Stream) -> str:  # noqa: ARG001
    """Write in capitals."""
    return text.upper()


def k_for_que(text: str, stream: Stream) -> str:
    """Write `k` or `q` for que."""
    return re.sub(r"\bqu[eé]\b", stream.choice(["k", "q"]), text, flags=re.IGNORECASE)


def x_for_por(text: str, stream: Stream) -> str:  # noqa: ARG001
    """Write `x` for por."""
    return re.sub(r"\bpor\b", "x", text, flags=re.IGNORECASE)


def ado_to_ao(text: str, stream: Stream) -> str:  # noqa: ARG001
    """Drop the d of -ado and -ada."""
    return re.sub(r"ada\b", "á", re.sub(r"ado\b", "ao", text))


def drop_final_s(text: str, stream: Stream) -> str:
    """Drop the final s of some long words."""
    return re.sub(r"\b(\w{4,})s\b", lambda m: m[1] if stream.percent(60) else m[0], text)


def r_to_l(text: str, stream: Stream) -> str:
    """Write l for r before a consonant or at the end of some words."""
    pattern = r"(?<=[aeiou])r(?=[bcdfgmnpt]|\b)"
    return re.sub(pattern, lambda m: "l" if stream.percent(50) else m[0], text)


def abbreviate(text: str, stream: Stream) -> str:  # noqa: ARG001
    """Write the usual abbreviations."""
    for word, short in _ABBREVIATIONS.items():
        text = re.sub(rf"\b{word}\b", short, text, flags=re.IGNORECASE)
    return text


def swap_letters(text: str, stream: Stream) -> str:
    """Swap two neighbouring letters inside one word."""
    spots = [i for i in range(1, len(text) - 2) if text[i].isalpha() and text[i + 1].isalpha()]
    if not spots:
        return text
    at = stream.choice(spots)
    return text[:at] + text[at + 1] + text[at] + text[at + 2 :]


def wrong_key(text: str, stream: Stream) -> str:
    """Hit the key beside one letter."""
    spots = [i for i, c in enumerate(text) if c in _NEIGHBOURS and i > 0]
    if not spots:
        return text
    at = stream.choice(spots)
    return text[:at] + _NEIGHBOURS[text[at]] + text[at + 1 :]


def lose_letter(text: str, stream: Stream) -> str:
    """Leave out one letter of a longer word."""
    spots = [m.start() + 2 for m in re.finditer(r"[^\W\d_]{5,}", text)]
    if not spots:
        return text
    at = stream.choice(spots)
    return text[:at] + text[at + 1 :]


def stretch(text: str, stream: Stream) -> str:
    """Repeat the last vowel."""
    match = re.search(r"[aeiou](?=\W*$)", text)
    if match is None:
        return text
    return text[: match.end()] + match[0] * (1 + stream.below(3)) + text[match.end() :]


def add_emoji(text: str, stream: Stream) -> str:
    """End with an emoji."""
    return f"{text} {stream.choice(_EMOJI)}"


def lose_words(text: str, stream: Stream, *, percent: int) -> str:
    """Leave out each word with a chance of `percent`, but not all of them."""
    words = text.split(" ")
    kept = [word for word in words if not stream.percent(percent)]
    return " ".join(kept or words)


TRANSFORMS: dict[str, tuple[int, Transform]] = {
    "drop_opening_marks": (45, drop_opening_marks),
    "abbreviate": (10, abbreviate),
    "k_for_que": (8, k_for_que),
    "x_for_por": (8, x_for_por),
    "ado_to_ao": (6, ado_to_ao),
    "drop_final_s": (5, drop_final_s),
    "r_to_l": (4, r_to_l),
    "drop_accents": (45, drop_accents),
    "drop_punctuation": (20, drop_punctuation),
    "lowercase": (30, lowercase),
    "swap_letters": (4, swap_letters),
    "wrong_key": (3, wrong_key),
    "lose_letter": (4, lose_letter),
    "stretch": (2, stretch),
    "shout": (3, shout),
    "add_emoji": (5, add_emoji),
}
"""Name -> (chance in percent, transform), applied in this order."""


def apply_noise(text: str, stream: Stream) -> tuple[str, tuple[str, ...]]:
    """Return the text as somebody might type it, and which transforms changed it."""
    applied = []
    for name, (chance, transform) in TRANSFORMS.items():
        if not stream.percent(chance):
            continue
        noisy = transform(text, stream)
        if noisy != text and noisy.strip():
            text = noisy
            applied.append(name)
    return text, tuple(applied)


def _base(char: str) -> str:
    return unicodedata.normalize("NFD", char)[0]
