"""One-sided bounds of rates and of paired differences, with items clustered in conversations."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, bdtrc, betaincinv

from experiments.stats.distributions import norm_isf
from experiments.stats.moments import ProportionStats
from experiments.stats.proportions import wilson_interval

_BLOCK = 2_000_000
"""Counts drawn at a time, so that many clusters do not fill the memory."""

Floats = NDArray[np.float64]


class Bounds(NamedTuple):
    """Estimate with its two one-sided bounds, each at level alpha."""

    estimate: float
    lower: float
    upper: float


class Clusters(NamedTuple):
    """Sums and sizes of the clusters of a sample."""

    sums: Floats  # (n_clusters,)
    sizes: Floats  # (n_clusters,)

    @property
    def n(self) -> int:
        """Number of clusters."""
        return len(self.sums)


def cluster(values: Sequence[float], groups: Sequence[str]) -> Clusters:
    """Add up values by group."""
    _, index = np.unique(np.asarray(groups), return_inverse=True)
    sums = np.bincount(index, weights=np.asarray(values, dtype=np.float64))
    return Clusters(sums.astype(np.float64), np.bincount(index).astype(np.float64))


def bootstrap_means(sample: Clusters, *, resamples: int, seed: int) -> Floats:
    """Return means of resampled clusters, sorted.

    Drawing G clusters with replacement is a multinomial over the distinct (sum, size) pairs, of
    which yes/no data have a handful; that is the same distribution as drawing indices, and makes
    10,000 resamples of thousands of conversations a matter of milliseconds.

    References:
        Davison, Hinkley (1997), "Bootstrap Methods and their Application", section 3.8.
    """
    kinds, counts = np.unique(
        np.column_stack((sample.sums, sample.sizes)), axis=0, return_counts=True
    )
    if len(kinds) == 1:
        return np.full(resamples, kinds[0, 0] / kinds[0, 1])
    generator = np.random.default_rng(seed)
    shares = counts / counts.sum()
    means = np.empty(resamples)
    step = max(1, _BLOCK // len(kinds))
    for start in range(0, resamples, step):
        stop = min(resamples, start + step)
        drawn = generator.multinomial(sample.n, shares, size=stop - start).astype(np.float64)
        means[start:stop] = (drawn @ kinds[:, 0]) / (drawn @ kinds[:, 1])
    means.sort()
    return means


def percentile_bounds(means: Floats, estimate: float, alpha: float) -> Bounds:
    """Return the percentile bounds of sorted bootstrap means."""
    lower, upper = np.quantile(means, (alpha, 1.0 - alpha))
    return Bounds(estimate, float(lower), float(upper))


def rate_bounds(
    values: Sequence[float],
    groups: Sequence[str],
    *,
    alpha: float,
    resamples: int,
    seed: int,
    exact: bool,
) -> Bounds:
    """Bound a mean of values in [0, 1].

    The wider of two: a binomial bound, which is right where events are rare or absent (exact of
    Clopper and Pearson, which gives the rule of three, or Wilson's score bound), and the cluster
    bootstrap, which is right where items of one conversation go wrong together.

    Args:
        values: Scores, at least one.
        groups: Conversation of each.
        alpha: Error rate of each of the two bounds.
        resamples: Of the bootstrap.
        seed: Of the bootstrap.
        exact: Clopper-Pearson instead of Wilson.
    """
    sample = cluster(values, groups)
    estimate = float(sample.sums.sum() / sample.sizes.sum())
    means = bootstrap_means(sample, resamples=resamples, seed=seed)
    resampled = percentile_bounds(means, estimate, alpha)
    n = len(values)
    total = float(sample.sums.sum())
    if not all(value in (0.0, 1.0) for value in values):
        # Scores between 0 and 1 vary no more than yes/no data of the same mean: rounding the count
        # against us keeps the binomial bounds conservative.
        low = binomial_bounds(math.floor(total), n, alpha, exact=exact).lower
        high = binomial_bounds(math.ceil(total), n, alpha, exact=exact).upper
    else:
        _, low, high = binomial_bounds(round(total), n, alpha, exact=exact)
    return Bounds(estimate, min(low, resampled.lower), max(high, resampled.upper))


def binomial_bounds(successes: int, n: int, alpha: float, *, exact: bool) -> Bounds:
    """Return one-sided bounds of a rate, exact (Clopper-Pearson) or Wilson's.

    References:
        Clopper, Pearson (1934), Biometrika 26, 404-413; Wilson (1927), JASA 22, 209-212.
    """
    if not exact:
        interval = wilson_interval(ProportionStats(n=n, successes=successes), alpha=2.0 * alpha)
        return Bounds(successes / n, interval.lower, interval.upper)
    lower = 0.0 if successes == 0 else float(betaincinv(successes, n - successes + 1, alpha))
    upper = 1.0 if successes == n else float(betaincinv(successes + 1, n - successes, 1.0 - alpha))
    return Bounds(successes / n, lower, upper)


def mcnemar_exact(better: int, worse: int) -> float:
    """Return the exact one-sided p-value of "better no more often than worse".

    H0: of the items on which two models disagree, each is as likely to be right. The binomial tail
    P(X >= better), X ~ Bin(better + worse, 1/2), as `scipy.stats.binomtest(alternative="greater")`.

    References:
        McNemar (1947), Psychometrika 12, 153-157.
    """
    return 1.0 if better == 0 else float(bdtrc(better - 1, better + worse, 0.5))


def adjusted_wald(better: int, worse: int, n: int, alpha: float) -> Bounds:
    """Return bounds of a paired difference that stay open when no item disagrees.

    Half an item is added to each of the four cells of the paired table.

    References:
        Agresti, Min (2005), "Simple improved confidence intervals for comparing matched
        proportions", Statistics in Medicine 24, 729-740.
    """
    total = n + 2.0
    difference = (better - worse) / total
    spread = (better + worse + 1.0) / total - difference * difference
    half = norm_isf(alpha) * math.sqrt(spread / total)
    return Bounds((better - worse) / n, difference - half, difference + half)


def quantile_bounds(values: Sequence[float], level: float, alpha: float) -> Bounds:
    """Bound a quantile by order statistics, without assuming a distribution.

    The count of values below the quantile is Bin(n, level); too few values leave an end infinite.
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    n = len(ordered)
    ranks = np.arange(n)
    # x_(k+1) >= q unless at most k values lie below it: P(Bin <= k) >= 1 - alpha.
    above = np.nonzero(bdtr(ranks, n, level) >= 1.0 - alpha)[0]
    below = np.nonzero(bdtr(ranks, n, level) <= alpha)[0]
    upper = float(ordered[above[0]]) if len(above) and above[0] < n else math.inf
    lower = float(ordered[below[-1]]) if len(below) else -math.inf
    return Bounds(float(np.quantile(ordered, level)), lower, upper)
