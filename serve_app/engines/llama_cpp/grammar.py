"""Grammars at decode time: one token is checked, and only if it fails the whole vocabulary is."""

import ctypes
import hashlib
import logging
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serve_app.engines.llama_cpp.answer_memory import Node
from serve_app.engines.llama_cpp.binding import library
from serve_app.engines.llama_cpp.forced import Path, Spots, TokenIndex
from serve_app.engines.llama_cpp.text import is_utf8_start, unfinished_tail
from serve_app.engines.llama_cpp.vocabulary import Vocabulary
from serve_app.errors import InvalidSchema

logger = logging.getLogger(__name__)

CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])
"""numpy's view of `llama_token_data`."""
_JSON_ENDS = frozenset(bytes([byte]) for byte in b'}]"0123456789el')
"""Last bytes of JSON texts."""
_ASKED = -1


class Grammar:
    """A compiled grammar; each answer walks through a clone of it.

    It is freed with its last reference: the store may drop it while requests still wait with it.

    Args:
        gbnf: Grammar text with a rule `root`. It must have passed the check in the helper process.
        vocabulary: The model's tokens.
        vocab_handle: The `llama_vocab` pointer.
        index: The same tokens by their bytes; None where forced text is not asked for.
        lookalikes: What `schema.lookalikes` says of the schema.

    Raises:
        InvalidSchema: If llama.cpp does not accept it.
    """

    def __init__(
        self,
        gbnf: str,
        vocabulary: Vocabulary,
        vocab_handle: Any,
        index: TokenIndex | None = None,
        *,
        lookalikes: bool = False,
    ) -> None:
        self.key = hashlib.sha256(gbnf.encode()).digest()
        """Equal for equal grammars."""
        self._lib = library()
        self._vocabulary = vocabulary
        self._spots = Spots(index, lookalikes=lookalikes) if index is not None else None
        self._sampler = self._lib.llama_sampler_init_grammar(vocab_handle, gbnf.encode(), b"root")
        if not self._sampler:
            # NOTE: a NULL sampler in a chain is a segmentation fault, so it must get no further.
            raise InvalidSchema("the JSON schema does not compile to a grammar", "response_format")
        weakref.finalize(self, self._lib.llama_sampler_free, self._sampler).atexit = False

    def start(self, known: Node | None = None) -> "GrammarWalk":
        """Return the state of one answer.

        Args:
            known: Where answers under this very grammar begin, if they are remembered.
        """
        sampler = self._lib.llama_sampler_clone(self._sampler)
        return GrammarWalk(sampler, self._vocabulary, self._spots, known)


