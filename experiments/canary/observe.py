"""What the event log says about a canary's step: guardrails with bounds, and the latest answers."""

from collections import Counter
from collections.abc import Mapping

from experiments.analysis.assemble import (
    add_up,
    count_up,
    measure_of,
    metric_input,
)
from experiments.analysis.conflicts import find_conflicts
from experiments.analysis.declaration import (
    CANARY_GUARDRAILS,
    ExperimentDeclaration,
    GuardrailDeclaration,
)
from experiments.analysis.history import groups, phases
from experiments.analysis.log import Log, Scope
from experiments.analysis.measures import OUTCOME_MEASURES, feedback_metric
from experiments.analysis.sums import Clock, aggregate, multi_exposed
from experiments.analysis.votes import aggregate_votes
from experiments.canary.records import Burst, Look, Recent, State
from experiments.decision.evaluate import evaluate
from experiments.decision.evidence import Population
from experiments.decision.summary import Arms, DecisionSummary, HealthSpec, PlanSpec, Shares

_CLOCK_SLACK_S = 300.0
"""Exposures this far ahead of now are still a clock of the usual kind."""
_LONGEST_S = 900.0
"""A request that ends now was begun at most this long ago: three default deadlines."""
_ID_PREFIXES = ("chatcmpl-", "cmpl-")
"""Inference ids start with one of these and 12 hex digits of milliseconds, so a range of ids is a
range of time, and the newest answers are found by the table's key."""
_ALL = "0"
"""One key for the sums: a step is not divided any further."""


def guardrails_of(declaration: ExperimentDeclaration) -> Mapping[str, GuardrailDeclaration]:
    """Return the guardrails of a canary."""
    return CANARY_GUARDRAILS if declaration.canary is None else declaration.canary.guardrails


def look_at(
    log: Log,
    state: State,
    declaration: ExperimentDeclaration,
    *,
    alpha: float,
    min_units: int,
    now: float,
) -> Look | None:
    """Compare the arms on the sessions that began under the split that is served.

    Args:
        log: The event file.
        state: Which canary, and what is served.
        declaration: Of the experiment.
        alpha: Error rate of each bound, over all looks at this step.
        min_units: Sessions per arm for which the bounds are tuned.
        now: Seconds since the epoch.

    Returns:
        None if no session began in this step, or if an arm has no share of the traffic.
    """
    share = state.served.percent / 100.0
    if not 0.0 < share < 1.0:
        return None
    found = groups(log, state.experiment, state.version)
    active = state.served.config_hash
    phase = next((p for p in phases(found) if active in p.config_hashes), None) if found else None
    if phase is None:
        return None
    scope = Scope(
        experiment=state.experiment,
        version=state.version,
        control=state.control,
        treatment=state.treatment,
        config_hashes=phase.config_hashes,
    )
    guardrails = guardrails_of(declaration)
    names = {measure_of(name, metric) for name, metric in guardrails.items()}
    measures = [measure for measure in OUTCOME_MEASURES.values() if measure.name in names]
    clock = Clock(now=now + _CLOCK_SLACK_S, settled=0.0)
    cells = aggregate(log, scope, measures, clock, key=_ALL)
    votes = {metric for metric in map(feedback_metric, names) if metric is not None}
    for metric in sorted(votes):
        cells += aggregate_votes(log, scope, metric, key=_ALL)
    counts = count_up(cells)
    n_control, n_treatment = counts["control"].units, counts["treatment"].units
    smaller = min(share, 1.0 - share)
    summary = DecisionSummary(
        experiment=state.experiment,
        alpha=alpha,
        exposures=Arms(control=n_control, treatment=n_treatment),
        allocation=Shares(control=1.0 - share, treatment=share),
        runtime_days=0.0,
        # The bounds are tightest where the step may first be left.
        plan=PlanSpec(units=max(1, round(min_units / smaller))),
        health=HealthSpec(
            multi_exposed_units=multi_exposed(log, scope),
            conflicts=find_conflicts(
                log, scope, phase, found, declaration.salt, declaration.hash
            ).conflicts,
        ),
        metrics=tuple(
            metric_input(
                name,
                metric,
                add_up(
                    cells, feedback_metric(measure_of(name, metric)) or measure_of(name, metric)
                ),
                counts,
                Population.INTENTION_TO_TREAT,
            )
            for name, metric in guardrails.items()
        ),
    )
    evidence = evaluate(summary)
    return Look(
        n_control=n_control,
        n_treatment=n_treatment,
        guardrails=evidence.metrics,
        health=evidence.health,
    )


_RECENT = """
SELECT unit, status, error_code, finished_at FROM outcomes
WHERE (inference_id BETWEEN :chat_from AND :chat_to OR inference_id BETWEEN :text_from AND :text_to)
    AND experiment = :experiment AND version = :version AND exposure = 'enrolled'
    AND variant = :variant AND finished_at > :since AND cache NOT IN ('hit', 'join')
ORDER BY finished_at DESC, inference_id DESC LIMIT :last
"""


def recent_of(log: Log, state: State, variant: str, burst: Burst, *, now: float) -> Recent:
    """Return the latest answers of a variant since the step began.

    Args:
        log: The event file.
        state: Which canary.
        variant: Which variant.
        burst: How many answers, and how old they may be.
        now: Seconds since the epoch.
    """
    since = max(now - burst.max_age_s, state.step_at)
    oldest = f"{max(0, int((since - _LONGEST_S) * 1000)):012x}"
    chat, text = _ID_PREFIXES
    rows = list(
        log.rows(
            _RECENT,
            {
                "chat_from": chat + oldest,
                "chat_to": chat + "g",
                "text_from": text + oldest,
                "text_to": text + "g",
                "experiment": state.experiment,
                "version": state.version,
                "variant": variant,
                "since": since,
                "last": burst.last,
            },
        )
    )
    failed = [row for row in rows if row[1] == "error"]
    codes = Counter(str(row[2]) for row in failed if row[2])
    return Recent(
        answers=len(rows),
        errors=len(failed),
        error_sessions=len({row[0] for row in failed}),
        first_error_at=min((float(row[3]) for row in failed), default=None),
        codes=tuple(code for code, _ in sorted(codes.items(), key=lambda c: (-c[1], c[0]))),
    )
