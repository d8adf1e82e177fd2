"""Analyse one experiment: log and declaration in, verdict with everything behind it out."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from experiments.analysis.assemble import (
    ARMS,
    add_up,
    count_up,
    declared_metrics,
    kind_of,
    measure_of,
    metric_input,
    periods_input,
    quantile_input,
)
from experiments.analysis.conflicts import Findings, find_conflicts, timing_faults
from experiments.analysis.declaration import (
    ExperimentDeclaration,
    GuardrailDeclaration,
    MetricDeclaration,
)
from experiments.analysis.errors import NothingToCompare, UnknownExperiment
from experiments.analysis.exposures import Group
from experiments.analysis.history import Phase, groups_of, phases
from experiments.analysis.keys import DAY, SLICES
from experiments.analysis.log import Log, Scope, open_log
from experiments.analysis.measures import OUTCOME_MEASURES, feedback_metric
from experiments.analysis.periods import apart, comparable, joined, scopes, specs
from experiments.analysis.pieces import SETTLED_S, Task
from experiments.analysis.quantiles import quantiles_of
from experiments.analysis.result import Analysis, Change, Day, Point, Series, Slice
from experiments.analysis.sums import Cell, Clock, Counts, cells_of, multi_exposed
from experiments.analysis.survey import survey
from experiments.decision.engine import decide
from experiments.decision.evaluate import evaluate
from experiments.decision.evidence import MetricEvidence, MetricRole, Population
from experiments.decision.summary import (
    Arms,
    DecidedMetric,
    DecisionSummary,
    HealthSpec,
    PlanSpec,
    Shares,
)

_CLOCK_SLACK_S = 300.0
"""Exposures this far ahead of now are still a clock of the usual kind."""
_MAX_SLICES = 8
"""Values of a dimension that are shown, the largest ones."""
_SECONDS_PER_DAY = 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What to analyse."""

    version: int | None = None
    """Version of the experiment; the declared one by default."""
    treatment: str | None = None
    """Needed where there are several treatments."""
    phase: int | None = None
    """Number of the phase, from 1; the latest by default."""
    slices: bool = False
    now: float | None = None
    """Seconds since the epoch; the clock by default."""


def analyse(
    path: Path | str,
    experiment: str,
    declaration: ExperimentDeclaration,
    options: Options | None = None,
    *,
    declared: bool = True,
) -> Analysis:
    """Analyse an experiment from its event file.

    Args:
        path: The event file; may be in use. A text is the address of the central database.
        experiment: Its name.
        declaration: What was declared.
        options: What to analyse.
        declared: Whether the declaration is the experimenter's own, salt and split included.

    Returns:
        The analysis, the same for the same events and declaration.

    Raises:
        AnalysisError: If there is nothing to analyse, with the reason.
    """
    chosen = options or Options()
    with open_log(path) as log:
        return _Run(log, experiment, declaration, chosen, declared=declared).analysis()


