"""How long requests hold a slot, learned from those that were answered."""

_WEIGHT = 0.1
"""Weight of the newest request in the moving averages."""
_ENOUGH = 8
"""Requests to have seen before anybody is judged by them."""
_DEVIATIONS = 2


class ServiceTime:
    """Moving mean of the seconds in a slot, and of how far they lie from it."""

    def __init__(self) -> None:
        self.n_seen = 0
        self.mean_s = 0.0
        self._deviation_s = 0.0

    @property
    def least_s(self) -> float:
        """Seconds that nearly every request takes at least; 0 until enough is known.

        The mean less two mean deviations: where times differ much, that is nothing, and nobody is
        refused on a guess.
        """
        if self.n_seen < _ENOUGH:
            return 0.0
        return max(0.0, self.mean_s - _DEVIATIONS * self._deviation_s)

    def record(self, slot_s: float) -> None:
        """Learn from an answered request.

        Args:
            slot_s: Seconds that it held a slot, over all its turns.
        """
        if not self.n_seen:
            self.mean_s = slot_s
        self._deviation_s += _WEIGHT * (abs(slot_s - self.mean_s) - self._deviation_s)
        self.mean_s += _WEIGHT * (slot_s - self.mean_s)
        self.n_seen += 1
