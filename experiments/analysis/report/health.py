"""The health of an experiment as a few boxes that are green, amber or red."""

from typing import NamedTuple

from experiments.analysis.assemble import ARMS
from experiments.analysis.report.document import rates
from experiments.analysis.report.words import p_value, percent
from experiments.analysis.result import Analysis
from experiments.decision.checks import is_at_horizon


class Card(NamedTuple):
    """One box."""

    name: str
    value: str
    css: str
    """`good`, `warn`, `bad`, or nothing for what is only told."""
    more: str


def cards(analysis: Analysis) -> list[Card]:
    """Return the boxes: split, units in two arms, lost outcomes, errors, cache, changes."""
    return [
        _split(analysis),
        _two_arms(analysis),
        _missing(analysis),
        _pair(analysis, "Failed requests", "error_share"),
        _pair(analysis, "Answers from the cache", "cached_share"),
        _changes(analysis),
    ]


def _split(analysis: Analysis) -> Card:
    health, policy = analysis.evidence.health, analysis.decision.policy
    total = health.n_control + health.n_treatment
    seen = percent(health.n_treatment / total if total else None, digits=2)
    broken = health.srm_sequential_p <= policy.srm_sequential_alpha
    suspicious = health.srm_chi2_p < policy.srm_chi2_alpha
    if broken or (suspicious and is_at_horizon(analysis.evidence)):
        return Card("Split", "not as declared", "bad", f"{seen} in B; {_p_of_split(analysis)}")
    if suspicious:
        return Card("Split", "suspicious", "warn", f"{seen} in B; {_p_of_split(analysis)}")
    return Card("Split", "as declared", "good", f"{seen} in B; {_p_of_split(analysis)}")


def _p_of_split(analysis: Analysis) -> str:
    return f"p {p_value(analysis.evidence.health.srm_sequential_p)} at every look"


def _two_arms(analysis: Analysis) -> Card:
    health, policy = analysis.evidence.health, analysis.decision.policy
    total = health.n_control + health.n_treatment
    part = analysis.multi_exposed / total if total else 0.0
    css = "bad" if part > policy.max_multi_exposed_share else "good"
    more = f"{analysis.multi_exposed:,} of {total:,}; allowed {policy.max_multi_exposed_share:.0%}"
    return Card("Sessions in two arms", percent(part, digits=2), css, more)


def _missing(analysis: Analysis) -> Card:
    health, policy = analysis.evidence.health, analysis.decision.policy
    arms = [rates(analysis.counts[arm])["missing_share"] or 0.0 for arm in ARMS]
    gap = abs(arms[1] - arms[0])
    css = "good"
    if gap > policy.max_missing_gap and health.missing_p < policy.missing_alpha:
        css = "bad"
    elif gap > policy.max_missing_gap or health.missing_p < policy.missing_alpha:
        css = "warn"
    value = f"{percent(arms[0])} / {percent(arms[1])}"
    return Card("Without outcome, A / B", value, css, f"alike: p {p_value(health.missing_p)}")


def _pair(analysis: Analysis, name: str, key: str) -> Card:
    values = [rates(analysis.counts[arm])[key] for arm in ARMS]
    return Card(f"{name}, A / B", f"{percent(values[0])} / {percent(values[1])}", "", "of requests")


def _changes(analysis: Analysis) -> Card:
    conflicts = analysis.evidence.health.conflicts
    if conflicts:
        many = "one conflict" if len(conflicts) == 1 else f"{len(conflicts)} conflicts"
        return Card("Definition", "changed mid-run", "bad", f"{many}, below")
    phases = len(analysis.phases)
    more = "one salt, name and model per arm" if analysis.declared else "not declared: salt unknown"
    return Card(
        "Definition", "unchanged", "good", more + (f"; phase {phases}" if phases > 1 else "")
    )
