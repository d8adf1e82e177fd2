"""The order of the checks, the verdicts and their reasons."""

import dataclasses
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.decision.codec import UnreadableRecord, digest, from_json, to_json
from experiments.decision.engine import decide
from experiments.decision.evidence import (
    Evidence,
    Health,
    MetricEvidence,
    MetricRole,
    Population,
    Progress,
    ScoreItem,
)
from experiments.decision.policy import Policy
from experiments.decision.record import Record, read, replay
from experiments.decision.verdict import CheckOutcome, Decision, ReasonCode, Verdict
from experiments.stats.comparison import Effect
from experiments.stats.noninferiority import Direction

HEALTHY = Health(n_control=1300, n_treatment=1300, srm_chi2_p=0.8, srm_sequential_p=1.0)
DONE = Progress(planned_units=2500, runtime_days=10.0)


def metric(
    name: str = "satisfaction", low: float = 0.01, high: float = 0.05, **changes: Any
) -> MetricEvidence:
    base = MetricEvidence(
        name=name,
        role=MetricRole.PRIMARY,
        direction=Direction.INCREASE,
        effect_kind=Effect.ABSOLUTE,
        effect=(low + high) / 2,
        ci_lower=low,
        ci_upper=high,
        standard_error=(high - low) / 6,
        p_value=0.001 if low > 0 or high < 0 else 0.5,
        method="asymptotic_cs",
        always_valid=True,
        n_control=1300,
        n_treatment=1300,
    )
    return dataclasses.replace(base, **changes)


def guardrail(low: float = -0.005, high: float = 0.005, **changes: Any) -> MetricEvidence:
    return metric(
        "errors",
        low,
        high,
        **{
            "role": MetricRole.GUARDRAIL,
            "direction": Direction.DECREASE,
            "margin": 0.01,
            **changes,
        },
    )


def evidence(*metrics: MetricEvidence, **changes: Any) -> Evidence:
    base = Evidence(
        experiment="okla-v1-v2",
        alpha=0.05,
        health=HEALTHY,
        progress=DONE,
        metrics=metrics or (metric(), guardrail()),
    )
    return dataclasses.replace(base, **changes)


def test_better_primary_with_passed_guardrails_is_promoted() -> None:
    decision = decide(evidence())
    assert decision.verdict is Verdict.PROMOTE_B
    assert decision.codes == (ReasonCode.PRIMARY_BETTER,)
    assert all(check.outcome is CheckOutcome.PASSED for check in decision.checks)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"srm_sequential_p": 0.001}, ReasonCode.SAMPLE_RATIO_MISMATCH),
        ({"srm_chi2_p": 0.0005}, ReasonCode.SAMPLE_RATIO_MISMATCH),
        ({"multi_exposed_units": 30}, ReasonCode.MULTIPLE_EXPOSURE),
        (
            {"missing_control": 10, "missing_treatment": 90, "missing_p": 1e-9},
            ReasonCode.OUTCOME_LOSS_DIFFERS,
        ),
        ({"conflicts": ("salt changed on day 3",)}, ReasonCode.CONFIG_CONFLICT),
    ],
)
def test_bad_data_is_invalid_however_good_the_result_looks(
    changes: dict[str, Any], code: ReasonCode
) -> None:
    decision = decide(evidence(health=dataclasses.replace(HEALTHY, **changes)))
    assert decision.verdict is Verdict.NO_CLEAR_WINNER
    assert decision.codes[:2] == (ReasonCode.INVALID, code)


def test_chi_squared_mismatch_before_the_horizon_is_only_suspected() -> None:
    health = dataclasses.replace(HEALTHY, srm_chi2_p=0.0005)
    early = Progress(planned_units=10_000, runtime_days=10.0)
    decision = decide(evidence(health=health, progress=early))
    assert decision.verdict is Verdict.PROMOTE_B
    assert decision.codes[-1] is ReasonCode.SAMPLE_RATIO_SUSPECTED


def test_small_or_noisy_outcome_loss_does_not_void() -> None:
    health = dataclasses.replace(HEALTHY, missing_control=10, missing_treatment=90, missing_p=0.2)
    assert decide(evidence(health=health)).verdict is Verdict.PROMOTE_B


def test_shown_harm_keeps_a_even_with_few_units_and_a_better_primary() -> None:
    health = dataclasses.replace(HEALTHY, n_control=50, n_treatment=50)
    progress = Progress(planned_units=2500, runtime_days=0.1)
    bad = guardrail(0.02, 0.2)
    decision = decide(evidence(metric(), bad, health=health, progress=progress))
    assert decision.verdict is Verdict.KEEP_A
    assert decision.codes[0] is ReasonCode.GUARDRAIL_BREACHED


def test_invalid_split_comes_before_a_breached_guardrail() -> None:
    health = dataclasses.replace(HEALTHY, srm_sequential_p=1e-6)
    decision = decide(evidence(metric(), guardrail(0.02, 0.2), health=health))
    assert decision.codes[0] is ReasonCode.INVALID


