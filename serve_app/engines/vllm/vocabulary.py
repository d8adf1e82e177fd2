"""The folder's own tokenizer: text to token ids without special tokens by accident, and back.

vLLM is given token ids and gives token ids back. Text is made here from the bytes of every token,
so that characters that span tokens, stop strings and log-probabilities are treated as with
llama.cpp.
"""

import functools
import json
from pathlib import Path
from typing import Any

from serve_app.engines.token_table import TokenTable
from serve_app.engines.vllm.folder import HfFolder
from serve_app.errors import ConfigError, ModelFileError


class HfVocabulary(TokenTable):
    """A byte-level BPE tokenizer. Safe to use from several threads.

    Args:
        folder: Where `tokenizer.json` lies, and what the other files say about it.

    Raises:
        ConfigError: If the package `tokenizers` is missing.
        ModelFileError: If the file is broken, or its tokens are not made of bytes.
    """

    def __init__(self, folder: HfFolder) -> None:
        path = folder.path / "tokenizer.json"
        document = _document(path)
        # Two of them: whether names of special tokens count is a setting of the object.
        self._plain = _open(path)
        self._plain.encode_special_tokens = True
        self._special = _open(path)
        self._special.encode_special_tokens = False
        added = {token["id"]: token for token in document.get("added_tokens") or []}
        self.n_tokens = max(self._plain.get_vocab().values()) + 1
        self.control = frozenset(i for i, token in added.items() if token.get("special"))
        n_ids = max(self.n_tokens, folder.n_vocab)
        self._names = [self._name_bytes(i, i in added) for i in range(n_ids)]
        super().__init__([b"" if i in self.control else n for i, n in enumerate(self._names)])
        self.bos = self._id(folder.bos)
        self.eos = self._id(folder.eos)
        named = {self.eos} if self.eos >= 0 else set()
        self.eog = frozenset(i for i in named | folder.eos_ids if 0 <= i < n_ids)
        if not self.eog:
            raise ModelFileError(
                f"{str(folder.path)!r} names no token that ends an answer: eos_token in "
                "tokenizer_config.json or eos_token_id in generation_config.json"
            )
        opening = self._special.encode("", add_special_tokens=True).ids
        self.add_bos = self.bos >= 0 and opening[:1] == [self.bos]

    def name(self, token: int) -> bytes:
        """Return the printed form of a token, control tokens included."""
        return self._names[token]

    def _tokenize(self, text: str, parse_special: bool) -> tuple[int, ...]:
        tokenizer = self._special if parse_special else self._plain
        clean = text.encode("utf-8", "replace").decode()
        return tuple(tokenizer.encode(clean, add_special_tokens=False).ids)

    def _id(self, name: str) -> int:
        token = self._plain.token_to_id(name) if name else None
        return -1 if token is None else int(token)

    def _name_bytes(self, token: int, is_added: bool) -> bytes:
        text: str | None = self._plain.id_to_token(token)
        if text is None:  # the network has more columns than there are tokens
            return b""
        if is_added:
            return text.encode()
        table = byte_of_character()
        return b"".join(bytes([table[c]]) if c in table else c.encode() for c in text)


@functools.cache
def byte_of_character() -> dict[str, int]:
    """Return the byte that each printable character stands for in byte-level BPE."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {
        chr(256 + i): byte for i, byte in enumerate(others)
    }


def _document(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        decoder = document.get("decoder") or {}
        parts = decoder.get("decoders") or [decoder]
        kinds = [part.get("type") for part in parts]
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise ModelFileError(f"{path} cannot be read: {error}") from error
    if "ByteLevel" not in kinds:
        raise ModelFileError(
            f"{path} decodes with {kinds}; the vllm engine reads byte-level BPE (Llama 3, Qwen, "
            "SmolLM and others), whose decoder is ByteLevel"
        )
    return dict(document)


def _open(path: Path) -> Any:  # tokenizers.Tokenizer, which has no types here
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise ConfigError("the vllm engine needs the package tokenizers: make vllm") from error
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # what the Rust side raises has no class of its own
        raise ModelFileError(f"{path} is no tokenizer: {error}") from error
