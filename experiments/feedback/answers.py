"""What was said about one answer: its votes brought together."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

from experiments.events.votes import Vote
from experiments.feedback.metrics import CATEGORY, CORRECTION, RATING, THUMBS, Category

_GOOD_RATING = 4
"""A rating from here up is praise ..."""
_BAD_RATING = 2
"""... and from here down blame; 3 is neither."""


@dataclass(frozen=True, slots=True)
class RatedAnswer:
    """The votes on one answer, at least one, one per metric."""

    votes: tuple[Vote, ...]

    @property
    def latest(self) -> Vote:
        """The vote that came last; what an answer is about is the same in all."""
        return max(self.votes, key=lambda vote: (vote.received_at, vote.feedback_id))

    @property
    def thumbs_up(self) -> bool | None:
        """Thumb up or down; None without one."""
        vote = self._vote(THUMBS.name)
        return None if vote is None else bool(vote.value)

    @property
    def rating(self) -> int | None:
        """Stars, 1 to 5."""
        vote = self._vote(RATING.name)
        return None if vote is None or vote.value is None else int(vote.value)

    @property
    def category(self) -> str | None:
        """One of the twelve categories."""
        vote = self._vote(CATEGORY.name)
        return None if vote is None else vote.text

    @property
    def correction(self) -> str | None:
        """What the answer should have been, without personal data."""
        vote = self._vote(CORRECTION.name)
        return None if vote is None else vote.text

    @property
    def praised(self) -> bool:
        """Whether something good and nothing bad was said."""
        good = (
            self.thumbs_up is True
            or (self.rating is not None and self.rating >= _GOOD_RATING)
            or self.category == Category.GOOD_RESPONSE
        )
        return good and not self.blamed

    @property
    def blamed(self) -> bool:
        """Whether something bad was said; a correction says that the answer was wrong."""
        fault = self.category is not None and self.category not in (
            Category.GOOD_RESPONSE,
            Category.OTHER,
        )
        return (
            self.thumbs_up is False
            or (self.rating is not None and self.rating <= _BAD_RATING)
            or fault
            or self.correction is not None
        )

    def _vote(self, metric: str) -> Vote | None:
        return next((vote for vote in self.votes if vote.metric == metric), None)


def reply_of(answer: str) -> str:
    """Return what the user read: the `response` of a JSON answer, anything else as it is."""
    try:
        parsed = json.loads(answer)
    except ValueError:
        return answer
    reply = parsed.get("response") if isinstance(parsed, dict) else None
    return reply if isinstance(reply, str) else answer


def rated_answers(votes: Iterable[Vote]) -> Iterator[RatedAnswer]:
    """Group votes on inferences by answer; votes on sessions are left out.

    Args:
        votes: In the order of `read_votes`.
    """
    inferences = (vote for vote in votes if vote.level == "inference")
    for _, group in groupby(inferences, key=lambda vote: (vote.tenant, vote.target)):
        yield RatedAnswer(tuple(group))
