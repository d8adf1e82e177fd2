"""What is added to the logits of an answer's first token: opinions from outside the network."""

from collections.abc import Collection, Mapping

import numpy as np
from numpy.typing import NDArray

from experiments.intent_prior.errors import PriorError
from experiments.intent_prior.openings import tokens_that_open
from serve_app.engines.llama_cpp.vocabulary import Vocabulary
from serve_app.errors import ConfigError, EngineFailed


class FirstBias:
    """The bias of one answer.

    Args:
        tokens: (n,) of the vocabulary, none twice.
        values: (n,) float32, what is added to each.
    """

    def __init__(self, tokens: NDArray[np.int64], values: NDArray[np.float32]) -> None:
        self._tokens = tokens
        self._values = values

    def added_to(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return a row of logits with the bias, as new memory: llama.cpp reads its own rows too."""
        biased = logits.copy()
        biased[self._tokens] += self._values
        return biased


class Openings:
    """The tokens that openings are spelled by, each looked up once. Safe from several threads.

    Args:
        vocabulary: Tokens of the model.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._known: dict[str, tuple[int, ...]] = {}

    def learn(self, texts: Collection[str]) -> None:
        """Look up the texts that requests are going to have a bias for.

        Raises:
            ConfigError: If one of them is not spelled by a single token.
        """
        try:
            self._look_up(texts)
        except PriorError as error:
            raise ConfigError(f"intent prior of the profile: {error}; {error.fix}") from error

    def bias(self, wanted: Mapping[str, float]) -> FirstBias:
        """Return a bias by tokens.

        Raises:
            EngineFailed: If a text is not spelled by a single token.
        """
        try:
            self._look_up(wanted.keys() - self._known.keys())
        except PriorError as error:
            raise EngineFailed(str(error)) from error
        pairs = [(token, wanted[text]) for text in wanted for token in self._known[text]]
        tokens, values = zip(*pairs, strict=True) if pairs else ((), ())
        return FirstBias(np.array(tokens, dtype=np.int64), np.array(values, dtype=np.float32))

    def _look_up(self, texts: Collection[str]) -> None:
        if texts:
            self._known |= tokens_that_open(texts, self._vocabulary.pieces)
