"""The thresholds of the decision engine, each with its origin."""

from dataclasses import dataclass, field
from typing import ClassVar

from pydantic import ConfigDict


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreWeights:
    """Points of each item of the weighted score.

    3, 2, 1, 1 are those of the A/B framework this project started from. They express what the
    business prefers between variants that are equally good on the primary metric; they are not
    evidence.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    satisfaction: float = 3.0
    leads: float = 2.0
    latency: float = 1.0
    confidence: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What it takes to decide."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    min_units_per_arm: int = 100
    """Below it nothing but harm is concluded. Burn-in of the asymptotic confidence sequence."""
    min_runtime_days: float = 7.0
    """A whole week, so that every weekday is in; GrowthBook asks for 3 days."""
    srm_sequential_alpha: float = 0.01
    """Anytime-valid SRM p-value at or below which the experiment is invalid, at any look. Its
    guarantee is at most 1 false stop in 100 experiments, however often one looks."""
    srm_chi2_alpha: float = 0.001
    """Chi-squared SRM p-value that is suspicious at any look and invalid at the horizon; the value
    of GrowthBook and Eppo."""
    max_multi_exposed_share: float = 0.01
    """Share of units in more than one arm that is still tolerated; 1 % as in GrowthBook."""
    max_missing_gap: float = 0.01
    """Difference of the arms' shares of missing outcomes, absolute, that voids the experiment if it
    is also significant; ours, the size of the smallest effects looked for."""
    missing_alpha: float = 0.001
    """Significance of that difference; like the SRM test it guards data quality."""
    promote_non_inferior: bool = False
    """Promote at the horizon if the primary metrics are shown not to be worse than their margins
    ("do no harm"): for cheaper or safer variants. Off: a promotion needs an improvement."""
    use_score_in_ties: bool = True
    """Let the weighted score decide at the horizon when a tie is shown: every primary interval lies
    inside its margin and every guardrail passed."""
    score_weights: ScoreWeights = field(default_factory=ScoreWeights)