def test_improvement_waits_for_the_minimum_runtime() -> None:
    decision = decide(evidence(progress=Progress(planned_units=2500, runtime_days=2.0)))
    assert decision.codes == (ReasonCode.INSUFFICIENT, ReasonCode.RUNTIME_TOO_SHORT)


def test_always_valid_improvement_decides_before_the_planned_size() -> None:
    decision = decide(evidence(progress=Progress(planned_units=9000, runtime_days=8.0)))
    assert decision.verdict is Verdict.PROMOTE_B
    assert decision.units_left == 6400
    assert decision.days_left == 20


def test_fixed_horizon_result_does_not_count_before_the_planned_size() -> None:
    peeked = metric(always_valid=False)
    early = Progress(planned_units=9000, runtime_days=8.0)
    decision = decide(evidence(peeked, guardrail(), progress=early))
    assert decision.codes == (ReasonCode.INSUFFICIENT, ReasonCode.BELOW_PLANNED_SIZE)
    assert decide(evidence(peeked, guardrail())).verdict is Verdict.PROMOTE_B


def test_without_a_plan_only_an_improvement_decides() -> None:
    progress = Progress(planned_units=None, runtime_days=9.0)
    undecided = decide(evidence(metric(low=-0.01), progress=progress))
    assert undecided.codes == (ReasonCode.INSUFFICIENT, ReasonCode.NO_PLAN)
    assert undecided.units_left is None
    assert decide(evidence(progress=progress)).verdict is Verdict.PROMOTE_B


def test_maximum_runtime_is_a_horizon_too() -> None:
    progress = Progress(planned_units=9000, runtime_days=28.0, max_runtime_days=28.0)
    decision = decide(evidence(metric(low=-0.01), progress=progress))
    assert decision.codes == (ReasonCode.PRIMARY_INCONCLUSIVE,)


def test_worse_primary_keeps_a_before_the_planned_size() -> None:
    early = Progress(planned_units=9000, runtime_days=1.0)
    decision = decide(evidence(metric(low=-0.05, high=-0.01), guardrail(), progress=early))
    assert decision.verdict is Verdict.KEEP_A
    assert decision.codes == (ReasonCode.PRIMARY_WORSE,)


def test_open_guardrail_blocks_a_promotion() -> None:
    decision = decide(evidence(metric(), guardrail(-0.005, 0.02)))
    assert decision.verdict is Verdict.NO_CLEAR_WINNER
    assert decision.codes == (ReasonCode.GUARDRAIL_OPEN, ReasonCode.PRIMARY_BETTER)


def test_every_primary_must_be_better_after_holm() -> None:
    one, two = metric("a", p_value=0.04), metric("b", p_value=0.03)
    decision = decide(evidence(one, two))
    assert decision.verdict is Verdict.NO_CLEAR_WINNER
    assert dict(decision.adjusted_p_values) == {"a": 0.06, "b": 0.06}
    assert decide(evidence(metric("a"), metric("b"))).verdict is Verdict.PROMOTE_B


def test_many_secondary_metrics_cannot_weaken_the_primary() -> None:
    extra = [metric(f"s{i}", role=MetricRole.SECONDARY, p_value=0.9) for i in range(30)]
    decision = decide(evidence(metric(p_value=0.04), *extra))
    assert decision.verdict is Verdict.PROMOTE_B
    assert dict(decision.adjusted_p_values)["s0"] == 1.0


def test_undefined_deciding_metric_is_invalid_and_a_small_one_insufficient() -> None:
    def broken(problem: str) -> MetricEvidence:
        return metric(effect=None, ci_lower=None, ci_upper=None, p_value=None, problem=problem)

    assert decide(evidence(broken("ZERO_VARIANCE"))).codes == (
        ReasonCode.INVALID,
        ReasonCode.METRIC_UNDEFINED,
    )
    assert decide(evidence(broken("TOO_FEW_UNITS"))).codes == (
        ReasonCode.INSUFFICIENT,
        ReasonCode.TOO_FEW_UNITS,
    )


def test_no_primary_metric_is_invalid() -> None:
    assert ReasonCode.NO_PRIMARY_METRIC in decide(evidence(guardrail())).codes


def scored(name: str, item: ScoreItem, low: float, high: float) -> MetricEvidence:
    return metric(name, low, high, role=MetricRole.SECONDARY, score=item)


TIE = metric(low=-0.009, high=0.011, margin=0.02, score=ScoreItem.SATISFACTION)


def test_score_is_shown_arithmetic() -> None:
    decision = decide(
        evidence(
            TIE,
            scored("leads", ScoreItem.LEADS, -0.02, 0.01),
            scored("confidence", ScoreItem.CONFIDENCE, -0.02, 0.05),
            metric(
                "p95",
                -300.0,
                100.0,
                role=MetricRole.SECONDARY,
                direction=Direction.DECREASE,
                score=ScoreItem.LATENCY,
            ),
        )
    )
    assert decision.score is not None
    assert decision.score.arithmetic == (
        "A = 2 (leads) = 2; B = 3 (satisfaction) + 1 (confidence) + 1 (latency) = 5"
    )


