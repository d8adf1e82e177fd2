"""From two evaluation folders to one verdict."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from experiments.evaluation.intent_calibration import with_prior
from experiments.gate.checks import Check, Outcome, worst
from experiments.gate.comparison import Pair, check_margins, check_superiority
from experiments.gate.floors import check_floors
from experiments.gate.metrics import item_metrics
from experiments.gate.policy import GatePolicy, Hypothesis
from experiments.gate.report import GateReport, Judged
from experiments.gate.run import Run, read_run, require_same_items, require_unchanged
from experiments.gate.slices import SliceFindings, check_slices

_NO_SLICES = SliceFindings((), 0)


def evaluate_gate(
    candidate_dir: Path,
    champion_dir: Path | None,
    policy: GatePolicy,
    *,
    model: Path | None = None,
    now: datetime | None = None,
) -> GateReport:
    """Judge whether a candidate may be promoted.

    Args:
        candidate_dir: Evaluation folder of the candidate.
        champion_dir: Evaluation folder of the model in production; None when there is none, and
            then the floors alone decide.
        policy: Thresholds.
        model: The file that would ship; its hash must be the one that was evaluated.
        now: Time of the report; the present if None.

    Raises:
        EvaluationError: If the evidence cannot be used: files broken or altered, other suites,
            items missing or doubled, no identified model file.
    """
    candidate = read_run(candidate_dir, "candidate")
    if model is not None:
        require_unchanged(model, candidate)
    champion = None if champion_dir is None else read_run(champion_dir, "champion")
    if champion is not None:
        require_same_items(candidate, champion)
    return judge(candidate, champion, policy, now=now)


def judge(
    candidate: Run, champion: Run | None, policy: GatePolicy, *, now: datetime | None = None
) -> GateReport:
    """Judge runs that have been checked; see `evaluate_gate`."""
    metrics = item_metrics(frozenset(policy.out_of_scope_intents))
    checks = list(check_floors(candidate.predictions, metrics, policy))
    outcomes = [check.outcome for check in checks]
    reasons = _open_checks(checks)
    slices = _NO_SLICES
    if champion is not None:
        pairs: list[Pair] = list(zip(candidate.predictions, champion.predictions, strict=True))
        gain, gain_reasons, gain_checks = _gain(candidate, champion, pairs, policy)
        margins = list(check_margins(pairs, metrics, policy))
        slices = check_slices(pairs, metrics, policy)
        checks += [*gain_checks, *margins, *slices.checks]
        outcomes += [gain, *(check.outcome for check in [*margins, *slices.checks])]
        reasons += [*gain_reasons, *_open_checks([*margins, *slices.checks])]
    verdict = worst(outcomes)
    if verdict is Outcome.PASS:
        reasons = [_pass_reason(champion, policy)]
    return GateReport(
        verdict=verdict,
        reasons=tuple(reasons),
        notes=_notes(candidate, champion),
        checks=tuple(checks),
        candidate=_judged(candidate),
        champion=None if champion is None else _judged(champion),
        suite_sha256=candidate.report.suite_sha256,
        policy=policy,
        n_slices_too_small=slices.n_too_small,
        created_at=now or datetime.now(UTC),
    )


def _gain(
    candidate: Run, champion: Run, pairs: Sequence[Pair], policy: GatePolicy
) -> tuple[Outcome, list[str], list[Check]]:
    """Judge what the promotion would gain; nothing is asked under non-inferiority."""
    metrics = item_metrics(frozenset(policy.out_of_scope_intents))
    if policy.hypothesis is Hypothesis.NON_INFERIORITY:
        return Outcome.PASS, [], []
    checks = list(check_superiority(pairs, metrics, policy))
    same_prior = candidate.prior_sha256 == champion.prior_sha256
    if candidate.sha256 == champion.sha256 and same_prior:
        # Two runs of one file can differ by chance or load; no test should turn that into a gain.
        same = (
            f"FAIL primary: candidate and champion are the same file ({candidate.sha256[:12]}); "
            "there is nothing to promote"
        )
        return Outcome.FAIL, [same], checks
    outcomes = [check.outcome for check in checks]
    if Outcome.PASS in outcomes:
        return Outcome.PASS, [], checks
    overall = Outcome.INCONCLUSIVE if Outcome.INCONCLUSIVE in outcomes else Outcome.FAIL
    return overall, _open_checks(checks), checks


def _open_checks(checks: Sequence[Check]) -> list[str]:
    return [
        f"{check.outcome.value} {check.kind.value} {check.name}: {check.detail}"
        for check in checks
        if check.outcome is not Outcome.PASS
    ]


def _pass_reason(champion: Run | None, policy: GatePolicy) -> str:
    if champion is None:
        return "every floor holds; there is no champion to compare with"
    if policy.hypothesis is Hypothesis.NON_INFERIORITY:
        return f"every floor holds, nothing is worse than its margin; accepted: {policy.reason}"
    primary = ", ".join(name.value for name in policy.primary)
    return (
        f"every floor holds, better than the champion on {primary}, nothing worse than its margin"
    )


def _notes(candidate: Run, champion: Run | None) -> tuple[str, ...]:
    if champion is None or candidate.prior_sha256 == champion.prior_sha256:
        return ()
    return (
        f"the candidate was measured {with_prior(candidate.prior_sha256)}, the champion "
        f"{with_prior(champion.prior_sha256)}: what differs is of both, the models and the priors",
    )


def _judged(run: Run) -> Judged:
    target = run.report.target
    return Judged(target.name, target.version, run.sha256, target.prior_sha256)
