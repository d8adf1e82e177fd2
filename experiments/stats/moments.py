"""Sufficient statistics of one arm for means and proportions.

An arm is reduced to sums that add: adding two statistics is the same as pooling their units, so
partitions, days and replicas merge, and SQL computes them in one pass at flat memory.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol, Self

from experiments.stats.errors import InvalidStatistic, TooFewUnits, ZeroVariance

_CANCELLATION = 1e-9
"""Relative size below which a negative sum of squared deviations is taken for rounding of the sums
(summing 10^7 doubles loses about seven of sixteen digits), not for impossible input."""


_ULP = 2.0**-53
"""Relative rounding of a sum of squares at best."""
_CONSTANT_ULPS = 4
"""A spread of at most so many roundings is that of equal values ..."""
_TRUSTED_ULPS = 1000
"""... and from so many on its first three digits are those of the data."""


class ArmStatistic(Protocol):
    """What the effect estimators need to know of an arm."""

    @property
    def n(self) -> int:
        """Analysis units."""

    @property
    def estimate(self) -> float:
        """Value of the metric in this arm."""

    @property
    def variance(self) -> float:
        """Variance of one unit's contribution; variance / n is that of the estimate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanStats:
    """Sums of a numeric metric with one value per unit."""

    n: int
    """Units, >= 0."""
    sum: float
    """Sum of the values."""
    sum_squares: float
    """Sum of the squared values, >= sum^2 / n."""

    def __post_init__(self) -> None:
        check_count("n", self.n)
        check_finite(sum=self.sum, sum_squares=self.sum_squares)
        check_empty(self.n, sum=self.sum, sum_squares=self.sum_squares)
        if self.n:
            centred("sum_squares", self.sum_squares, self.sum, self.n)

    @classmethod
    def from_values(cls, values: Iterable[float]) -> Self:
        """Reduce raw values, one per unit. Sums are correctly rounded (`math.fsum`)."""
        data = [float(value) for value in values]
        return cls(n=len(data), sum=math.fsum(data), sum_squares=math.fsum(x * x for x in data))

    @property
    def estimate(self) -> float:
        """Mean of the values.

        Raises:
            TooFewUnits: If there is no unit.
        """
        if self.n == 0:
            raise TooFewUnits("the mean of an empty arm is undefined; it needs at least 1 unit")
        return self.sum / self.n

    @property
    def variance(self) -> float:
        """Unbiased sample variance, (Q - S^2 / n) / (n - 1).

        Raises:
            TooFewUnits: With fewer than two units.
            ZeroVariance: If the spread is lost in the rounding of the sums.
        """
        check_two(self.n)
        squares = centred("sum_squares", self.sum_squares, self.sum, self.n)
        if squares <= _CONSTANT_ULPS * _ULP * self.sum_squares:
            return 0.0
        if squares < _TRUSTED_ULPS * _ULP * self.sum_squares:
            raise ZeroVariance(
                f"the spread around the mean {self.estimate!r} is lost in the rounding of "
                "sum_squares; subtract a constant near the mean from every value first"
            )
        return squares / (self.n - 1)

    def __add__(self, other: Self) -> Self:
        return type(self)(
            n=self.n + other.n,
            sum=self.sum + other.sum,
            sum_squares=self.sum_squares + other.sum_squares,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ProportionStats:
    """Counts of a yes/no metric with one answer per unit."""

    n: int
    """Units, >= 0."""
    successes: int
    """Units that answered yes, in 0..n."""

    def __post_init__(self) -> None:
        check_count("n", self.n)
        check_count("successes", self.successes)
        if self.successes > self.n:
            raise InvalidStatistic(
                f"successes is {self.successes!r} of n = {self.n!r}; allowed: 0 to n. "
                "A metric with several events per unit is a mean or a ratio, not a proportion"
            )

    @property
    def estimate(self) -> float:
        """Share of units that answered yes, in [0, 1].

        Raises:
            TooFewUnits: If there is no unit.
        """
        if self.n == 0:
            raise TooFewUnits("the rate of an empty arm is undefined; it needs at least 1 unit")
        return self.successes / self.n

    @property
    def variance(self) -> float:
        """Maximum-likelihood Bernoulli variance p (1 - p), without n / (n - 1)."""
        rate = self.estimate
        return rate * (1.0 - rate)

    def __add__(self, other: Self) -> Self:
        return type(self)(n=self.n + other.n, successes=self.successes + other.successes)


def centred(name: str, products: float, sum_x: float, n: int, sum_y: float | None = None) -> float:
    """Return sum (x - xbar)(y - ybar) = P - S_x S_y / n, at least 0 when x is y.

    Rational arithmetic: with a mean far above the spread (latencies in ns, timestamps) the textbook
    expression in floating point loses every digit; here only the rounding of the sums remains.

    Args:
        name: Field to blame.
        products: Sum of x * y.
        sum_x: Sum of x.
        n: Units, >= 1.
        sum_y: Sum of y; None for y = x.

    Raises:
        InvalidStatistic: If y = x and the result is negative beyond rounding.
    """
    other = sum_x if sum_y is None else sum_y
    try:
        value = float(Fraction(products) - Fraction(sum_x) * Fraction(other) / n)
    except OverflowError as error:
        raise InvalidStatistic(f"{name} and its sums overflow; change the unit") from error
    if sum_y is not None or value >= 0:
        return value
    if value < -_CANCELLATION * max(abs(products), abs(sum_x) * abs(sum_x) / n):
        raise InvalidStatistic(
            f"{name} is {products!r}, but sum^2 / n is {sum_x * sum_x / n!r}: no data has that. "
            "Check that both sums cover the same units"
        )
    return 0.0


def check_products(
    name: str, products: float, n: int, x: tuple[float, float], y: tuple[float, float]
) -> None:
    """Refuse a sum of products beyond what the spreads allow (Cauchy and Schwarz).

    Args:
        name: Field to blame.
        products: Sum of x * y.
        n: Units, >= 1.
        x: Sum of x, and sum of its squared deviations from the mean.
        y: The same of y.

    Raises:
        InvalidStatistic: If the correlation would be beyond 1, and not by rounding.
    """
    (sum_x, squares_x), (sum_y, squares_y) = x, y
    found = abs(centred(name, products, sum_x, n, sum_y))
    limit = math.sqrt(squares_x) * math.sqrt(squares_y)
    slack = _CANCELLATION * max(abs(products), abs(sum_x) * abs(sum_y) / n, limit)
    if found > limit + slack:
        raise InvalidStatistic(
            f"{name} is {products!r}, which would be a correlation beyond 1: no data has that. "
            "Check that all sums cover the same units"
        )


def check_count(name: str, value: int) -> None:
    """Refuse a count that is not a whole number >= 0."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InvalidStatistic(f"{name} is {value!r}; allowed: a whole number, 0 or more")


def check_finite(**fields: float) -> None:
    """Refuse NaN and infinity."""
    for name, value in fields.items():
        if not math.isfinite(value):
            raise InvalidStatistic(f"{name} is {value!r}; allowed: a finite number")


def check_empty(n: int, **fields: float) -> None:
    """Refuse sums that are not zero in an arm without units."""
    for name, value in fields.items():
        if n == 0 and value != 0:
            raise InvalidStatistic(f"{name} is {value!r} with n = 0; allowed: 0 in an empty arm")


def check_two(n: int) -> None:
    """Refuse a variance of fewer than two units."""
    if n < 2:
        raise TooFewUnits(f"a variance needs at least 2 units, this arm has {n}")