class _Run:
    """One analysis over one snapshot of the log."""

    def __init__(
        self,
        log: Log,
        experiment: str,
        declaration: ExperimentDeclaration,
        options: Options,
        *,
        declared: bool,
    ) -> None:
        self._log = log
        self._declaration = declaration
        self._declared = declared
        self._options = options
        version = declaration.version if options.version is None else options.version
        now = (time.time() if options.now is None else options.now) + _CLOCK_SLACK_S
        self._survey = survey(log, self._task(experiment, version, now))
        self._groups: Sequence[Group] = groups_of(self._survey.groups)
        if not self._groups:
            raise UnknownExperiment(
                f"the log has no exposures of experiment {experiment!r}, version {version}; "
                "`carril exp ls` shows what it has"
            )
        self._phases = phases(self._groups)
        self._index = _pick_phase(self._phases, options.phase)
        self._phase = self._phases[self._index]
        treatment = _pick_treatment(declaration, self._phase, options.treatment)
        self._periods: Sequence[Phase] = ()
        """Those of a split that moves; none where one phase is analysed by itself."""
        if declaration.adaptive is not None and options.phase is None:
            self._periods = comparable(self._phases, declaration, treatment)
            self._phase = joined(self._periods)
        self._scope = Scope(
            experiment=experiment,
            version=version,
            control=declaration.control,
            treatment=treatment,
            config_hashes=self._phase.config_hashes,
        )
        self._clock = Clock(now=now, settled=self._phase.last_at - SETTLED_S)

    def analysis(self) -> Analysis:
        cells = self._cells(DAY)
        counts = count_up(cells)
        many = multi_exposed(self._log, self._scope)
        findings = self._findings(counts)
        base = self._summary(cells, counts, many, findings)
        summary = base.model_copy(
            update={
                "metrics": (*base.metrics, *self._quantiles()),
                "events_sha256": self._survey.events_sha256,
            }
        )
        evidence = evaluate(summary)
        return Analysis(
            experiment=self._scope.experiment,
            version=self._scope.version,
            control=self._scope.control,
            treatment=self._scope.treatment,
            declaration=self._declaration,
            declared=self._declared,
            phases=self._phases,
            phase=self._index,
            periods=self._periods,
            counts=counts,
            multi_exposed=many,
            notes=findings.notes,
            evidence=evidence,
            decision=decide(evidence, self._declaration.decision.policy),
            days=_days(cells),
            series=self._series(cells, base),
            slices=self._slices(base) if self._options.slices else (),
            changes=_changes(self._phases, self._groups),
        )

    def _findings(self, counts: Mapping[str, Counts]) -> Findings:
        salt = self._declaration.salt if self._declared else None
        how = self._declaration.hash
        found = find_conflicts(self._log, self._scope, self._phase, self._groups, salt, how)
        both = counts["control"].plus(counts["treatment"])
        timing = timing_faults(
            n_units=both.units,
            future=both.future,
            early=both.early,
            impossible=both.impossible,
            n_outcomes=both.outcomes,
        )
        notes = [*found.notes, *timing.notes]
        if self._periods:
            notes += _about_periods(self._periods, self._phases)
        elif len(self._phases) > 1:
            others = sum(p.n_units for p in self._phases) - self._phase.n_units
            notes.append(
                f"the split changed: this is phase {self._index + 1} of {len(self._phases)}; "
                f"{others} units of the other phases are left out"
            )
        declared = {v: float(p) / 100 for v, p in self._declaration.allocation.items()}
        if (
            self._declared
            and not self._periods
            and any(
                abs(declared.get(v, 0.0) - share) > 1e-9 for v, share in self._phase.shares.items()
            )
        ):
            notes.append("the declared split is not the one in the log; the log's is used")
        return Findings((*found.conflicts, *timing.conflicts), tuple(notes))

    def _summary(
        self,
        cells: Sequence[Cell],
        counts: Mapping[str, Counts],
        many: int,
        findings: Findings,
    ) -> DecisionSummary:
        """Return the summary without quantiles."""
        plan = self._declaration.decision
        shares = _shares(self._phase, self._scope, self._declaration)
        looks = []
        control = treatment = 0
        for day in _days(cells):
            control, treatment = control + day.control, treatment + day.treatment
            looks.append(Arms(control=control, treatment=treatment))
        clean = [cell for cell in cells if cell.clean]
        metrics = [
            self._metric(name, declared, part, population)
            for population, part in (
                (Population.INTENTION_TO_TREAT, cells),
                (Population.PER_PROTOCOL, clean),
            )
            for name, declared in declared_metrics(self._declaration).items()
            if kind_of(measure_of(name, declared)) != "quantile"
        ]
        return DecisionSummary(
            experiment=self._scope.experiment,
            alpha=plan.alpha,
            exposures=Arms(control=counts["control"].units, treatment=counts["treatment"].units),
            allocation=shares,
            periods=specs(self._periods, self._declaration, self._scope.treatment),
            looks=() if self._periods else tuple(looks[:-1]),
            runtime_days=(self._phase.last_at - self._phase.first_at) / _SECONDS_PER_DAY,
            plan=PlanSpec(units=plan.planned_units, max_runtime_days=plan.max_runtime_days),
            health=HealthSpec(
                multi_exposed_units=many,
                missing_outcomes=Arms(
                    control=counts["control"].missing, treatment=counts["treatment"].missing
                ),
                conflicts=findings.conflicts,
            ),
            policy=plan.policy,
            metrics=tuple(metrics),
        )

    def _task(self, experiment: str, version: int, now: float) -> Task:
        """Return what is to be read: everything at once."""
        metrics = declared_metrics(self._declaration).items()
        names = {measure_of(name, declared) for name, declared in metrics}
        known = [measure for measure in OUTCOME_MEASURES.values() if measure.name in names]
        return Task(
            experiment,
            version,
            until=None,
            measures=tuple(m.name for m in known if m.kind != "quantile"),
            votes=tuple(sorted(self._declaration.feedback_metrics())),
            keys=(DAY, *(SLICES.values() if self._options.slices else ())),
            now=now,
            durations=any(m.kind == "quantile" for m in known),
            digest=True,
        )

    def _cells(self, key: str) -> list[Cell]:
        if not self._periods:
            return cells_of(self._survey.cells, self._scope, self._clock, key=key)
        return [
            replace(cell, period=period)
            for period, scope in enumerate(scopes(self._scope, self._periods))
            for cell in cells_of(self._survey.cells, scope, self._clock, key=key)
        ]

    def _metric(
        self,
        name: str,
        declared: MetricDeclaration | GuardrailDeclaration,
        cells: Sequence[Cell],
        population: Population,
    ) -> DecidedMetric:
        if self._periods:
            return periods_input(name, declared, apart(cells), population)
        sums = add_up(cells, _key(measure_of(name, declared)))
        return metric_input(name, declared, sums, count_up(cells), population)

    def _quantiles(self) -> list[DecidedMetric]:
        wanted = []
        for name, declared in declared_metrics(self._declaration).items():
            measure = OUTCOME_MEASURES.get(measure_of(name, declared))
            if measure is not None and measure.level is not None:
                wanted.append((name, declared, measure.level))
        if not wanted:
            return []
        levels = sorted({level for _, _, level in wanted})
        found, scope = self._survey.durations, self._scope
        control = quantiles_of(found, scope, scope.control, levels)
        treatment = quantiles_of(found, scope, scope.treatment, levels)
        return [
            quantile_input(
                name,
                declared,
                level,
                {"control": control[level], "treatment": treatment[level]},
            )
            for name, declared, level in wanted
        ]

    def _series(self, cells: Sequence[Cell], base: DecisionSummary) -> list[Series]:
        """Return the effects at the end of every day, with the bands that are valid on all."""
        points: dict[str, list[Point]] = {}
        for day in sorted({cell.key for cell in cells}):
            part = [cell for cell in cells if cell.key <= day]
            for metric in self._compare(base, part):
                if metric.effect is not None:
                    n = metric.n_control + metric.n_treatment
                    point = Point(day, n, metric.effect, metric.ci_lower, metric.ci_upper)
                    points.setdefault(metric.name, []).append(point)
        return [Series(metric=name, points=found) for name, found in points.items()]

    def _slices(self, base: DecisionSummary) -> list[Slice]:
        found = []
        for dimension, key in SLICES.items():
            cells = self._cells(key)
            sizes: dict[str, int] = {}
            for cell in cells:
                sizes[cell.key] = sizes.get(cell.key, 0) + cell.counts.units
            if len(sizes) < 2:
                continue
            for value in sorted(sizes, key=lambda v: (-sizes[v], v))[:_MAX_SLICES]:
                part = [cell for cell in cells if cell.key == value]
                units = {arm: counts.units for arm, counts in count_up(part).items()}
                found += [
                    Slice(dimension=dimension, value=str(value), units=units, metric=metric)
                    for metric in self._compare(base, part)
                    if metric.role is MetricRole.PRIMARY
                ]
        return found

    def _compare(self, base: DecisionSummary, cells: Sequence[Cell]) -> tuple[MetricEvidence, ...]:
        """Return the metrics on a part of the units, intention to treat, without quantiles."""
        metrics = tuple(
            self._metric(name, declared, cells, Population.INTENTION_TO_TREAT)
            for name, declared in declared_metrics(self._declaration).items()
            if kind_of(measure_of(name, declared)) != "quantile"
        )
        part = base.model_copy(update={"metrics": metrics, "looks": ()})
        return evaluate(part).metrics


