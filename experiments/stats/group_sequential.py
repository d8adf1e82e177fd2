"""Group-sequential tests: a few planned looks, each spending part of alpha.

Tighter than a confidence sequence when the looks are few and the final size is known: with five
looks the final O'Brien-Fleming critical value is 2.03 against 1.96. The looks need not be equally
spaced and their number need not be known; only the spending function is fixed beforehand.
"""

import math
from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

from experiments.stats.comparison import check_alpha
from experiments.stats.distributions import norm_isf, norm_sf

Z_MAX = 8.0
"""Critical values are cut here, as in Reboussin's ld98: the tail beyond is 1e-15."""

_NODES_PER_SD = 4
"""Quadrature nodes per standard deviation of one step; 4 keeps the bounds good to 1e-8."""

_MIN_NODES = 128

_BISECTIONS = 60

_MAX_LOOKS = 100
_MIN_GAP = 1e-3
"""Information fractions at least apart; the work grows with its inverse."""


class Spending(StrEnum):
    """How much of alpha is spent by information fraction t."""

    OBRIEN_FLEMING = "obrien_fleming"
    """2 (1 - Phi(z_{a/2} / sqrt t)) on each side's a: almost nothing early."""
    POCOCK = "pocock"
    """a ln(1 + (e - 1) t): about the same critical value at every look."""
    POWER = "power"
    """a t^phi; phi = 1 is linear, phi = 2 is Spotify's."""


class Boundary(NamedTuple):
    """Critical values of the looks."""

    fractions: tuple[float, ...]
    """Information fractions, increasing, the last at most 1."""
    critical: tuple[float, ...]
    """Critical value of |Z| (or Z if one-sided) at each look."""
    spent: tuple[float, ...]
    """Alpha spent up to and including each look, both sides together."""
    nominal: tuple[float, ...]
    """P-value that the critical value stands for at a single look, both sides together."""


def spent_alpha(
    fraction: float,
    *,
    alpha: float,
    spending: Spending = Spending.OBRIEN_FLEMING,
    two_sided: bool = True,
    phi: float = 2.0,
) -> float:
    """Return the alpha that may be spent by an information fraction.

    Two-sided tests spend alpha / 2 on each side, as ld98, gsDesign and rpact do: the
    O'Brien-Fleming type is then 4 (1 - Phi(z_{a/4} / sqrt t)) in total. (Applying the formula to
    the undivided alpha is a different design, with bounds 4.38, ... instead of 4.88, ... at K = 5.)

    Args:
        fraction: Information fraction t in [0, 1].
        alpha: Total error rate.
        spending: Spending function.
        two_sided: Whether alpha is shared by two sides.
        phi: Exponent of the power family, > 0.

    Returns:
        Alpha spent on both sides together, in [0, alpha].

    References:
        Lan, DeMets (1983), "Discrete sequential boundaries for clinical trials", Biometrika 70,
        659-663; Kim, DeMets (1987), Biometrika 74, for the power family.
    """
    check_alpha(alpha)
    sides = 2 if two_sided else 1
    side = alpha / sides
    t = min(1.0, fraction)
    if t <= 0.0:
        return 0.0
    match spending:
        case Spending.OBRIEN_FLEMING:
            used = 2.0 * norm_sf(norm_isf(side / 2.0) / math.sqrt(t))
        case Spending.POCOCK:
            used = side * math.log1p((math.e - 1.0) * t)
        case Spending.POWER:
            used = side * t**phi
    return sides * used


def boundary(
    fractions: Sequence[float],
    *,
    alpha: float = 0.05,
    spending: Spending = Spending.OBRIEN_FLEMING,
    two_sided: bool = True,
    phi: float = 2.0,
) -> Boundary:
    """Compute critical values for looks at given information fractions.

    The score process S_k = Z_k sqrt(t_k) has independent normal increments. Its density on the
    continuation region is propagated from look to look by Gauss-Legendre quadrature (Armitage,
    McPherson and Rowe's recursion), and each critical value is solved so that the probability of
    crossing first at this look equals the alpha newly spent.

    Args:
        fractions: Information fractions of the looks so far, strictly increasing, in (0, 1].
            Units so far divided by planned units, for a metric with one value per unit.
        alpha: Total error rate.
        spending: Spending function.
        two_sided: Symmetric two-sided bounds, or an upper bound only.
        phi: Exponent of the power family.

    Returns:
        The boundary.

    Raises:
        ValueError: If the fractions are not increasing in (0, 1].

    References:
        Armitage, McPherson, Rowe (1969), "Repeated significance tests on accumulating data", JRSS
        A 132, 235-244; Lan, DeMets (1983); Reboussin, DeMets, Kim, Lan (2000), Controlled Clinical
        Trials 21 (program ld98).
    """
    _check_fractions(fractions)
    spent = [
        spent_alpha(t, alpha=alpha, spending=spending, two_sided=two_sided, phi=phi)
        for t in fractions
    ]
    critical: list[float] = []
    density: _Density | None = None
    previous_t = previous_spent = 0.0
    for t, total in zip(fractions, spent, strict=True):
        step = math.sqrt(t - previous_t)
        target = total - previous_spent
        bound = _solve(density, step, math.sqrt(t), target, two_sided)
        critical.append(bound)
        density = _advance(density, step, bound * math.sqrt(t), math.sqrt(t), two_sided)
        previous_t, previous_spent = t, total
    sides = 2.0 if two_sided else 1.0
    nominal = tuple(sides * norm_sf(c) for c in critical)
    return Boundary(tuple(fractions), tuple(critical), tuple(spent), nominal)


