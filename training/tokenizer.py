"""A byte-level BPE tokenizer that llama.cpp reproduces token for token."""

import hashlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from experiments.whole_file import write_whole
from training.answer_tokens import answer_tokens
from training.config import BaseConfig, TokenizerConfig
from training.contract import system_prompt
from training.data.catalog import Split
from training.data.generator import DataConfig, generate, phrases
from training.errors import TrainingError

BOS = "<|begin_of_text|>"
EOS = "<|end_of_text|>"
HEADER_START = "<|start_header_id|>"
HEADER_END = "<|end_header_id|>"
EOT = "<|eot_id|>"
SPECIAL_TOKENS = (BOS, EOS, HEADER_START, HEADER_END, EOT)

ROLES = ("system", "user", "assistant")

GGUF_PRE = "llama-bpe"
"""llama.cpp's name of the split below; it also looks up a whole piece before it merges."""

LLAMA_BPE_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def train_tokenizer(config: TokenizerConfig, *, seed: int) -> Tokenizer:
    """Learn the merges from conversations of every register, the same for every model version.

    Raises:
        TrainingError: If the corpus has too few distinct words for the vocabulary.
    """
    return _train(_corpus(config, seed), config.vocab_size)


def save_tokenizer(tokenizer: Tokenizer, path: Path) -> str:
    """Write a tokenizer and return the SHA-256 of the file."""
    content = tokenizer.to_str(pretty=True).encode()
    write_whole(path, content)
    return hashlib.sha256(content).hexdigest()


def base_tokenizer(base: BaseConfig, *, vocab_size: int) -> Tokenizer:
    """Return the tokenizer of a base; without it, the weights of the base mean nothing.

    Raises:
        TrainingError: If it is missing, another one than the configuration names, or of another
            size than `vocab_size`.
    """
    path = base.folder / "tokenizer.json"
    try:
        content = path.read_bytes()
    except OSError as err:
        raise TrainingError(f"Cannot read the base's {str(path)!r}: {err}; train it first") from err
    actual = hashlib.sha256(content).hexdigest()
    if actual != base.tokenizer_sha256:
        raise TrainingError(
            f"The base's {str(path)!r} has SHA-256 {actual}, the configuration names "
            f"{base.tokenizer_sha256}"
        )
    tokenizer = Tokenizer.from_str(content.decode())
    n_tokens = tokenizer.get_vocab_size()
    if n_tokens != vocab_size:
        raise TrainingError(
            f"The base's {str(path)!r} has {n_tokens} tokens, the configuration's "
            f"tokenizer.vocab_size is {vocab_size}"
        )
    return tokenizer


def special_id(tokenizer: Tokenizer, token: str) -> int:
    """Return the id of a special token.

    Raises:
        TrainingError: If the tokenizer does not have it.
    """
    token_id: int | None = tokenizer.token_to_id(token)
    if token_id is None:
        raise TrainingError(f"The tokenizer has no token {token!r}")
    return token_id


def _train(corpus: Iterable[str], vocab_size: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA_BPE_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    fixed = [AddedToken(text, special=False, normalized=False) for text in answer_tokens()]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(fixed),
        special_tokens=[AddedToken(t, special=True, normalized=False) for t in SPECIAL_TOKENS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    between = re.compile("|".join(map(re.escape, answer_tokens())))
    tokenizer.train_from_iterator(
        (part for text in corpus for part in between.split(text)), trainer
    )
    tokenizer.add_tokens(fixed)
    learnt = tokenizer.get_vocab_size()
    if learnt != vocab_size:
        raise TrainingError(f"The corpus gives {learnt} tokens, vocab_size asks for {vocab_size}")
    return tokenizer


def _corpus(config: TokenizerConfig, seed: int) -> Iterator[str]:
    """Yield what the model reads and writes, one message at a time."""
    # The prompt and the headers are in every conversation: their words should be single tokens.
    yield from [system_prompt(), *(f"{role}\n\n" for role in ROLES)] * 200
    data = DataConfig(seed=seed, n_train=config.n_conversations)
    for conversation in generate(data, Split.TRAIN):
        for message in conversation.messages:
            yield message.content
    for phrase in phrases(data, config.n_phrases):
        yield phrase.text