class GrammarWalk:
    """How far one answer has come in its grammar. Only the engine thread uses it.

    As long as it goes where answers before it went, what the grammar says is known, and llama.cpp's
    state stays behind. It catches up when something is asked that nobody has asked there before.

    Args:
        sampler: State in C; owned by this object from now on.
        vocabulary: The model's tokens.
        spots: Forced text of the same grammar; None finds none.
        known: Where answers under the same grammar begin; None knows none.
    """

    def __init__(
        self,
        sampler: Any,
        vocabulary: Vocabulary,
        spots: Spots | None = None,
        known: Node | None = None,
    ) -> None:
        self._lib = library()
        self._vocabulary = vocabulary
        self._spots = spots
        self._path = Path()
        self._sampler = sampler
        self._unsafe = vocabulary.unsafe_in_grammar
        self._unsafe_ids = vocabulary.unsafe_in_grammar_ids
        self._pieces = vocabulary.pieces
        self._eog = next(iter(vocabulary.eog), None)
        self._last = b""
        self._unfinished = b""
        """Bytes of a character that the last tokens have begun."""
        self._one = (self._lib.llama_token_data * 1)()
        self._node = known
        self._behind: list[int] = []
        """Tokens that the state in C has yet to take; `_ASKED` where forced text was asked for."""

    def allows(self, token: int) -> bool:
        """Tell whether a token may come next."""
        node = self._node
        if node is None:
            return self._check(token)
        allowed = node.allows(token)
        if allowed is None:
            allowed = self._check(token)
            node.judge(token, allowed=allowed)
        return allowed

    def _check(self, token: int) -> bool:
        self._catch_up()
        if token in self._unsafe or not self._continues_text(token):
            return False
        self._one[0].id = token
        self._one[0].logit = 0.0
        array = self._lib.llama_token_data_array(self._one, 1, -1, False)
        self._lib.llama_sampler_apply(self._sampler, ctypes.byref(array))
        return bool(self._one[0].logit == 0.0)

    def accept(self, token: int) -> None:
        """Step over a token. It must be allowed: llama.cpp ends the process otherwise."""
        self._last = self._pieces[token][-1:]
        if self._node is not None:
            node = self._node.branches.get(token)
            if node is not None:
                self._node = node
                self._behind.append(token)
                return
            self._catch_up()
            self._node = None
        self._step(token)

    def _step(self, token: int) -> None:
        self._lib.llama_sampler_accept(self._sampler, token)
        self._unfinished = unfinished_tail(self._unfinished + self._pieces[token])
        if self._spots is not None:
            self._path.add(self._pieces[token])

    def force(self, token: int) -> bool:
        """Step over a token of `forced`, or tell that it does not fit; then nothing more is forced.

        What is remembered of one answer is offered to the next one's state like any other token.
        """
        if not self.allows(token):
            logger.error("forced token %s is refused by the grammar", token)
            self._spots = None
            return False
        self.accept(token)
        return True

    @property
    def forced(self) -> tuple[int, ...]:
        """Tokens that must come next, as far as that is certain; often none."""
        node = self._node
        if node is None:
            return self._ask()
        if node.forced is None:
            self._catch_up()
            node.forced = self._ask()
        else:
            self._behind.append(_ASKED)
        return node.forced

    def _catch_up(self) -> None:
        behind, self._behind = self._behind, []
        for token in behind:
            if token == _ASKED:
                self._ask()
            else:
                self._step(token)

    def _ask(self) -> tuple[int, ...]:
        if self._spots is None or self._path.in_string or self._unfinished:
            return ()
        spot = self._spots.get(self._path.value)
        if spot is None:
            copy = GrammarWalk(self._lib.llama_sampler_clone(self._sampler), self._vocabulary)
            try:
                spot = self._spots.explore(self._path.value, copy)
            finally:
                copy.close()
        if spot.is_free and self._spots.lookalikes:
            self._spots = None
        elif spot.is_free:
            self._path.enter_string()
        return spot.tokens

    def allowed_of(self, tokens: Sequence[int]) -> list[int]:
        """Return those tokens that may come next, in their order."""
        candidates = np.zeros(len(tokens), dtype=CANDIDATE)
        candidates["id"] = tokens
        return [int(token) for token in self.mask(candidates)["id"]]

    @property
    def complete(self) -> bool:
        """Whether the answer may end here; our grammars then allow nothing else."""
        if self._eog is None or self._last not in _JSON_ENDS:
            return False
        node = self._node
        if node is None:
            return self._check(self._eog)
        if node.ends is None:
            node.ends = self._check(self._eog)
        return node.ends

    def mask(self, candidates: NDArray[Any]) -> NDArray[Any]:
        """Return those candidates that may come next.

        Args:
            candidates: (n,) of `CANDIDATE`; logits of refused ones are overwritten.
        """
        self._catch_up()
        refused = np.isin(candidates["id"], self._unsafe_ids)
        candidates["logit"][refused] = -np.inf
        array = candidate_array(self._lib, candidates)
        self._lib.llama_sampler_apply(self._sampler, ctypes.byref(array))
        allowed: NDArray[Any] = candidates[np.isfinite(candidates["logit"])]
        if self._unfinished:
            fits = [self._continues_text(int(token)) for token in allowed["id"]]
            allowed = allowed[np.array(fits, dtype=bool)]
        return allowed

    def _continues_text(self, token: int) -> bool:
        # llama.cpp counts any continuation byte as good, so that a character could come out as
        # several U+FFFD and a string longer than its schema allows.
        return not self._unfinished or is_utf8_start(self._unfinished + self._pieces[token])

    def close(self) -> None:
        """Free the state."""
        if self._sampler:
            self._lib.llama_sampler_free(self._sampler)
            self._sampler = None


def candidate_array(lib: Any, candidates: NDArray[Any]) -> Any:
    """Return a `llama_token_data_array` over a contiguous array, which must outlive it."""
    data = candidates.ctypes.data_as(ctypes.POINTER(lib.llama_token_data))
    return lib.llama_token_data_array(data, len(candidates), -1, False)
