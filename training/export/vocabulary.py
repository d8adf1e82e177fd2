"""What a GGUF file says about a tokenizer, and how a Hugging Face `tokenizer.json` is said so.

llama.cpp has the code of each known way to split text, and a file names the one to run. A tokenizer
whose split it does not know, or that normalises text first, would run with other tokens than it was
trained with, and nobody would be told: such a tokenizer is refused.
"""

import json
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import Tokenizer

from training.answer_tokens import answer_tokens
from training.contract import chat_template
from training.errors import ExportError
from training.tokenizer import BOS, EOT, GGUF_PRE, LLAMA_BPE_SPLIT, SPECIAL_TOKENS, special_id

_QWEN2_SPLIT = LLAMA_BPE_SPLIT.replace(r"\p{N}{1,3}", r"\p{N}")
_BYTE_LEVEL = "ByteLevel"

Json = Any  # JSON of a file that others wrote: looked at with care, key by key


class TokenType(IntEnum):
    """Kinds of tokens, with llama.cpp's numbers."""

    NORMAL = 1
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5


class _Split(NamedTuple):
    """A way to split text before merging, as far as two of them differ."""

    regexes: tuple[str, ...]
    ignore_merges: bool


_PRE_NAMES = {
    _Split((LLAMA_BPE_SPLIT,), True): "llama-bpe",
    _Split((LLAMA_BPE_SPLIT,), False): "dbrx",
    _Split((_QWEN2_SPLIT,), False): "qwen2",
    _Split(("byte-level",), False): "gpt-2",
    _Split(("single digits", "byte-level"), False): "smollm",
}
"""Llama 3, the same split with plain merging, Qwen 2, GPT-2, SmolLM."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufVocabulary:
    """Everything about a tokenizer and its chats that goes into a GGUF file."""

    tokens: tuple[str, ...]
    types: tuple[TokenType, ...]
    merges: tuple[str, ...]
    """Pairs with a space between them, best first."""
    pre: str
    """llama.cpp's name of the split."""
    bos_id: int | None
    eos_id: int
    """Ends an answer."""
    chat_template: str


def profile_vocabulary(tokenizer: Tokenizer) -> GgufVocabulary:
    """Return the vocabulary of a tokenizer of ours, with the profile's chat template."""
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    kinds = dict.fromkeys(SPECIAL_TOKENS, TokenType.CONTROL)
    kinds |= dict.fromkeys(answer_tokens(), TokenType.USER_DEFINED)
    return GgufVocabulary(
        tokens=tuple(token for token, _ in vocabulary),
        types=tuple(kinds.get(token, TokenType.NORMAL) for token, _ in vocabulary),
        merges=_merges(json.loads(tokenizer.to_str())["model"]),
        pre=GGUF_PRE,
        bos_id=special_id(tokenizer, BOS),
        eos_id=special_id(tokenizer, EOT),
        chat_template=chat_template(),
    )


def hf_vocabulary(
    path: Path, *, n_vocab: int, bos: str | None, eos: str, template: str
) -> GgufVocabulary:
    """Return the vocabulary of a `tokenizer.json`.

    Args:
        path: The file.
        n_vocab: Rows of the network's embeddings; places without a token are filled up.
        bos: Token that opens a text, None without one.
        eos: Token that ends an answer.
        template: Chat template to store.

    Raises:
        ExportError: If it is no byte-level BPE that llama.cpp reproduces, or does not fit the
            network; the message names what was found.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        model, added = document["model"], document.get("added_tokens") or []
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise ExportError(f"Cannot use the tokenizer {str(path)!r}: {err}") from err
    pre = _pre_name(document, path)
    ids: dict[str, int] = {**model["vocab"], **{t["content"]: t["id"] for t in added}}
    highest = max(ids.values())
    if highest >= n_vocab:
        raise ExportError(
            f"{path.name} has the token id {highest}, the network only {n_vocab} embeddings"
        )
    tokens = [f"[PAD{i}]" for i in range(n_vocab)]
    types = [TokenType.UNUSED] * n_vocab
    for token, token_id in ids.items():
        tokens[token_id], types[token_id] = token, TokenType.NORMAL
    for token in added:
        types[token["id"]] = TokenType.CONTROL if token["special"] else TokenType.USER_DEFINED
    for token in filter(None, (bos, eos)):
        if token not in ids:
            raise ExportError(f"{path.name} has no token {token!r}")
    return GgufVocabulary(
        tokens=tuple(tokens),
        types=tuple(types),
        merges=_merges(model),
        pre=pre,
        bos_id=None if bos is None else ids[bos],
        eos_id=ids[eos],
        chat_template=template,
    )


def _merges(model: Json) -> tuple[str, ...]:
    # Files of older versions have "a b", newer ones ["a", "b"].
    return tuple(m if isinstance(m, str) else " ".join(m) for m in model["merges"])


def _pre_name(document: Json, path: Path) -> str:
    model = document["model"]
    if model.get("type") != "BPE" or model.get("byte_fallback"):
        kind = f"{model.get('type')}{' with byte fallback' if model.get('byte_fallback') else ''}"
        raise ExportError(f"{path.name} is a {kind} tokenizer; only byte-level BPE is exported")
    if document.get("normalizer") is not None:
        kind = document["normalizer"].get("type")
        raise ExportError(f"{path.name} normalises text ({kind}), which llama.cpp would not do")
    split = _Split(_split_of(document.get("pre_tokenizer")), bool(model.get("ignore_merges")))
    name = _PRE_NAMES.get(split)
    if name is None:
        raise ExportError(
            f"{path.name} splits text in a way that has no known name in llama.cpp: "
            f"{list(split.regexes)}, ignore_merges {split.ignore_merges}; "
            f"known are those of {sorted(_PRE_NAMES.values())}"
        )
    return name


def _split_of(pre_tokenizer: Json) -> tuple[str, ...]:
    """Describe a pre-tokenizer as the regular expressions it splits by, in order."""
    if pre_tokenizer is None:
        return ("nothing",)
    kind = pre_tokenizer.get("type")
    if kind == "Sequence":
        parts = [part for p in pre_tokenizer["pretokenizers"] for part in _split_of(p)]
        return tuple(parts)
    if kind == "Split":
        plain = pre_tokenizer["behavior"] == "Isolated" and not pre_tokenizer["invert"]
        pattern: str | None = pre_tokenizer["pattern"].get("Regex")
        return (pattern if plain and pattern else f"Split {pre_tokenizer}",)
    if kind == "Digits" and pre_tokenizer["individual_digits"]:
        return ("single digits",)
    if kind == _BYTE_LEVEL and not pre_tokenizer["add_prefix_space"]:
        return ("byte-level",) if pre_tokenizer.get("use_regex", True) else ()
    return (f"{kind} {pre_tokenizer}",)
