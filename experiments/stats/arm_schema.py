"""One arm in a summary file, by kind of metric.

Field names follow one rule, sums of the numerator first; the column names of GrowthBook's warehouse
queries are accepted as aliases, so that the rows of such a query can be pasted.
"""

from typing import Annotated, Any, Self

from pydantic import (
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FiniteFloat,
    model_validator,
)

from experiments.stats.cuped import CupedStats
from experiments.stats.cuped_ratio import CupedRatioStats
from experiments.stats.moments import MeanStats, ProportionStats
from experiments.stats.quantile import QuantileStats
from experiments.stats.ratio import RatioStats


class Strict(BaseModel):
    """Unknown fields are errors; nothing changes after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


def _whole(value: object) -> object:
    """Take 12.0 for 12, as SQL sums come, but neither true nor "12"."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Count = Annotated[int, BeforeValidator(_whole), Field(ge=0, strict=True)]
"""A whole number, 0 or more."""

Number = Annotated[FiniteFloat, Field(strict=True)]
"""A finite number; not a string that looks like one."""


class MeanArm(Strict):
    """A mean: n with sum and sum_squares, or n with mean and variance (or stddev)."""

    n: Count = Field(validation_alias=AliasChoices("n", "users", "count"))
    sum: Number | None = Field(default=None, validation_alias=AliasChoices("sum", "main_sum"))
    sum_squares: Number | None = Field(
        default=None, validation_alias=AliasChoices("sum_squares", "main_sum_squares")
    )
    mean: Number | None = None
    variance: Annotated[Number, Field(ge=0)] | None = None
    stddev: Annotated[Number, Field(ge=0)] | None = Field(
        default=None, validation_alias=AliasChoices("stddev", "standard_deviation", "std")
    )
    covariate_sum: Number | None = None
    covariate_sum_squares: Number | None = None
    covariate_sum_products: Number | None = Field(
        default=None,
        validation_alias=AliasChoices(
            "covariate_sum_products", "covariate_sum_product", "main_covariate_sum_product"
        ),
    )

    @model_validator(mode="after")
    def _complete(self) -> Self:
        sums = self.sum is not None and self.sum_squares is not None
        moments = self.mean is not None and (self.variance is None) != (self.stddev is None)
        extra = (self.mean, self.variance, self.stddev)
        if sums == moments or (sums and any(value is not None for value in extra)):
            raise ValueError(
                "a mean needs n, sum and sum_squares, or n, mean and one of variance and stddev"
            )
        _all_or_none(self, "covariate_sum", "covariate_sum_squares", "covariate_sum_products")
        return self

    def arm(self) -> MeanStats | CupedStats:
        """Return the sufficient statistics."""
        if self.sum is not None and self.sum_squares is not None:
            metric = MeanStats(n=self.n, sum=self.sum, sum_squares=self.sum_squares)
        else:
            mean = self.mean or 0.0
            spread = self.variance if self.variance is not None else (self.stddev or 0.0) ** 2
            squares = spread * max(0, self.n - 1) + self.n * mean * mean
            metric = MeanStats(n=self.n, sum=self.n * mean, sum_squares=squares)
        if self.covariate_sum is None:
            return metric
        return CupedStats(
            metric=metric,
            covariate=MeanStats(
                n=self.n, sum=self.covariate_sum, sum_squares=self.covariate_sum_squares or 0.0
            ),
            sum_products=self.covariate_sum_products or 0.0,
        )


class ProportionArm(Strict):
    """A proportion: n units, of which `sum` answered yes."""

    n: Count = Field(validation_alias=AliasChoices("n", "users", "count"))
    sum: Count = Field(validation_alias=AliasChoices("sum", "successes", "main_sum"))
    sum_squares: Number | None = Field(
        default=None, validation_alias=AliasChoices("sum_squares", "main_sum_squares")
    )
    """Optional; equals `sum` for yes/no values, which is checked."""

    @model_validator(mode="after")
    def _binary(self) -> Self:
        if self.sum_squares is not None and self.sum_squares != self.sum:
            raise ValueError(
                f"sum_squares is {self.sum_squares!r} but sum is {self.sum!r}; values of a "
                "proportion are 0 or 1, so both are equal. For other values use kind mean"
            )
        return self

    def arm(self) -> ProportionStats:
        """Return the sufficient statistics."""
        return ProportionStats(n=self.n, successes=self.sum)


_PRE_FIELDS = (
    "covariate_sum",
    "covariate_sum_squares",
    "covariate_denominator_sum",
    "covariate_denominator_sum_squares",
    "sum_products_main_covariate",
    "sum_products_main_covariate_denominator",
    "sum_products_denominator_covariate",
    "sum_products_denominator_covariate_denominator",
    "sum_products_covariate_covariate_denominator",
)