def _key(measure: str) -> str:
    """Return the name under which a measure's sums are kept."""
    return feedback_metric(measure) or measure


def _pick_phase(found: Sequence[Phase], number: int | None) -> int:
    if number is None:
        return len(found) - 1
    if not 1 <= number <= len(found):
        raise UnknownExperiment(f"there is no phase {number}; the log has {len(found)}")
    return number - 1


def _pick_treatment(declaration: ExperimentDeclaration, phase: Phase, wanted: str | None) -> str:
    known = sorted((declaration.allocation.keys() | phase.units.keys()) - {declaration.control})
    if wanted is not None:
        if wanted not in known:
            raise UnknownExperiment(f"no treatment {wanted!r}; there are: {', '.join(known)}")
        return wanted
    if len(known) != 1:
        shown = ", ".join(known) or "none"
        raise UnknownExperiment(f"name the treatment with --treatment; there are: {shown}")
    return known[0]


def _shares(phase: Phase, scope: Scope, declaration: ExperimentDeclaration) -> Shares:
    variants = declaration.allocation.keys() | phase.units.keys()
    found = {v: phase.share_of(v, variants) for v in (scope.control, scope.treatment)}
    for variant, share in found.items():
        if share is None or share <= 0:
            raise NothingToCompare(
                f"{variant!r} has no share of the traffic in this phase, so there is nothing to "
                "compare; give it some, or choose an earlier phase with --phase"
            )
    return Shares(control=found[scope.control] or 0.0, treatment=found[scope.treatment] or 0.0)