def exit_probabilities(
    fractions: Sequence[float],
    critical: Sequence[float],
    *,
    drift: float = 0.0,
    two_sided: bool = True,
) -> tuple[float, ...]:
    """Return the probability of first crossing at each look.

    Args:
        fractions: Information fractions, strictly increasing, in (0, 1].
        critical: Critical value of each look.
        drift: Expected Z at full information: 0 gives the false-positive rate; effect / standard
            error at the planned size gives power.
        two_sided: Whether crossing below counts too.
    """
    _check_fractions(fractions)
    result: list[float] = []
    density: _Density | None = None
    previous = 0.0
    for t, bound in zip(fractions, critical, strict=True):
        step, edge = math.sqrt(t - previous), bound * math.sqrt(t)
        shift = drift * (t - previous)
        result.append(_crossing(density, step, edge, two_sided, shift))
        density = _advance(density, step, edge, math.sqrt(t), two_sided, shift)
        previous = t
    return tuple(result)


def repeated_p_value(
    z: float,
    fractions: Sequence[float],
    *,
    spending: Spending = Spending.OBRIEN_FLEMING,
    two_sided: bool = True,
    phi: float = 2.0,
) -> float:
    """Return the smallest alpha whose boundary the statistic of the last look crosses.

    Dual to the repeated confidence interval effect +- c_K se; valid at whichever planned look the
    experiment stops. Report the minimum over the looks.

    Args:
        z: Studentised effect at the last look.
        fractions: All looks so far.
        spending: Spending function.
        two_sided: Two-sided, or greater only.
        phi: Exponent of the power family.

    References:
        Jennison, Turnbull (2000), "Group sequential methods with applications to clinical
        trials", section 9.5.
    """
    score = abs(z) if two_sided else z

    def crosses(alpha: float) -> bool:
        made = boundary(fractions, alpha=alpha, spending=spending, two_sided=two_sided, phi=phi)
        return score >= made.critical[-1]

    low, high = 1e-12, 1.0 - 1e-9
    if crosses(low):
        return low
    if not crosses(high):
        return 1.0
    log_low, log_high = math.log(low), math.log(high)
    for _ in range(40):
        middle = 0.5 * (log_low + log_high)
        if crosses(math.exp(middle)):
            log_high = middle
        else:
            log_low = middle
    return math.exp(log_high)


class _Density(NamedTuple):
    nodes: NDArray[np.float64]  # (m,) values of the score process
    mass: NDArray[np.float64]  # (m,) density times quadrature weight


def _crossing(
    density: _Density | None, step: float, edge: float, two_sided: bool, shift: float = 0.0
) -> float:
    if density is None:
        tails = norm_sf((edge - shift) / step)
        return tails + norm_sf((edge + shift) / step) if two_sided else tails
    up = special.ndtr((density.nodes + shift - edge) / step)
    tails_at = up + special.ndtr((-edge - density.nodes - shift) / step) if two_sided else up
    return float(density.mass @ tails_at)


def _solve(
    density: _Density | None, step: float, root_t: float, target: float, two_sided: bool
) -> float:
    if _crossing(density, step, Z_MAX * root_t, two_sided) >= target:
        return Z_MAX
    low, high = -Z_MAX, Z_MAX
    if two_sided:
        low = 0.0
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        if _crossing(density, step, middle * root_t, two_sided) > target:
            low = middle
        else:
            high = middle
    return 0.5 * (low + high)


def _advance(
    density: _Density | None,
    step: float,
    edge: float,
    root_t: float,
    two_sided: bool,
    shift: float = 0.0,
) -> _Density:
    low = -edge if two_sided else -Z_MAX * root_t + min(0.0, shift)
    size = max(_MIN_NODES, math.ceil(_NODES_PER_SD * (edge - low) / step))
    unit, weights = special.roots_legendre(size)
    nodes = 0.5 * (edge - low) * unit + 0.5 * (edge + low)
    scale = 0.5 * (edge - low) * weights
    if density is None:
        values = np.exp(-0.5 * ((nodes - shift) / step) ** 2)
    else:
        gaps = (nodes[:, None] - density.nodes[None, :] - shift) / step
        values = np.exp(-0.5 * gaps**2) @ density.mass
    return _Density(nodes, scale * values / (step * math.sqrt(2.0 * math.pi)))


def _check_fractions(fractions: Sequence[float]) -> None:
    if not 0 < len(fractions) <= _MAX_LOOKS:
        raise ValueError(
            f"fractions has {len(fractions)} looks; allowed: 1 to {_MAX_LOOKS}. To look more often "
            "use the confidence sequence"
        )
    for before, after in zip([0.0, *fractions], fractions, strict=False):
        if not before < after <= 1.0:
            raise ValueError(
                f"fractions are {list(fractions)!r}; allowed: strictly increasing, above 0, up to 1"
            )
        if before and after - before < _MIN_GAP:
            raise ValueError(
                f"fractions {before!r} and {after!r} are closer than {_MIN_GAP:g}; leave one out"
            )
