"""Drawing the next token of one answer, in C wherever the vocabulary is walked through."""

import ctypes
import math
import secrets
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serve_app.engines.llama_cpp.binding import library
from serve_app.engines.llama_cpp.grammar import CANDIDATE, GrammarWalk, candidate_array
from serve_app.engines.llama_cpp.judged import TokenJudge
from serve_app.engines.protocol import SamplingParams
from serve_app.errors import InvalidField

_RANDOM_SEED = 0xFFFF_FFFF
"""llama.cpp draws its own seed for this value, so it is never passed on."""
_GREEDY_BELOW = 1e-4
"""Temperatures under this are greedy: dividing float32 logits by less overflows."""
_BOUNDS = {
    "temperature": (0.0, 100.0),
    "top_p": (0.0, 1.0),
    "min_p": (0.0, 1.0),
    "frequency_penalty": (-100.0, 100.0),
    "presence_penalty": (-100.0, 100.0),
}
_FIRST_TRY = 64
"""Best candidates that a greedy answer offers its grammar before the whole vocabulary ..."""
_ONE_BY_ONE = 4
"""... and the very best by themselves, since answers before this one may have offered them."""
_REDRAWS = 32
"""Tokens that are drawn for a judge at most; then the likeliest that passes is taken."""


def check_sampling(params: SamplingParams) -> None:
    """Refuse values that would make the arithmetic meaningless.

    These are the engine's own bounds, wider than what clients of the gateway may send.

    Raises:
        InvalidField: If a value is not a number, or far outside what makes sense.
    """
    for name, (low, high) in _BOUNDS.items():
        value = getattr(params, name)
        if not (math.isfinite(value) and low <= value <= high):
            raise InvalidField(f"{name} is {value!r}; allowed: {low} to {high}", name)


class TokenSampler:
    """The sampler chain, the random state and the grammar of one answer.

    The chain is penalties, top_k, temperature, top_p, min_p, draw: the order of OpenAI-compatible
    servers, in which top_p looks at the distribution that the temperature has shaped. Penalties
    count generated tokens only. top_k stands early because it commutes with the temperature and
    makes everything after it cheap.

    Args:
        params: Checked by `check_sampling`.
        n_vocab: Size of the vocabulary.
        n_ctx: Window of the penalties, in tokens; no answer is longer.
        grammar: State of the answer's grammar; owned by this object from now on.
        judge: Has a say beside the grammar; never without one.
    """

    def __init__(
        self,
        params: SamplingParams,
        *,
        n_vocab: int,
        n_ctx: int,
        grammar: GrammarWalk | None,
        judge: TokenJudge | None = None,
    ) -> None:
        self.grammar = grammar
        self._judge = judge
        self._lib = library()
        self._n_vocab = n_vocab
        self._may_force = params.logprobs is None
        self._penalised = params.frequency_penalty != 0 or params.presence_penalty != 0
        self._chain = None
        if params.temperature >= _GREEDY_BELOW or self._penalised:
            self._chain = _chain(self._lib, params, n_vocab, n_ctx, self._penalised)

    def sample(self, context: Any, row: int, logits: NDArray[np.float32], best: int) -> int | None:
        """Return the next token, or None if the grammar leaves none.

        Args:
            context: The `llama_context` pointer.
            row: Index of the row in the batch.
            logits: The same row's logits, (n_vocab,) float32; not written to.
            best: The token with the largest of them.
        """
        if self.grammar is None:
            if self._chain is None:
                return best
            return int(self._lib.llama_sampler_sample(self._chain, context, row))
        if self._judge is None:
            token = self._constrained(self.grammar, logits, best)
        else:
            token = self._judged(self.grammar, self._judge, logits, best)
        if token is not None:
            self.grammar.accept(token)
            if self._judge is not None:
                self._judge.accept(token)
            if self._penalised:
                self._lib.llama_sampler_accept(self._chain, token)
        return token

    @property
    def forced(self) -> tuple[int, ...]:
        """Tokens that the grammar leaves no choice about; none where somebody asks how likely."""
        if self.grammar is None or not self._may_force:
            return ()
        return self.grammar.forced

    @property
    def is_complete(self) -> bool:
        """Whether the grammar says that the answer ends here."""
        return self.grammar is not None and self.grammar.complete

    def feed(self, token: int) -> bool:
        """Take over a token that was forced; False if the grammar refuses it after all."""
        if self.grammar is not None and not self.grammar.force(token):
            return False
        if self._judge is not None:
            self._judge.accept(token)
        if self._penalised:
            self._lib.llama_sampler_accept(self._chain, token)
        return True

    def close(self) -> None:
        """Free the C objects. Idempotent."""
        if self._chain is not None:
            self._lib.llama_sampler_free(self._chain)
            self._chain = None
        if self.grammar is not None:
            self.grammar.close()
            self.grammar = None

    def _constrained(
        self, grammar: GrammarWalk, logits: NDArray[np.float32], best: int
    ) -> int | None:
        if self._chain is None:
            if grammar.allows(best):
                return best
            k = min(_FIRST_TRY, self._n_vocab)
            first = np.argpartition(logits, -k)[-k:]
            for token in first[np.argsort(-logits[first])][:_ONE_BY_ONE].tolist():
                if grammar.allows(token):
                    return int(token)
            for ids in (first, None):
                allowed = grammar.mask(_candidates(logits, ids))
                if len(allowed):
                    return int(allowed["id"][allowed["logit"].argmax()])
            return None
        token = self._draw(_candidates(logits, None))
        if grammar.allows(token):
            return token
        allowed = grammar.mask(_candidates(logits, None))
        return self._draw(allowed) if len(allowed) else None

    def _judged(
        self, grammar: GrammarWalk, judge: TokenJudge, logits: NDArray[np.float32], best: int
    ) -> int | None:
        """Like `_constrained`, with tokens that the judge refuses left out."""
        if self._chain is None:
            if grammar.allows(best) and judge.allows(best):
                return best
            k = min(_FIRST_TRY, self._n_vocab)
            found = judge.first_of(_ranked(grammar, logits, np.argpartition(logits, -k)[-k:]))
        else:
            found = self._redrawn(grammar, judge, logits)
        if found is not None:
            return found
        every = _ranked(grammar, logits, None)
        found = judge.first_of(every)
        if found is None and every:
            judge.give_up()
            return every[0]
        return found

    def _redrawn(
        self, grammar: GrammarWalk, judge: TokenJudge, logits: NDArray[np.float32]
    ) -> int | None:
        # Drawing again without what was refused is drawing from the rest: who passes comes as
        # likely as if nothing else had been there.
        pool = _candidates(logits, None)
        for _ in range(_REDRAWS):
            token = self._draw(pool.copy())
            if not grammar.allows(token):
                pool = grammar.mask(pool)
            elif judge.allows(token):
                return token
            else:
                pool = pool[pool["id"] != token]
            if not len(pool):
                return None
        return None

    def _draw(self, candidates: NDArray[Any]) -> int:
        array = candidate_array(self._lib, candidates)
        self._lib.llama_sampler_apply(self._chain, ctypes.byref(array))
        return int(array.data[array.selected].id)


