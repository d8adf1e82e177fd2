"""Counters of one engine, fed by vLLM after each step."""

import time
from typing import Any

from serve_app.engines.protocol import EngineStats


class Progress:
    """What vLLM did so far. Written on the event loop, read from any thread."""

    def __init__(self) -> None:
        self.kv_tokens_capacity = 0
        self.last_step = time.monotonic()
        self.cancelled = 0
        self._running = 0
        self._kv_share = 0.0
        self._prompt_tokens = 0
        self._cached_tokens = 0
        self._completion_tokens = 0
        self._steps = 0
        self._rows = 0
        self._preempted = 0

    def record(self, scheduler: Any, iteration: Any) -> None:
        """Take what vLLM counted in one step.

        Args:
            scheduler: `SchedulerStats`, or None.
            iteration: `IterationStats`, or None if the step gave nobody a token.
        """
        self.last_step = time.monotonic()
        if scheduler is not None:
            self._steps += 1
            self._running = scheduler.num_running_reqs
            self._kv_share = scheduler.kv_cache_usage
        if iteration is not None:
            prompt = iteration.prompt_token_stats
            self._rows += iteration.num_generation_tokens + prompt.computed
            self._preempted += iteration.num_preempted_reqs

    def count_prompt(self, tokens: int, cached: int) -> None:
        """Count the prompt of a request that has its first token."""
        self._prompt_tokens += tokens
        self._cached_tokens += cached

    def count_tokens(self, n_new: int) -> None:
        """Count tokens of answers."""
        self._completion_tokens += n_new

    def stats(self, n_live: int) -> EngineStats:
        """Return the counters.

        Args:
            n_live: Requests that run or wait now.
        """
        running = min(self._running, n_live)
        used = round(self._kv_share * self.kv_tokens_capacity) if n_live else 0
        return EngineStats(
            running=running,
            waiting=n_live - running,
            prompt_tokens_total=self._prompt_tokens,
            cached_tokens_total=self._cached_tokens,
            completion_tokens_total=self._completion_tokens,
            steps_total=self._steps,
            step_rows_total=self._rows,
            kv_tokens_used=used,
            kv_tokens_capacity=self.kv_tokens_capacity,
            cancelled_total=self.cancelled,
            preempted_total=self._preempted,
        )
