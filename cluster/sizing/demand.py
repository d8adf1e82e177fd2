"""What is asked of a system: how often, and how long prompts and answers are."""

import csv
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cluster.errors import CommandError, ExitCode
from cluster.sizing.simulation import Floats, Traffic


class Lengths(NamedTuple):
    """Token counts, (n,) float64 each."""

    prompt: Floats
    answer: Floats


DrawLengths = Callable[[np.random.Generator, int], Lengths]


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """Requests that arrive independently of each other (Poisson), with lengths drawn likewise."""

    rate: float
    """Requests per second."""
    draw: DrawLengths
    mean_prompt_tokens: float
    mean_answer_tokens: float

    def traffic(self, n: int, *, rng: np.random.Generator) -> Traffic:
        """Draw n requests."""
        lengths = self.draw(rng, n)
        return Traffic(
            arrivals=np.cumsum(rng.exponential(1 / self.rate, n)),
            prompt_tokens=lengths.prompt,
            answer_tokens=lengths.answer,
        )


def parametric(*, prompt: str, answer: str, cached_tokens: float, rate: float) -> Demand:
    """Return a demand with log-normal lengths.

    Args:
        prompt: Mean number of tokens, or `mean:cv` with a coefficient of variation.
        answer: The same.
        cached_tokens: Tokens of each prompt that need not be computed, as its start is in memory.
        rate: Requests per second.

    Raises:
        CommandError: If one of them cannot be read.
    """
    prompt_mean, prompt_cv = _length("--prompt", prompt)
    answer_mean, answer_cv = _length("--answer", answer)
    if not 0 <= cached_tokens <= prompt_mean:
        raise _usage(f"--cached {cached_tokens:g} is more than the {prompt_mean:g} prompt tokens")

    def draw(rng: np.random.Generator, n: int) -> Lengths:
        prompts = _log_normal(rng, prompt_mean, prompt_cv, n)
        return Lengths(
            np.maximum(prompts - cached_tokens, 0.0), _log_normal(rng, answer_mean, answer_cv, n)
        )

    return Demand(
        rate=rate,
        draw=draw,
        # Of what is computed: cutting off at 0 makes it more than the difference of the means.
        mean_prompt_tokens=float(draw(np.random.default_rng(0), 20_000).prompt.mean()),
        mean_answer_tokens=answer_mean,
    )


def observed(path: Path, *, cached_tokens: float, rate: float) -> Demand:
    """Return a demand whose lengths are drawn from observed pairs, with replacement.

    Args:
        path: CSV file with the columns `prompt_tokens` and `answer_tokens`.
        cached_tokens: Tokens of each prompt that need not be computed.
        rate: Requests per second.

    Raises:
        CommandError: If the file does not hold them.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [
                (float(row["prompt_tokens"]), float(row["answer_tokens"]))
                for row in csv.DictReader(file)
            ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _usage(f"{path} holds no prompt_tokens and answer_tokens: {error!r}") from error
    pairs = np.array(rows, dtype=np.float64).reshape(-1, 2)
    if not len(pairs) or not np.isfinite(pairs).all() or (pairs < 0).any():
        raise _usage(f"{path} holds no pair of lengths, or a negative one")
    pairs[:, 0] = np.maximum(pairs[:, 0] - cached_tokens, 0.0)

    def draw(rng: np.random.Generator, n: int) -> Lengths:
        chosen = pairs[rng.integers(len(pairs), size=n)]
        return Lengths(chosen[:, 0].copy(), chosen[:, 1].copy())

    return Demand(
        rate=rate,
        draw=draw,
        mean_prompt_tokens=float(pairs[:, 0].mean()),
        mean_answer_tokens=float(pairs[:, 1].mean()),
    )


def _length(option: str, text: str) -> tuple[float, float]:
    mean, _, cv = text.partition(":")
    try:
        values = (float(mean), float(cv or 0))
    except ValueError:
        values = (math.nan, math.nan)
    if not (0 <= values[0] < math.inf and 0 <= values[1] <= 10):
        raise _usage(f"{option} {text!r} is no length; give tokens, or tokens:cv such as 48:0.5")
    return values


def _log_normal(rng: np.random.Generator, mean: float, cv: float, n: int) -> Floats:
    """Draw log-normal values by mean and coefficient of variation."""
    if cv == 0 or mean == 0:
        return np.full(n, mean)
    sigma2 = math.log1p(cv**2)
    return rng.lognormal(math.log(mean) - sigma2 / 2, math.sqrt(sigma2), n)


def _usage(message: str) -> CommandError:
    return CommandError(message, "see: carril size --help", ExitCode.USAGE)
