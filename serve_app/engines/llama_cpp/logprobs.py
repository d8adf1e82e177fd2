"""Log-probabilities from raw logits."""

import numpy as np
from numpy.typing import NDArray

from serve_app.engines.llama_cpp.vocabulary import Vocabulary
from serve_app.engines.protocol import TokenLogprob, TopLogprob


def token_logprob(
    logits: NDArray[np.float32], token: int, n_top: int, vocabulary: Vocabulary
) -> TokenLogprob:
    """Return a token's log-probability and its best rivals, before temperature and penalties.

    Args:
        logits: (n_vocab,) float32, as the model computed them.
        token: The token that was chosen.
        n_top: Candidates to list, best first; clipped to the vocabulary.
        vocabulary: For the texts.
    """
    peak = float(logits.max())
    norm = peak + float(np.log(np.exp(logits - peak, dtype=np.float32).sum(dtype=np.float64)))
    n_top = min(max(n_top, 0), len(logits))
    top: tuple[TopLogprob, ...] = ()
    if n_top:
        best = np.argpartition(logits, -n_top)[-n_top:]
        best = best[np.lexsort((best, -logits[best]))]
        top = tuple(_candidate(int(i), float(logits[i]) - norm, vocabulary) for i in best)
    name = vocabulary.name(token)
    return TokenLogprob(
        token=name.decode("utf-8", "replace"),
        token_bytes=name,
        logprob=float(logits[token]) - norm,
        top=top,
    )


def unpredicted(token: int, vocabulary: Vocabulary) -> TokenLogprob:
    """Return the entry of a prompt's first token, which nothing predicts."""
    name = vocabulary.name(token)
    return TokenLogprob(token=name.decode("utf-8", "replace"), token_bytes=name, logprob=None)


def _candidate(token: int, logprob: float, vocabulary: Vocabulary) -> TopLogprob:
    name = vocabulary.name(token)
    return TopLogprob(token=name.decode("utf-8", "replace"), token_bytes=name, logprob=logprob)
