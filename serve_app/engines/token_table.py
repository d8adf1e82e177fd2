"""The tokens of a model as bytes, and text to tokens through whatever tokenizer a subclass has."""

import functools
from abc import ABC, abstractmethod

_CACHED_CHARS = 16_384
_CACHED_SEGMENTS = 256
"""System prompts and template text come again with every request: their tokens are kept."""


class TokenTable(ABC):
    """Tokens and text, the same for every engine. Safe to use from several threads.

    Args:
        pieces: Bytes of every token by its id; control tokens have none.
    """

    def __init__(self, pieces: list[bytes]) -> None:
        self.pieces = pieces
        self.max_piece_bytes = max(1, max(map(len, pieces), default=1))
        self._cached = functools.lru_cache(maxsize=_CACHED_SEGMENTS)(self._tokenize)

    def tokenize(self, text: str, *, parse_special: bool) -> tuple[int, ...]:
        """Return the token ids of a text, without BOS.

        Args:
            text: Any string; lone surrogates become question marks.
            parse_special: Whether the names of special tokens are read as such. Never true for
                text that a user wrote.
        """
        if len(text) <= _CACHED_CHARS:
            return self._cached(text, parse_special)
        return self._tokenize(text, parse_special)

    def text(self, tokens: tuple[int, ...]) -> str:
        """Return the text of tokens, control tokens left out."""
        return b"".join(self.pieces[token] for token in tokens).decode("utf-8", "replace")

    def too_long(self, n_bytes: int, n_ctx: int) -> bool:
        """Tell whether a text of so many bytes cannot fit, before tokenising it."""
        return n_bytes > n_ctx * self.max_piece_bytes

    @abstractmethod
    def _tokenize(self, text: str, parse_special: bool) -> tuple[int, ...]: ...
