"""Simulated adaptive experiments: what following the results earns, and what its intervals cover.

Two variants, yes or no per session, a look after every period, decided by the code that moves real
splits and compared by the code that analyses them.
"""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from experiments.adaptive.declaration import AdaptiveDeclaration
from experiments.adaptive.observe import averaged
from experiments.adaptive.policy import decide
from experiments.adaptive.records import Action, Observation, Plan, Served, State, Status
from experiments.analysis.assemble import LEAST_IN_PERIOD
from experiments.decision.verdict import Verdict
from experiments.stats.effects import EffectEstimate, estimate_effect
from experiments.stats.errors import StatisticsError
from experiments.stats.moments import MeanStats
from experiments.stats.sequential import check_burn_in, confidence_sequence
from experiments.stats.stratified import Stratum
from experiments.stats.stratified import estimate_effect as stratified_effect

_CONTROL, _TREATMENT = "control", "treatment"


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulationPlan:
    """What is simulated."""

    runs: int = 300
    periods: int = 20
    sessions: int = 200
    """New sessions per period."""
    rate: float = 0.6
    """Success rate of control."""
    effect: float = 0.0
    """Added to it in treatment; 0 is an A/A test."""
    drift: float = 0.0
    """Added to both rates from the first period to the last, evenly."""
    alpha: float = 0.05
    seed: int = 42

    def __post_init__(self) -> None:
        if min(self.runs, self.periods, self.sessions) < 1:
            raise ValueError("runs, periods and sessions must be 1 or more")
        for name, start in (("rate", self.rate), ("rate + effect", self.rate + self.effect)):
            if not (0.0 < start < 1.0 and 0.0 < start + self.drift < 1.0):
                raise ValueError(
                    f"{name} goes from {start:g} to {start + self.drift:g}; allowed: between 0 "
                    "and 1 in every period"
                )


class Result(NamedTuple):
    """How it went, over all runs."""

    missed: float
    """Share of runs in which the interval by periods missed the effect at any look."""
    missed_pooled: float
    """The same of the interval that pools all sessions, as if the split had not moved."""
    treatment_share: float
    """Share of sessions with the treatment."""
    regret: float
    """Successes per session below those of the better variant for everybody."""
    regret_equal: float
    """The same of a split in halves."""
    promoted: float
    """Share of runs that recommend the treatment."""
    kept: float
    """Share of runs that recommend the control."""


def simulate(plan: SimulationPlan, declared: AdaptiveDeclaration) -> Result:
    """Simulate experiments.

    Args:
        plan: Traffic.
        declared: How the split moves.
    """
    rules = Plan.of(declared.check(variants=2), "success")
    runs = [_Run(plan, rules, number) for number in range(plan.runs)]
    for run in runs:
        run.go()
    return Result(
        missed=_share(run.missed for run in runs),
        missed_pooled=_share(run.missed_pooled for run in runs),
        treatment_share=sum(run.treatment for run in runs)
        / plan.runs
        / plan.periods
        / plan.sessions,
        regret=sum(run.regret for run in runs) / plan.runs / plan.periods / plan.sessions,
        regret_equal=abs(plan.effect) / 2.0,
        promoted=_share(run.verdict is Verdict.PROMOTE_B for run in runs),
        kept=_share(run.verdict is Verdict.KEEP_A for run in runs),
    )


def _share(flags: Iterable[bool]) -> float:
    found = list(flags)
    return sum(found) / len(found)


class _Run:
    """One experiment."""

    def __init__(self, plan: SimulationPlan, rules: Plan, number: int) -> None:
        self._plan = plan
        self._draw = np.random.Generator(np.random.PCG64([plan.seed, number]))
        served = Served(percent={_CONTROL: 50.0, _TREATMENT: 50.0}, config_hash="0", file_sha256="")
        rules = dataclasses.replace(rules, seed=rules.seed + number, every_s=0.0, min_new_units=0)
        self._state = State(
            experiment="simulated", version=1, control=_CONTROL, plan=rules, served=served
        )
        self._periods: list[dict[str, MeanStats]] = []
        self.missed = self.missed_pooled = False
        self.treatment = 0
        self.regret = 0.0
        self.verdict: Verdict | None = None

    def go(self) -> None:
        for period in range(self._plan.periods):
            self._periods.append(self._traffic(period))
            self._look()
            if self._state.status is Status.LEARNING:
                self._decide()

    def _traffic(self, period: int) -> dict[str, MeanStats]:
        plan = self._plan
        n = int(self._draw.binomial(plan.sessions, self._state.served.percent[_TREATMENT] / 100.0))
        rate = plan.rate + plan.drift * period / max(1, plan.periods - 1)
        self.treatment += n
        # Of what was to be expected: the noise of the answers says nothing about the method.
        worse = n if plan.effect < 0 else plan.sessions - n
        self.regret += worse * abs(plan.effect)
        return {
            _CONTROL: self._answers(plan.sessions - n, rate),
            _TREATMENT: self._answers(n, rate + plan.effect),
        }

    def _answers(self, n: int, rate: float) -> MeanStats:
        successes = float(self._draw.binomial(n, rate))
        return MeanStats(n=n, sum=successes, sum_squares=successes)

    def _look(self) -> None:
        strata = [
            Stratum(period[_CONTROL], period[_TREATMENT])
            for period in self._periods
            if min(arm.n for arm in period.values()) >= LEAST_IN_PERIOD
        ]
        control, treatment = (
            sum((period[arm] for period in self._periods[1:]), self._periods[0][arm])
            for arm in (_CONTROL, _TREATMENT)
        )
        try:
            check_burn_in(control.n, treatment.n)
            self.missed |= self._misses(stratified_effect(strata))
            self.missed_pooled |= self._misses(estimate_effect(control, treatment))
        except StatisticsError:
            return  # too early to say anything

    def _misses(self, estimate: EffectEstimate) -> bool:
        found = confidence_sequence(
            estimate, alpha=self._plan.alpha, n_star=self._plan.periods * self._plan.sessions
        )
        return not found.ci_lower <= self._plan.effect <= found.ci_upper

    def _decide(self) -> None:
        found = averaged(self._periods, [_CONTROL, _TREATMENT], sign=1)
        seen = Observation(
            at=1.0,
            active_config=self._state.served.config_hash,
            file=self._state.served,
            units=len(self._periods) * self._plan.sessions,
            arms=found.arms,
            problem=found.problem,
        )
        decision = decide(self._state, seen)
        state = dataclasses.replace(self._state, n_decisions=self._state.n_decisions + 1)
        if decision.action is Action.MOVE and decision.percent is not None:
            served = dataclasses.replace(state.served, percent=decision.percent)
            state = dataclasses.replace(state, served=served)
        elif decision.recommendation is not None:
            self.verdict = decision.recommendation.verdict
            state = dataclasses.replace(state, status=Status.RECOMMENDED)
        self._state = state
