"""Sample-ratio mismatch: does the traffic split look as declared?

A mismatch means units are lost in one arm (a crash, a slow page, a bot filter): the comparison is
between different people, and no statistic afterwards repairs it.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from experiments.stats.distributions import chi2_sf, log_gamma
from experiments.stats.errors import InvalidStatistic

CHI2_ALPHA = 0.001
"""Display threshold of the chi-squared test, as in GrowthBook and Eppo."""

CONCENTRATION = 10_000.0
"""Dirichlet concentration of the sequential test's alternative, in units: splits within about
1/sqrt(4 * 10,000) = 0.5 points of the declared one are what it is tuned to find. The value is that
of the authors' reference implementation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chi2Srm:
    """Chi-squared test of the split, for one look."""

    statistic: float
    df: int
    p_value: float
    expected: dict[str, float]
    """Expected units per arm."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SequentialSrm:
    """Sequential multinomial test of the split, for every look."""

    log_bayes_factor: float
    """ln of the Bayes factor of a mismatch against the declared split, at the last look."""
    p_value: float
    """Anytime-valid: running minimum of 1 / Bayes factor over the looks given."""


def chi2_srm(counts: Mapping[str, int], weights: Mapping[str, float]) -> Chi2Srm:
    """Test the split once with Pearson's chi-squared.

    H0: units fall into arms with the declared shares. df = arms with weight > 0, minus one. Not
    valid under repeated looks; `sequential_srm` is.

    Args:
        counts: Units per arm.
        weights: Declared weight per arm, same keys, >= 0; only their proportions matter.

    Returns:
        The test; p-value 1 with no units.

    Raises:
        InvalidStatistic: If the keys differ, fewer than two arms have weight, or an arm of weight 0
            has units.
    """
    shares = _shares(counts, weights)
    total = sum(counts[arm] for arm in shares)
    expected = {arm: share * total for arm, share in shares.items()}
    df = len(shares) - 1
    if total == 0:
        return Chi2Srm(statistic=0.0, df=df, p_value=1.0, expected=expected)
    statistic = sum((counts[arm] - e) ** 2 / e for arm, e in expected.items())
    return Chi2Srm(statistic=statistic, df=df, p_value=chi2_sf(statistic, df), expected=expected)


def log_bayes_factor(
    counts: Mapping[str, int],
    weights: Mapping[str, float],
    *,
    concentration: float = CONCENTRATION,
) -> float:
    """Return ln of the Bayes factor of a Dirichlet mixture against the declared split.

    B(k w + S) / B(k w) / prod_i w_i^{S_i}, with w the declared shares, S the counts, k the
    concentration and B the multivariate beta function. It depends on the totals only, not on the
    order of arrival, and is a non-negative martingale of mean 1 when the split is right.

    Args:
        counts: Units per arm so far.
        weights: Declared weights.
        concentration: k > 0; larger looks for smaller mismatches.

    References:
        Lindon, Malek (2022), "Anytime-valid inference for multinomial count data", NeurIPS;
        arXiv:2011.03567, eq. 6.
    """
    if not concentration > 0:
        raise ValueError(f"concentration is {concentration!r}; allowed: above 0")
    shares = _shares(counts, weights)
    total = sum(counts[arm] for arm in shares)
    result = log_gamma(concentration) - log_gamma(concentration + total)
    for arm, share in shares.items():
        prior = concentration * share
        result += log_gamma(prior + counts[arm]) - log_gamma(prior)
        result -= counts[arm] * math.log(share)
    return result


def sequential_srm(
    looks: Iterable[Mapping[str, int]],
    weights: Mapping[str, float],
    *,
    concentration: float = CONCENTRATION,
) -> SequentialSrm:
    """Test the split at every look.

    P(p_value <= alpha at any look) <= alpha by Ville's inequality, however often one looks; safe
    for an automatic abort.

    Args:
        looks: Cumulative units per arm at each look, in order. The last alone gives a valid but
            weaker p-value than the whole history.
        weights: Declared weights; a change of the split starts a new test.
        concentration: See `log_bayes_factor`.

    Raises:
        InvalidStatistic: If there is no look or counts go down.
    """
    best = last = -math.inf
    previous: Mapping[str, int] = {}
    for counts in looks:
        for arm, count in counts.items():
            if count < previous.get(arm, 0):
                raise InvalidStatistic(
                    f"arm {arm!r} falls from {previous[arm]} to {count}; looks are cumulative"
                )
        last = log_bayes_factor(counts, weights, concentration=concentration)
        best = max(best, last)
        previous = counts
    if last == -math.inf:
        raise InvalidStatistic("looks is empty; allowed: at least one look")
    return SequentialSrm(log_bayes_factor=last, p_value=math.exp(min(0.0, -best)))


TILTS = tuple(sign * 0.02 * 2.0**step for step in range(7) for sign in (1.0, -1.0))
"""Logarithms of the odds ratios that the test of a moving split looks for: 2 % more or less units
in an arm, up to three times as many. Fixed before any data."""


class PeriodUnits(NamedTuple):
    """Units of one period, in which the split did not move."""

    control: int
    treatment: int
    share: float
    """Probability of the treatment among both arms, in (0, 1); fixed before the period began."""


def moving_split_chi2(periods: Sequence[PeriodUnits]) -> float:
    """Return the chi-squared p-value of a split that moved between periods, for one look.

    Statistics and degrees of freedom of the periods add up, as the periods are independent given
    their shares. A period with fewer than five expected units in an arm is left out.
    """
    statistic, df = 0.0, 0
    for period in periods:
        n = period.control + period.treatment
        if n * min(period.share, 1.0 - period.share) < 5.0:
            continue
        expected = n * period.share
        statistic += (period.treatment - expected) ** 2 / (expected * (1.0 - period.share))
        df += 1
    return 1.0 if df == 0 else chi2_sf(statistic, df)


def moving_split_srm(periods: Sequence[PeriodUnits]) -> SequentialSrm:
    """Test at every look whether units fell into the arms with their recorded probabilities.

    H0: given everything before it, a unit of period s is in the treatment with probability p_s.
    Losing units of an arm multiplies its odds by one ratio exp(t) in every period, whatever the
    split. The likelihood ratio of such a tilt, exp(sum_s [t B_s - n_s ln(1 - p_s + p_s exp(t))]),
    has expectation 1 under H0 unit by unit, also where the p_s follow from earlier outcomes, so the
    mean over `TILTS` is a test martingale and P(p_value <= alpha at any look) <= alpha (Ville).

    Args:
        periods: All so far, in any order: a tilt is the same in all of them.

    Returns:
        The test; p-value 1 with no units.

    References:
        Robbins (1970), Annals of Mathematical Statistics 41, for mixtures of likelihood ratios;
        Lindon, Malek (2022), arXiv:2011.03567, for their use on splits that do not move.
    """
    logs = [0.0] * len(TILTS)
    for control, treatment, share in periods:
        if not 0.0 < share < 1.0:
            raise InvalidStatistic(f"share is {share!r}; allowed: above 0 and below 1")
        for i, tilt in enumerate(TILTS):
            expected = math.log1p(share * math.expm1(tilt))
            logs[i] += tilt * treatment - (control + treatment) * expected
    top = max(logs)
    last = top + math.log(math.fsum(math.exp(log - top) for log in logs) / len(logs))
    return SequentialSrm(log_bayes_factor=last, p_value=math.exp(min(0.0, -last)))


def _shares(counts: Mapping[str, int], weights: Mapping[str, float]) -> dict[str, float]:
    if set(counts) != set(weights):
        raise InvalidStatistic(f"arms differ: counts {sorted(counts)}, weights {sorted(weights)}")
    for arm, weight in weights.items():
        if not (math.isfinite(weight) and weight >= 0):
            raise InvalidStatistic(f"weight of {arm!r} is {weight!r}; allowed: 0 or more")
        if counts[arm] < 0:
            raise InvalidStatistic(f"arm {arm!r} has {counts[arm]!r} units; allowed: 0 or more")
        if weight == 0 and counts[arm]:
            raise InvalidStatistic(f"arm {arm!r} has weight 0 but {counts[arm]} units")
    used = {arm: weight for arm, weight in sorted(weights.items()) if weight > 0}
    if len(used) < 2:
        raise InvalidStatistic(f"{len(used)} arm has a weight above 0; the test needs 2")
    total = math.fsum(used.values())
    return {arm: weight / total for arm, weight in used.items()}
