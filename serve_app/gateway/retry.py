"""The retry budget: repeating requests must not finish off a cluster that is struggling."""

from serve_app.config import RetryConfig


class RetryBudget:
    """Allows retries up to a share of the requests in progress, plus a few."""

    def __init__(self, config: RetryConfig) -> None:
        self.config = config
        self._live = 0
        self._retrying = 0

    def enter(self) -> None:
        """Count a request in."""
        self._live += 1

    def leave(self) -> None:
        """Count a request out."""
        self._live -= 1

    def try_begin(self) -> bool:
        """Reserve a retry; `end` gives it back."""
        if self._retrying >= self.config.budget_min + self.config.budget_rate * self._live:
            return False
        self._retrying += 1
        return True

    def end(self) -> None:
        """Give a retry back."""
        self._retrying -= 1