def test_score_breaks_a_shown_tie_only() -> None:
    tie = decide(evidence(TIE, guardrail()))
    assert tie.verdict is Verdict.PROMOTE_B
    assert tie.codes == (ReasonCode.TIE_BREAK_SCORE,)
    wide = dataclasses.replace(TIE, ci_upper=0.04)
    assert decide(evidence(wide, guardrail())).codes == (ReasonCode.PRIMARY_INCONCLUSIVE,)
    off = decide(evidence(TIE, guardrail()), Policy(use_score_in_ties=False))
    assert off.verdict is Verdict.NO_CLEAR_WINNER
    early = Progress(planned_units=9000, runtime_days=8.0)
    assert decide(evidence(TIE, progress=early)).codes[0] is ReasonCode.INSUFFICIENT


def test_score_cannot_overrule_evidence() -> None:
    lost = [
        scored("leads", ScoreItem.LEADS, -0.9, -0.1),
        scored("confidence", ScoreItem.CONFIDENCE, -0.9, -0.1),
    ]
    assert decide(evidence(metric(), *lost, guardrail())).verdict is Verdict.PROMOTE_B


def test_non_inferior_variant_is_promoted_by_that_policy_only() -> None:
    level = metric(low=-0.01, high=0.03, margin=0.02)
    assert decide(evidence(level)).verdict is Verdict.NO_CLEAR_WINNER
    promoted = decide(evidence(level), Policy(promote_non_inferior=True))
    assert promoted.codes == (ReasonCode.NON_INFERIOR,)


def test_per_protocol_informs_and_does_not_decide() -> None:
    other = metric(low=-0.08, high=-0.02, population=Population.PER_PROTOCOL)
    decision = decide(evidence(metric(), other, guardrail()))
    assert decision.verdict is Verdict.PROMOTE_B
    assert decision.codes[-1] is ReasonCode.POPULATIONS_DISAGREE


def test_guardrail_without_margin_is_refused() -> None:
    with pytest.raises(ValueError, match="margin"):
        guardrail(margin=None)


def test_record_replays_byte_for_byte() -> None:
    found = evidence(TIE, guardrail(), progress=Progress(planned_units=2500, runtime_days=9))
    record = Record(evidence=found, decision=decide(found, Policy(min_runtime_days=3)))
    loaded = read(to_json(record, indent=2))
    assert to_json(loaded) == to_json(record)
    assert to_json(replay(loaded)) == to_json(record.decision)
    assert digest(loaded.evidence) == record.decision.evidence_sha256


def test_newer_and_foreign_records_are_refused() -> None:
    newer = to_json(dataclasses.replace(evidence(), schema_version=99))
    with pytest.raises(UnreadableRecord, match="schema_version 99"):
        from_json(Evidence, newer)
    with pytest.raises(UnreadableRecord, match="surprise"):
        from_json(Evidence, to_json(evidence())[:-1] + ',"surprise":1}')


def test_infinite_numbers_never_reach_the_file() -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        to_json(metric(effect=float("nan")))


@st.composite
def random_evidence(draw: st.DrawFn) -> Evidence:
    def one(name: str, role: MetricRole) -> MetricEvidence:
        low = draw(st.floats(-0.1, 0.1))
        high = low + draw(st.floats(0.0, 0.1))
        return metric(
            name,
            low,
            high,
            role=role,
            direction=draw(st.sampled_from(Direction)),
            margin=draw(st.floats(0.001, 0.1)),
            always_valid=draw(st.booleans()),
            p_value=draw(st.floats(0.0, 1.0)),
            score=draw(st.none() | st.sampled_from(ScoreItem)),
        )

    return evidence(
        one("p", MetricRole.PRIMARY),
        one("g", MetricRole.GUARDRAIL),
        one("s", MetricRole.SECONDARY),
        health=Health(
            n_control=draw(st.integers(0, 5000)),
            n_treatment=draw(st.integers(0, 5000)),
            srm_chi2_p=draw(st.floats(0, 1)),
            srm_sequential_p=draw(st.floats(0, 1)),
        ),
        progress=Progress(
            planned_units=draw(st.none() | st.integers(1, 8000)),
            runtime_days=draw(st.floats(0, 40)),
        ),
    )


@settings(max_examples=200, deadline=None)
@given(random_evidence())
def test_every_decision_has_reasons_replays_and_is_safe(found: Evidence) -> None:
    decision = decide(found)
    assert decision.reasons
    assert from_json(Decision, to_json(decision)) == decision
    assert to_json(decide(from_json(Evidence, to_json(found)))) == to_json(decision)
    if decision.verdict is Verdict.PROMOTE_B:
        failed = [check for check in decision.checks if check.outcome is CheckOutcome.FAILED]
        assert not failed
        assert found.progress.runtime_days >= 7.0
        assert min(found.health.n_control, found.health.n_treatment) >= 100
