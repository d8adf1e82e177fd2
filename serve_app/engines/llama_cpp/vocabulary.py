"""Tokens and text: tokenising safely, and the bytes of every token.

The table of pieces is read once, so that turning a token into text later is an index into a list.
"""

import ctypes
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serve_app.engines.llama_cpp.binding import library
from serve_app.engines.llama_cpp.text import is_utf8_fragment
from serve_app.engines.token_table import TokenTable

_CHUNK_CHARS = 8192
"""Text is tokenised in pieces of about this size. Some pre-tokenisers run on `std::regex`, which
recurses once per character of a match and overflows the stack on very long words."""


class Vocabulary(TokenTable):
    """The tokenizer of a loaded model. Safe to use from several threads.

    Args:
        handle: The `llama_vocab` pointer; valid as long as its model is open.
    """

    def __init__(self, handle: Any) -> None:  # a ctypes pointer
        lib = library()
        self._lib = lib
        self._handle = handle
        self.n_tokens = int(lib.llama_vocab_n_tokens(handle))
        self.bos = int(lib.llama_vocab_bos(handle))
        self.eos = int(lib.llama_vocab_eos(handle))
        self.add_bos = bool(lib.llama_vocab_get_add_bos(handle)) and self.bos >= 0
        self._chunked = lib.llama_vocab_type(handle) == lib.LLAMA_VOCAB_TYPE_BPE
        ids = range(self.n_tokens)
        self.eog = frozenset(i for i in ids if lib.llama_vocab_is_eog(handle, i))
        hidden = lib.LLAMA_TOKEN_ATTR_CONTROL | lib.LLAMA_TOKEN_ATTR_UNKNOWN
        hidden |= lib.LLAMA_TOKEN_ATTR_UNUSED
        control = [i for i in ids if lib.llama_vocab_get_attr(handle, i) & hidden]
        self.control = frozenset(control)
        super().__init__([self._piece(i, special=False) for i in ids])
        self._names = {i: self._piece(i, special=True) for i in control}
        # NOTE: llama.cpp's grammar code reads pieces as C strings and trusts continuation bytes
        # inside one token, so a token with a NUL or with broken UTF-8 would pass its checks and
        # still spoil the text. Control tokens would pass as their printed name.
        unsafe = {
            i
            for i, piece in enumerate(self.pieces)
            if not piece or 0 in piece or not is_utf8_fragment(piece)
        }
        self.unsafe_in_grammar = frozenset((unsafe | self.control) - self.eog)
        self.unsafe_in_grammar_ids: NDArray[np.int64] = np.array(
            sorted(self.unsafe_in_grammar), dtype=np.int64
        )

    def name(self, token: int) -> bytes:
        """Return the printed form of a token, control tokens included."""
        return self._names.get(token) or self.pieces[token]

    def _tokenize(self, text: str, parse_special: bool) -> tuple[int, ...]:
        parts = _chunks(text, _CHUNK_CHARS) if self._chunked else [text]
        return tuple(token for part in parts for token in self._tokenize_part(part, parse_special))

    def _tokenize_part(self, text: str, parse_special: bool) -> list[int]:
        data = text.encode("utf-8", "replace")
        room = len(data) + 2
        buffer = (ctypes.c_int32 * room)()
        n = self._lib.llama_tokenize(
            self._handle, data, len(data), buffer, room, False, parse_special
        )
        if n < 0:  # some tokenisers normalise to longer text
            room = -n
            buffer = (ctypes.c_int32 * room)()
            n = self._lib.llama_tokenize(
                self._handle, data, len(data), buffer, room, False, parse_special
            )
        return list(buffer[: max(n, 0)])

    def _piece(self, token: int, *, special: bool) -> bytes:
        buffer = ctypes.create_string_buffer(64)
        n = self._lib.llama_token_to_piece(self._handle, token, buffer, 64, 0, special)
        if n < 0:
            buffer = ctypes.create_string_buffer(-n)
            n = self._lib.llama_token_to_piece(self._handle, token, buffer, -n, 0, special)
        return buffer.raw[: max(n, 0)]


def _chunks(text: str, size: int) -> list[str]:
    # Cut before a space that starts a word: byte-level BPE glues that space to the word, so the
    # ids are the same as without the cut. A run without spaces is cut where it is.
    parts = []
    start = 0
    while len(text) - start > size:
        cut = text.rfind(" ", start + 1, start + size)
        while cut > start and (text[cut - 1].isspace() or text[cut + 1 : cut + 2].isspace()):
            cut = text.rfind(" ", start + 1, cut)
        end = cut if cut > start else start + size
        parts.append(text[start:end])
        start = end
    parts.append(text[start:])
    return parts