def _about_periods(used: Sequence[Phase], every: Sequence[Phase]) -> list[str]:
    notes = [
        f"the split moves: sessions of {len(used)} periods are compared within each and averaged "
        "by its size (weights from the recorded probabilities); rates of rare events are bounded "
        "for each variant by itself, and hold while they do not drift"
    ]
    left_out = sum(phase.n_units for phase in every) - sum(phase.n_units for phase in used)
    if left_out:
        notes.append(
            f"{left_out} sessions of periods in which only one variant was seen are left out"
        )
    return notes


def _days(cells: Iterable[Cell]) -> list[Day]:
    found: dict[int, dict[str, int]] = {}
    for cell in cells:
        arms = found.setdefault(int(cell.key), dict.fromkeys(ARMS, 0))
        arms[ARMS[cell.treatment]] += cell.counts.units
    return [Day(day, arms["control"], arms["treatment"]) for day, arms in sorted(found.items())]


def _changes(found: Sequence[Phase], seen: Sequence[Group]) -> list[Change]:
    changes = []
    for number, phase in enumerate(found, start=1):
        split = ", ".join(f"{v} {share:.2%}" for v, share in sorted(phase.shares.items()))
        changes.append(Change(phase.first_at, f"phase {number} begins: {split}"))
    configs: dict[str, float] = {}
    models: dict[tuple[str, str], float] = {}
    for group in seen:
        configs[group.config_hash] = min(
            group.first_at, configs.get(group.config_hash, group.first_at)
        )
        if group.model_sha256:
            key = (group.variant, group.model_sha256)
            models[key] = min(group.first_at, models.get(key, group.first_at))
    changes += [Change(at, f"configuration {name}") for name, at in configs.items()]
    changes += [
        Change(at, f"{variant} answers with model {sha[:12]}")
        for (variant, sha), at in models.items()
    ]
    return sorted(changes)
