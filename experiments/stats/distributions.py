"""The only seam to scipy.special: typed scalar distribution functions.

`scipy.special` is used instead of `scipy.stats` because it loads in a third of the time and gives
the tails without cancellation (`sf(x)` is computed as `cdf(-x)`, never as `1 - cdf(x)`).
"""

import math

from scipy import special


def norm_cdf(x: float) -> float:
    """Return the standard normal distribution function at `x`."""
    return float(special.ndtr(x))


def norm_sf(x: float) -> float:
    """Return the standard normal upper tail at `x`, exact far into the tail."""
    return float(special.ndtr(-x))


def norm_pdf(x: float) -> float:
    """Return the standard normal density at `x`."""
    return math.exp(-0.5 * x * x) / math.sqrt(2.0 * math.pi)


def norm_ppf(probability: float) -> float:
    """Return the standard normal quantile of a probability in [0, 1]."""
    return float(special.ndtri(probability))


def norm_isf(probability: float) -> float:
    """Return the point whose upper tail has a probability, exact for tiny probabilities."""
    return -float(special.ndtri(probability))


def t_cdf(x: float, df: float) -> float:
    """Return Student's distribution function at `x` with `df > 0`, not necessarily whole."""
    return norm_cdf(x) if math.isinf(df) else float(special.stdtr(df, x))


def t_ppf(probability: float, df: float) -> float:
    """Return Student's quantile of a probability in (0, 1)."""
    return norm_ppf(probability) if math.isinf(df) else float(special.stdtrit(df, probability))


def chi2_sf(x: float, df: float) -> float:
    """Return the upper tail of chi-squared at `x >= 0` with `df >= 1` degrees of freedom."""
    return float(special.chdtrc(df, x))


def log_beta(a: float, b: float) -> float:
    """Return ln B(a, b) for positive `a` and `b`."""
    return float(special.betaln(a, b))


def log_gamma(x: float) -> float:
    """Return ln Gamma(x) for positive `x`."""
    return float(special.gammaln(x))


def lambert_w_minus1(x: float) -> float:
    """Return the lower real branch W_{-1} for `x` in [-1/e, 0)."""
    return float(special.lambertw(x, k=-1).real)
