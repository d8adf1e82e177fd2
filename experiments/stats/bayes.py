"""Bayesian answers: the probability to be best and what a wrong choice costs.

Computed by quadrature, not by drawing: the same input gives the same digits, and tail
probabilities are exact. They inform; the verdict rests on the frequentist guarantees.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import special

from experiments.stats.distributions import norm_cdf, norm_pdf, norm_ppf
from experiments.stats.errors import InvalidStatistic
from experiments.stats.moments import ProportionStats

_NODES, _WEIGHTS = special.roots_legendre(96)
"""Gauss-Legendre rule used on every panel."""

_TAIL_STEPS = (1e-15, 1e-9, 1e-5, 1e-2, 0.15, 0.5, 0.85, 0.99, 1 - 1e-5, 1 - 1e-9, 1 - 1e-15)
"""Quantiles of every posterior at which panels are cut, so that narrow posteriors beside wide ones
are resolved."""


class Posterior(Protocol):
    """Belief about the value of one arm."""

    @property
    def mean(self) -> float:
        """Posterior mean."""

    def cdf(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Distribution function, elementwise."""

    def pdf(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Density, elementwise."""

    def quantile(self, probability: float) -> float:
        """Quantile."""

    def draw(self, rng: np.random.Generator, size: int) -> NDArray[np.float64]:
        """Draws, shape (size,)."""


@dataclass(frozen=True, slots=True)
class BetaPosterior:
    """Beta(a, b) belief about a rate."""

    a: float
    b: float

    def __post_init__(self) -> None:
        if not (self.a > 0 and self.b > 0):
            raise InvalidStatistic(f"Beta({self.a!r}, {self.b!r}); allowed: both above 0")

    @classmethod
    def of(
        cls, arm: ProportionStats, *, prior: tuple[float, float] = (1.0, 1.0)
    ) -> "BetaPosterior":
        """Update a Beta prior (uniform by default) with counts."""
        return cls(prior[0] + arm.successes, prior[1] + arm.n - arm.successes)

    @property
    def mean(self) -> float:
        """Posterior mean."""
        return self.a / (self.a + self.b)

    def cdf(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Distribution function, elementwise."""
        return np.asarray(special.betainc(self.a, self.b, np.clip(x, 0.0, 1.0)))

    def pdf(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Density, elementwise."""
        log = special.xlogy(self.a - 1.0, x) + special.xlog1py(self.b - 1.0, -x)
        return np.asarray(np.exp(log - special.betaln(self.a, self.b)))

    def quantile(self, probability: float) -> float:
        """Quantile of a probability in (0, 1)."""
        return float(special.betaincinv(self.a, self.b, probability))

    def draw(self, rng: np.random.Generator, size: int) -> NDArray[np.float64]:
        """Draws, shape (size,)."""
        return rng.beta(self.a, self.b, size)


@dataclass(frozen=True, slots=True)
class NormalPosterior:
    """Normal belief about a mean."""

    mean: float
    sd: float

    def __post_init__(self) -> None:
        if not (self.sd > 0 and math.isfinite(self.mean) and math.isfinite(self.sd)):
            raise InvalidStatistic(f"Normal({self.mean!r}, {self.sd!r}); allowed: finite, sd > 0")

    def cdf(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Distribution function, elementwise."""
        return np.asarray(special.ndtr((x - self.mean) / self.sd))

    def pdf(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Density, elementwise."""
        z = (x - self.mean) / self.sd
        return np.asarray(np.exp(-0.5 * z * z) / (self.sd * math.sqrt(2.0 * math.pi)))

    def quantile(self, probability: float) -> float:
        """Quantile of a probability in (0, 1)."""
        return self.mean + self.sd * norm_ppf(probability)

    def draw(self, rng: np.random.Generator, size: int) -> NDArray[np.float64]:
        """Draws, shape (size,)."""
        return rng.normal(self.mean, self.sd, size)


class ArmBelief(NamedTuple):
    """What is believed of one arm among its rivals."""

    probability_best: float
    """P(this arm has the largest value)."""
    expected_loss: float
    """E[max of all arms - this arm], in the metric's unit: the price of choosing it."""


def beliefs(posteriors: Mapping[str, Posterior]) -> dict[str, ArmBelief]:
    """Return for each arm the probability to be best and the expected loss.

    P(best = i) = int f_i prod_{j != i} F_j; E[max] = hi - int_lo^hi prod_j F_j. Both by composite
    Gauss-Legendre over panels cut at quantiles of all posteriors; errors about 1e-9 in probability.

    Args:
        posteriors: Independent posterior per arm, at least one. For a metric where less is better
            negate the values first.

    References:
        Stucchio (2015), "Bayesian A/B testing at VWO", for the expected loss as decision rule.
    """
    if not posteriors:
        raise InvalidStatistic("posteriors is empty; allowed: at least one arm")
    arms = dict(sorted(posteriors.items()))
    nodes, weights, high = _panels(list(arms.values()))
    cdfs = {name: arm.cdf(nodes) for name, arm in arms.items()}
    everyone = np.prod(list(cdfs.values()), axis=0)
    expected_max = high - float(weights @ everyone)
    result = {}
    for name, arm in arms.items():
        rivals = [cdf for other, cdf in cdfs.items() if other != name]
        below = np.prod(rivals, axis=0) if rivals else np.ones_like(nodes)
        best = min(1.0, max(0.0, float(weights @ (arm.pdf(nodes) * below))))
        result[name] = ArmBelief(best, max(0.0, expected_max - arm.mean))
    return result


class EffectBelief(NamedTuple):
    """Posterior of an effect."""

    mean: float
    sd: float
    chance_to_win: float
    """P(effect > 0)."""
    risk_treatment: float
    """E[max(-effect, 0)]: expected loss of promoting treatment."""
    risk_control: float
    """E[max(effect, 0)]: expected loss of keeping control."""
    ci_lower: float
    ci_upper: float


def effect_belief(
    effect: float,
    standard_error: float,
    *,
    prior_mean: float = 0.0,
    prior_sd: float = math.inf,
    alpha: float = 0.05,
) -> EffectBelief:
    """Combine an estimated effect with a normal prior.

    Posterior precision 1 / se^2 + 1 / prior_sd^2; closed forms E[d+] = s phi(m/s) + m Phi(m/s) and
    E[d-] = s phi(m/s) - m Phi(-m/s).

    Args:
        effect: Estimate, absolute or relative.
        standard_error: Its standard error, > 0.
        prior_mean: Prior mean of the effect.
        prior_sd: Prior standard deviation; inf for the flat improper prior. GrowthBook proposes 0.3
            for relative effects.
        alpha: One minus the credible level.

    References:
        Gelman et al. (2013), "Bayesian data analysis", section 2.5 (normal data, known variance).
    """
    if not standard_error > 0:
        raise InvalidStatistic(f"standard_error is {standard_error!r}; allowed: above 0")
    if not prior_sd > 0:
        raise InvalidStatistic(f"prior_sd is {prior_sd!r}; allowed: above 0, inf for none")
    precision, prior_precision = standard_error**-2, prior_sd**-2
    total = precision + prior_precision
    mean = (precision * effect + prior_precision * prior_mean) / total
    sd = total**-0.5
    z = mean / sd
    half = -norm_ppf(alpha / 2.0) * sd
    gain = sd * norm_pdf(z) + mean * norm_cdf(z)
    loss = sd * norm_pdf(z) - mean * norm_cdf(-z)
    return EffectBelief(
        mean, sd, norm_cdf(z), max(0.0, loss), max(0.0, gain), mean - half, mean + half
    )


def _panels(
    posteriors: Sequence[Posterior],
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    cuts = sorted({arm.quantile(p) for arm in posteriors for p in _TAIL_STEPS})
    edges = np.array(cuts, dtype=np.float64)
    half = 0.5 * np.diff(edges)
    centre = 0.5 * (edges[1:] + edges[:-1])
    nodes = (centre[:, None] + half[:, None] * _NODES[None, :]).ravel()
    weights = (half[:, None] * _WEIGHTS[None, :]).ravel()
    return nodes, weights, cuts[-1]
