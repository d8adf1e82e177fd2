"""A second judge beside the grammar: what an answer may say, where its prompt has an inventory."""

import logging
from collections.abc import Collection, Iterable, Sequence

from experiments.grounding.answer import GroundedAnswer

logger = logging.getLogger(__name__)


class TokenJudge:
    """Judges tokens by their bytes. Only the engine thread uses it.

    Args:
        answer: How far the answer has come; owned by this object from now on.
        pieces: Bytes of every token.
        eog: Tokens that end an answer. Whether it may end is the grammar's matter.
    """

    def __init__(
        self, answer: GroundedAnswer, pieces: Sequence[bytes], eog: Collection[int]
    ) -> None:
        self._answer: GroundedAnswer | None = answer
        self._pieces = pieces
        self._eog = eog

    def allows(self, token: int) -> bool:
        """Tell whether a token that the grammar allows may come next."""
        if self._answer is None or token in self._eog:
            return True
        return self._answer.allows(self._pieces[token])

    def first_of(self, tokens: Iterable[int]) -> int | None:
        """Return the first token that may come next."""
        return next((token for token in tokens if self.allows(token)), None)

    def accept(self, token: int) -> None:
        """Step over a token."""
        if self._answer is not None:
            self._answer.accept(self._pieces[token])

    def give_up(self) -> None:
        """Judge no more: no token passes, and an answer is better than none.

        Something can be said in every state of the automaton, so that this is a fault in it, or in
        a vocabulary that has no tokens of single characters.
        """
        logger.error("no token passes the inventory's automaton: the answer goes on without it")
        self._answer = None