def _ranked(
    grammar: GrammarWalk, logits: NDArray[np.float32], ids: NDArray[Any] | None
) -> list[int]:
    """Return the tokens that a grammar allows, the likeliest first."""
    allowed = grammar.mask(_candidates(logits, ids))
    ranked: list[int] = allowed["id"][np.argsort(-allowed["logit"])].tolist()
    return ranked


def _candidates(logits: NDArray[np.float32], ids: NDArray[Any] | None) -> NDArray[Any]:
    n = len(logits) if ids is None else len(ids)
    candidates = np.zeros(n, dtype=CANDIDATE)
    candidates["id"] = np.arange(n, dtype=np.int32) if ids is None else ids
    candidates["logit"] = logits if ids is None else logits[ids]
    return candidates


def _chain(lib: Any, params: SamplingParams, n_vocab: int, n_ctx: int, penalised: bool) -> Any:
    chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())

    def add(sampler: Any) -> None:
        if not sampler:
            lib.llama_sampler_free(chain)
            raise RuntimeError("llama.cpp made no sampler")
        lib.llama_sampler_chain_add(chain, sampler)

    if penalised:
        add(
            lib.llama_sampler_init_penalties(
                n_vocab, n_ctx, 1.0, params.frequency_penalty, params.presence_penalty
            )
        )
    if params.temperature < _GREEDY_BELOW:
        add(lib.llama_sampler_init_greedy())
        return chain
    if params.top_k > 0:
        add(lib.llama_sampler_init_top_k(min(params.top_k, n_vocab)))
    if params.temperature != 1:
        add(lib.llama_sampler_init_temp(params.temperature))
    if params.top_p < 1:
        add(lib.llama_sampler_init_top_p(params.top_p, 1))
    if params.min_p > 0:
        add(lib.llama_sampler_init_min_p(params.min_p, 1))
    seed = secrets.randbits(32) if params.seed is None else params.seed
    add(lib.llama_sampler_init_dist(seed % _RANDOM_SEED))
    return chain
