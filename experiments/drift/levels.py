"""From measurements in two windows to a level, with reasons."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from experiments.drift.policy import DriftPolicy, SignalName, Thresholds
from experiments.drift.signals import FAMILY, Measurement
from experiments.stats.multiplicity import holm

_ROUNDING = 1e-9
"""An effect of exactly a threshold reaches it, whatever the last bit of its division is."""


class Level(StrEnum):
    """How far a signal is from the reference."""

    INSUFFICIENT_DATA = "insufficient_data"
    OK = "ok"
    WARNING = "warning"
    CRITICAL = "critical"

    @property
    def rank(self) -> int:
        """Position among the levels; higher is worse, not knowing is lowest."""
        return list(Level).index(self)


def worst(levels: "list[Level]") -> Level:
    """Return the worst level; insufficient only if nothing could be judged."""
    return max(levels, key=lambda level: level.rank, default=Level.INSUFFICIENT_DATA)


@dataclass(frozen=True, slots=True, kw_only=True)
class Windowed:
    """A measurement and the window it is of."""

    hours: float
    found: Measurement


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What this check alone says about a signal, without the memory of earlier ones."""

    signal: SignalName
    level: Level
    thresholds: Thresholds
    fast: Windowed
    slow: Windowed
    adjusted_p: float
    """Holm's, over the signals that could be judged; the slow window."""
    reasons: tuple[str, ...]


def judge(
    fast: Mapping[SignalName, Windowed],
    slow: Mapping[SignalName, Windowed],
    policy: DriftPolicy,
    *,
    n_variants: int,
) -> tuple[Judgement, ...]:
    """Judge every signal.

    A level L fires iff in the slow window the effect reaches its threshold (within
    `policy.reach_se` standard errors) and is told from zero at L's error rate after Holm's
    correction, a critical one with a lower bound not below the warning threshold, and the fast
    window confirms it: its effect reaches the warning threshold and is told from zero as well.

    Args:
        fast: Measurements in the fast window.
        slow: Measurements in the slow window.
        policy: Thresholds and budgets.
        n_variants: Variants that share the error budget.
    """
    adjusted = _adjusted(slow)
    return tuple(
        _judge(fast[name], slow[name], adjusted[name], policy, n_variants) for name in slow
    )


def _adjusted(slow: Mapping[SignalName, Windowed]) -> dict[SignalName, float]:
    family = [name for name in FAMILY if slow[name].found.effect is not None]
    found = {name: slow[name].found.p_value for name in slow}
    return found | dict(zip(family, holm([found[name] for name in family]), strict=True))


def _judge(
    fast: Windowed, slow: Windowed, p: float, policy: DriftPolicy, n_variants: int
) -> Judgement:
    name = slow.found.signal
    limits = policy.signals.of(name)
    level, reasons = Level.INSUFFICIENT_DATA, [slow.found.refusal or fast.found.refusal or ""]
    if slow.found.effect is not None and fast.found.effect is not None:
        level, reasons = Level.OK, []
        for wanted in (Level.WARNING, Level.CRITICAL):
            against = _against(wanted, fast.found, slow.found, p, limits, policy, n_variants)
            if against:
                reasons.append(f"not {wanted.value}: {against}")
                break
            level = wanted
            reasons = [_why(wanted, fast, slow, p, limits)]
    return Judgement(
        signal=name,
        level=level,
        thresholds=limits,
        fast=fast,
        slow=slow,
        adjusted_p=p,
        reasons=tuple(reasons),
    )


def _against(
    level: Level,
    fast: Measurement,
    slow: Measurement,
    p: float,
    limits: Thresholds,
    policy: DriftPolicy,
    n_variants: int,
) -> str | None:
    """Return what speaks against a level; None if nothing does."""
    critical = level is Level.CRITICAL
    threshold = limits.critical if critical else limits.warning
    alpha = policy.alpha(critical=critical, n_variants=n_variants)
    if not _reaches(slow, threshold, policy.reach_se):
        return f"effect {slow.effect:.3f} does not reach {threshold:g}"
    if p > alpha:
        return f"effect {slow.effect:.3f} is not told from chance (p {p:.2g}, allowed {alpha:.2g})"
    if critical and (slow.lower is None or slow.lower < limits.warning - _ROUNDING):
        return f"lower bound {slow.lower:.3f} is under the warning threshold {limits.warning:g}"
    if not _reaches(fast, limits.warning, policy.reach_se):
        return f"the last hours do not confirm it: effect {fast.effect:.3f}"
    allowed = policy.alpha(critical=False, n_variants=n_variants)
    if fast.p_value > allowed:
        return f"the last hours do not confirm it: p {fast.p_value:.2g}, allowed {allowed:.2g}"
    return None


def show_p(p: float) -> str:
    """Return a p-value for people: digits beyond the fourth say nothing."""
    return "p < 0.0001" if p < 0.0001 else f"p {p:.2g}"


def _reaches(found: Measurement, threshold: float, reach_se: float) -> bool:
    slack = reach_se * (found.standard_error or 0.0)
    return found.effect is not None and found.effect + slack >= threshold - _ROUNDING


def _why(level: Level, fast: Windowed, slow: Windowed, p: float, limits: Thresholds) -> str:
    threshold = limits.critical if level is Level.CRITICAL else limits.warning
    return (
        f"effect {slow.found.effect:.3f} (lower bound {slow.found.lower:.3f}) in {slow.hours:g} h "
        f"and {fast.found.effect:.3f} in {fast.hours:g} h reach {threshold:g}; {show_p(p)}"
    )