class RatioArm(Strict):
    """A ratio of sums over n clusters, optionally with the same ratio before the experiment."""

    n: Count = Field(validation_alias=AliasChoices("n", "users", "count", "n_clusters"))
    sum: Number = Field(validation_alias=AliasChoices("sum", "numerator_sum", "main_sum"))
    sum_squares: Number = Field(
        validation_alias=AliasChoices("sum_squares", "numerator_sum_squares", "main_sum_squares")
    )
    denominator_sum: Number
    denominator_sum_squares: Number
    sum_products: Number = Field(
        validation_alias=AliasChoices(
            "sum_products",
            "cross_sum",
            "denominator_sum_products",
            "main_denominator_sum_product",
            "sum_cross_products",
            "sum_product",
            "cross_products",
        )
    )
    covariate_sum: Number | None = None
    covariate_sum_squares: Number | None = None
    covariate_denominator_sum: Number | None = Field(
        default=None,
        validation_alias=AliasChoices("covariate_denominator_sum", "denominator_pre_sum"),
    )
    covariate_denominator_sum_squares: Number | None = Field(
        default=None,
        validation_alias=AliasChoices(
            "covariate_denominator_sum_squares", "denominator_pre_sum_squares"
        ),
    )
    sum_products_main_covariate: Number | None = Field(
        default=None,
        validation_alias=AliasChoices("sum_products_main_covariate", "main_covariate_sum_product"),
    )
    sum_products_main_covariate_denominator: Number | None = Field(
        default=None,
        validation_alias=AliasChoices(
            "sum_products_main_covariate_denominator", "main_post_denominator_pre_sum_product"
        ),
    )
    sum_products_denominator_covariate: Number | None = Field(
        default=None,
        validation_alias=AliasChoices(
            "sum_products_denominator_covariate", "main_pre_denominator_post_sum_product"
        ),
    )
    sum_products_denominator_covariate_denominator: Number | None = Field(
        default=None,
        validation_alias=AliasChoices(
            "sum_products_denominator_covariate_denominator",
            "denominator_post_denominator_pre_sum_product",
        ),
    )
    sum_products_covariate_covariate_denominator: Number | None = Field(
        default=None,
        validation_alias=AliasChoices(
            "sum_products_covariate_covariate_denominator",
            "main_pre_denominator_pre_sum_product",
        ),
    )

    @model_validator(mode="after")
    def _complete(self) -> Self:
        _all_or_none(self, *_PRE_FIELDS)
        return self

    def arm(self) -> RatioStats | CupedRatioStats:
        """Return the sufficient statistics."""
        if self.covariate_sum is None:
            return RatioStats(
                n=self.n,
                sum=self.sum,
                sum_squares=self.sum_squares,
                denominator_sum=self.denominator_sum,
                denominator_sum_squares=self.denominator_sum_squares,
                sum_products=self.sum_products,
            )
        return CupedRatioStats(
            n=self.n,
            sums=(
                self.sum,
                self.denominator_sum,
                self.covariate_sum,
                self.covariate_denominator_sum or 0.0,
            ),
            products=(
                self.sum_squares,
                self.sum_products,
                self.sum_products_main_covariate or 0.0,
                self.sum_products_main_covariate_denominator or 0.0,
                self.denominator_sum_squares,
                self.sum_products_denominator_covariate or 0.0,
                self.sum_products_denominator_covariate_denominator or 0.0,
                self.covariate_sum_squares or 0.0,
                self.sum_products_covariate_covariate_denominator or 0.0,
                self.covariate_denominator_sum_squares or 0.0,
            ),
        )


_CLUSTER_FIELDS = (
    "n_clusters",
    "sum",
    "sum_squares",
    "denominator_sum",
    "denominator_sum_squares",
    "sum_products",
)


class QuantileArm(Strict):
    """A quantile of n observations with its outer order statistics, and its clusters."""

    n: Count = Field(validation_alias=AliasChoices("n", "quantile_n"))
    """Observations."""
    value: Number = Field(
        validation_alias=AliasChoices("value", "quantile", "quantile_hat", "estimate")
    )
    lower: Number = Field(validation_alias=AliasChoices("lower", "quantile_lower"))
    upper: Number = Field(validation_alias=AliasChoices("upper", "quantile_upper"))
    n_star: Count | None = Field(
        default=None, validation_alias=AliasChoices("n_star", "quantile_nstar", "n_ranks")
    )
    """Sample size for which the ranks of lower and upper were computed, if not n."""
    n_clusters: Count | None = Field(
        default=None, validation_alias=AliasChoices("n_clusters", "users")
    )
    sum: Number | None = Field(default=None, validation_alias=AliasChoices("sum", "main_sum"))
    """Observations at or below `value`, summed over clusters; likewise the next four."""
    sum_squares: Number | None = Field(
        default=None, validation_alias=AliasChoices("sum_squares", "main_sum_squares")
    )
    denominator_sum: Number | None = None
    denominator_sum_squares: Number | None = None
    sum_products: Number | None = Field(
        default=None,
        validation_alias=AliasChoices("sum_products", "main_denominator_sum_product"),
    )

    @model_validator(mode="after")
    def _complete(self) -> Self:
        _all_or_none(self, *_CLUSTER_FIELDS)
        return self

    def arm_at(self, level: float) -> QuantileStats:
        """Return the sufficient statistics at a quantile level."""
        clusters = None
        if self.n_clusters is not None:
            clusters = RatioStats(
                n=self.n_clusters,
                sum=self.sum or 0.0,
                sum_squares=self.sum_squares or 0.0,
                denominator_sum=self.denominator_sum or 0.0,
                denominator_sum_squares=self.denominator_sum_squares or 0.0,
                sum_products=self.sum_products or 0.0,
            )
        return QuantileStats(
            n_observations=self.n,
            level=level,
            value=self.value,
            lower=self.lower,
            upper=self.upper,
            n_ranks=self.n_star,
            clusters=clusters,
        )


def _all_or_none(model: BaseModel, *names: str) -> None:
    values: dict[str, Any] = {name: getattr(model, name) for name in names}
    missing = [name for name, value in values.items() if value is None]
    if missing and len(missing) < len(values):
        raise ValueError(f"fields {missing} are missing; these belong together: {list(names)}")
