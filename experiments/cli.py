"""`carril exp ls|show|report|assign|holdout|analyze|power|simulate|decide|shadow`, by hand.

Imports of numpy, scipy and pydantic happen inside the commands, so that `carril --help` is quick.
Exit codes: 0 ok, 1 the treatment is refused or a replay differs, 2 usage, 5 inconclusive.
"""

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from experiments.analysis.cli import (
    Choice,
    ConfigOption,
    ControlOption,
    EventsOption,
    PhaseOption,
    TreatmentOption,
    VersionOption,
    add_commands,
    analysed,
    write_file,
)
from experiments.analysis.holdout_cli import holdout
from experiments.assignment.cli import assign
from experiments.shadow.cli import shadow
from experiments.stats.simulation_cli import simulate
from experiments.terminal import (
    EXIT_INCONCLUSIVE,
    EXIT_OK,
    EXIT_REFUSED,
    cell,
    fail,
    print_json,
    print_table,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pydantic import BaseModel, ValidationError

    from experiments.decision.verdict import Decision
    from experiments.stats.comparison import Comparison
    from experiments.stats.power import Design
    from experiments.stats.summary import Metric, Summary

Model = TypeVar("Model", bound="BaseModel")

_MAX_ERRORS = 10
"""Validation errors shown before the rest is counted."""

exp_app = typer.Typer(
    name="exp", help="Analyse, plan, simulate and decide experiments.", no_args_is_help=True
)
add_commands(exp_app)
exp_app.command()(assign)
exp_app.command()(holdout)
exp_app.command()(shadow)
exp_app.command()(simulate)

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
SummaryOption = Annotated[
    Path, typer.Option("--summary", help="JSON file with the aggregates; - for stdin.")
]


class PlanKind(StrEnum):
    """Kind of metric to plan for."""

    PROPORTION = "proportion"
    MEAN = "mean"
    RATIO = "ratio"


@exp_app.command()
def analyze(summary: SummaryOption, as_json: JsonOption = False) -> None:
    """Compare the arms of every metric in a summary file.

    The file: {"alpha", "metrics": [{"name", "kind": "mean|proportion|ratio|quantile", "effect":
    "absolute|relative", "alternative": "two-sided|greater|less", "sequential": {"method", "n_star"}
    or null, "arms": {"control": {...}, "treatment": {...}}}]}. Exits 5 if a metric has no answer.
    """
    from experiments.stats.summary import Summary

    _run_analyze(_load(Summary, summary), as_json=as_json)


def _run_analyze(loaded: "Summary", *, as_json: bool) -> None:
    from experiments.stats.analysis import analyze as compare
    from experiments.stats.errors import InvalidStatistic, StatisticsError
    from experiments.stats.multiplicity import adjust

    results: list[Comparison | None] = []
    errors: list[StatisticsError | None] = []
    for position, metric in enumerate(loaded.metrics):
        try:
            results.append(compare(metric.metric_input(loaded.alpha)))
            errors.append(None)
        except InvalidStatistic as error:
            fail(f"metrics.{position} ({metric.name}): {error}")
        except StatisticsError as error:
            results.append(None)
            errors.append(error)
    adjusted: list[float | None] = [None] * len(results)
    if loaded.correction is not None:
        known = [i for i, result in enumerate(results) if result is not None]
        p_values = [result.p_value for result in results if result is not None]
        for index, p in zip(known, adjust(p_values, loaded.correction), strict=True):
            adjusted[index] = p
    rows = [
        _metric_row(metric, result, error, p)
        for metric, result, error, p in zip(loaded.metrics, results, errors, adjusted, strict=True)
    ]
    if as_json:
        document = {"schema_version": 1, "alpha": loaded.alpha, "metrics": rows}
        print_json(document)
    else:
        _print_comparisons(rows)
    if any(error is not None for error in errors):
        raise typer.Exit(EXIT_INCONCLUSIVE)


@exp_app.command()
def power(
    kind: Annotated[PlanKind, typer.Option(help="Kind of metric.")] = PlanKind.PROPORTION,
    rate: Annotated[float | None, typer.Option(help="Control rate, for a proportion.")] = None,
    mean: Annotated[float | None, typer.Option(help="Control mean, for relative effects.")] = None,
    variance: Annotated[
        float | None,
        typer.Option(help="Variance of one unit; for a ratio the delta variance per session."),
    ] = None,
    mde: Annotated[float | None, typer.Option(help="Effect to find; asks for units.")] = None,
    units: Annotated[
        int | None, typer.Option(help="Units of both arms; asks for the effect.")
    ] = None,
    relative: Annotated[bool, typer.Option("--relative", help="mde is a share.")] = False,
    alpha: Annotated[float, typer.Option(help="Error rate.")] = 0.05,
    target: Annotated[float, typer.Option("--power", help="Power wanted.")] = 0.8,
    treatment_percent: Annotated[float, typer.Option(help="Percent of units treated.")] = 50.0,
    per_day: Annotated[float | None, typer.Option(help="New units per day.")] = None,
    collected: Annotated[int, typer.Option(help="Units so far, for the days left.")] = 0,
    design_effect: Annotated[
        float, typer.Option(help="Factor for clustered units, 1 + (m - 1) ICC.")
    ] = 1.0,
    as_json: JsonOption = False,
) -> None:
    """Plan an experiment: units for an effect, or the effect that units can find.

    Prints the plan for one look at the end (a proportion by chi-squared, pooled null) and for an
    always-valid experiment (unpooled).
    """
    from experiments.stats.power import Design, Monitoring, days_left

    if (mde is None) == (units is None):
        fail("give either --mde (asks for units) or --units (asks for the effect)")
    if kind is PlanKind.PROPORTION and rate is None:
        fail("a proportion needs --rate, such as --rate 0.7")
    if kind is not PlanKind.PROPORTION and variance is None:
        fail(f"a {kind.value} needs --variance, the variance of one unit")
    if relative and kind is not PlanKind.PROPORTION and mean is None:
        fail("a relative effect needs --mean")
    rows: list[dict[str, object]] = []
    try:
        for monitoring in Monitoring:
            design = Design(
                alpha=alpha,
                power=target,
                share_control=1.0 - treatment_percent / 100.0,
                share_treatment=treatment_percent / 100.0,
                monitoring=monitoring,
            )
            row = _plan_row(kind, design, rate, mean, variance, mde, units, relative, design_effect)
            total = row["units"]
            if per_day is not None and isinstance(total, int):
                row["days"] = days_left(total, 0, per_day)
                row["days_left"] = days_left(total, collected, per_day)
            rows.append(row)
    except ValueError as error:
        fail(str(error))
    if as_json:
        settings = {"alpha": alpha, "power": target, "kind": kind.value, "plans": rows}
        print_json(settings)
        return
    columns = list(rows[0])
    titles = [column.replace("_", " ") for column in columns]
    print_table("Plan", titles, [[cell(row.get(column)) for column in columns] for row in rows])


@exp_app.command()
def decide(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Experiment, from the event log.")
    ] = None,
    summary: Annotated[
        Path | None, typer.Option("--summary", help="JSON file of the experiment; - for stdin.")
    ] = None,
    replay: Annotated[
        Path | None, typer.Option("--replay", help="Decide again from an evidence file.")
    ] = None,
    evidence: Annotated[
        Path | None,
        typer.Option(
            "--evidence",
            help="Write the evidence file here; CARRIL_HOME/experiments/NAME by default.",
        ),
    ] = None,
    events: EventsOption = None,
    config: ConfigOption = None,
    control: ControlOption = None,
    treatment: TreatmentOption = None,
    version: VersionOption = None,
    phase: PhaseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Decide an experiment and say why, and leave the evidence in a file.

    From the event log (NAME), from aggregates (--summary FILE) or from an evidence file (--replay
    FILE). Exits 0 for PROMOTE_B, 1 for KEEP_A and for invalid data, 5 for NO_CLEAR_WINNER. With
    --replay the decision is made again and must be the same byte for byte, else 1; with NAME and
    --replay the evidence is also computed again from the events, and must be the same.
    """
    if summary is not None and (name is not None or replay is not None):
        fail("--summary FILE stands alone; leave out NAME and --replay")
    if name is not None:
        choice = Choice(name, events, config, control, treatment, version, phase)
        decision = _recomputed(choice, replay) if replay else _from_log(choice, evidence)
    elif replay is not None:
        decision = _replayed(replay)
    elif summary is not None:
        decision = _decided(summary, evidence)
    else:
        fail("give one of NAME, --summary FILE and --replay FILE")
    if as_json:
        from experiments.decision.codec import to_json

        typer.echo(to_json(decision, indent=2), nl=False)
    else:
        _print_decision(decision)
    raise typer.Exit(_exit_code(decision))


def _from_log(choice: Choice, evidence_path: Path | None) -> "Decision":
    from experiments.decision.codec import to_json
    from experiments.home import carril_home

    record = analysed(choice).record
    if evidence_path is None:
        name = f"decision-{record.decision.evidence_sha256[:12]}.json"
        evidence_path = carril_home() / "experiments" / choice.name / name
    write_file(evidence_path, to_json(record, indent=2))
    typer.echo(f"evidence: {evidence_path}", err=True)
    return record.decision


def _recomputed(choice: Choice, path: Path) -> "Decision":
    """Decide again, and check the evidence against the events that it says it is from."""
    from experiments.decision.codec import to_json
    from experiments.decision.record import read

    decision = _replayed(path)
    recorded = read(_read(path)).evidence
    found = analysed(choice).evidence
    if to_json(found) == to_json(recorded):
        return decision
    reason = "the same events give other numbers: the declaration or the options differ"
    if found.events_sha256 != recorded.events_sha256:
        reason = (
            f"the log has other events now (sha256 {found.events_sha256}) than the evidence is "
            f"from ({recorded.events_sha256})"
        )
    return fail(f"the evidence in {str(path)!r} is not reproduced: {reason}", EXIT_REFUSED)


def _decided(summary: Path, evidence_path: Path | None) -> "Decision":
    from experiments.decision.engine import decide as engine
    from experiments.decision.evaluate import evaluate
    from experiments.decision.record import Record, write
    from experiments.decision.summary import DecisionSummary
    from experiments.stats.errors import InvalidStatistic

    loaded = _load(DecisionSummary, summary)
    try:
        found = evaluate(loaded)
    except InvalidStatistic as error:
        fail(str(error))
    decision = engine(found, loaded.policy)
    if evidence_path is not None:
        write(Record(evidence=found, decision=decision), evidence_path)
    return decision


def _replayed(path: Path) -> "Decision":
    from experiments.decision.codec import UnreadableRecord, to_json
    from experiments.decision.record import read
    from experiments.decision.record import replay as again

    try:
        record = read(_read(path))
    except UnreadableRecord as error:
        fail(str(error))
    decision = again(record)
    if to_json(decision) != to_json(record.decision):
        typer.echo(
            f"replay of {str(path)!r} gives {decision.verdict.value}, which differs from the "
            f"recorded {record.decision.verdict.value} or its reasons",
            err=True,
        )
        raise typer.Exit(EXIT_REFUSED)
    return decision


def _exit_code(decision: "Decision") -> int:
    from experiments.decision.verdict import ReasonCode, Verdict

    if decision.verdict is Verdict.PROMOTE_B:
        return EXIT_OK
    if decision.verdict is Verdict.KEEP_A or ReasonCode.INVALID in decision.codes:
        return EXIT_REFUSED
    return EXIT_INCONCLUSIVE


def _plan_row(
    kind: PlanKind,
    design: "Design",
    rate: float | None,
    mean: float | None,
    variance: float | None,
    mde: float | None,
    units: int | None,
    relative: bool,
    design_effect: float,
) -> dict[str, object]:
    from experiments.stats import power as planning
    from experiments.stats.comparison import Effect

    row: dict[str, object] = {"monitoring": design.monitoring.value}
    spread = variance or 0.0
    if units is not None:
        if kind is PlanKind.PROPORTION:
            found = planning.mde_proportions(units / design_effect, rate or 0.0, design)
        else:
            found = planning.minimum_detectable_effect(
                units, spread, spread, design, design_effect=design_effect
            )
        base = rate if kind is PlanKind.PROPORTION else mean
        row |= {"units": units, "effect": found}
        row["relative_effect"] = None if not base else found / abs(base)
        return row
    wanted = mde or 0.0
    if kind is PlanKind.PROPORTION:
        effect = Effect.RELATIVE if relative else Effect.ABSOLUTE
        null = (
            planning.NullVariance.POOLED
            if design.monitoring is planning.Monitoring.FIXED
            else planning.NullVariance.UNPOOLED
        )
        size = planning.sample_size_proportions(
            rate or 0.0, wanted, design, effect=effect, null_variance=null
        )
        if design_effect != 1.0:
            fail("--design-effect with a proportion: plan a ratio with its delta variance")
    elif relative:
        spreads = planning.relative_variances(mean or 0.0, spread, spread, wanted)
        size = planning.sample_size(wanted, *spreads, design, design_effect=design_effect)
    else:
        size = planning.sample_size(wanted, spread, spread, design, design_effect=design_effect)
    row |= {"units": size.total, "control": size.control, "treatment": size.treatment}
    return row


def _metric_row(
    metric: "Metric",
    result: "Comparison | None",
    error: Exception | None,
    adjusted: float | None,
) -> dict[str, object]:
    from experiments.stats.summary import finite_or_none

    row: dict[str, object] = {"name": metric.name, "kind": metric.kind}
    if result is None:
        row |= {"status": "undefined", "effect": None, "ci_lower": None, "ci_upper": None}
        row |= {"standard_error": None, "p_value": None, "method": None}
        row["error"] = {"code": getattr(error, "code", ""), "message": str(error)}
        return row
    row |= {
        "status": "ok",
        "effect": result.effect,
        "ci_lower": finite_or_none(result.ci_lower),
        "ci_upper": finite_or_none(result.ci_upper),
        "standard_error": result.standard_error,
        "p_value": result.p_value,
        "method": result.method,
        "always_valid": result.always_valid,
        "effect_kind": result.effect_kind.value,
        "alternative": result.alternative.value,
        "alpha": result.alpha,
        "n_control": result.n_control,
        "n_treatment": result.n_treatment,
        "control": result.control,
        "treatment": result.treatment,
        "df": finite_or_none(result.df),
        "bayes": _belief(result),
        "error": None,
    }
    if adjusted is not None:
        row["p_value_adjusted"] = adjusted
    return row


def _belief(result: "Comparison") -> dict[str, float] | None:
    from experiments.stats.bayes import effect_belief

    if not result.standard_error > 0:
        return None
    belief = effect_belief(result.effect, result.standard_error)
    return {
        "chance_to_win": belief.chance_to_win,
        "risk_control": belief.risk_control,
        "risk_treatment": belief.risk_treatment,
    }


def _print_comparisons(rows: "Sequence[Mapping[str, object]]") -> None:
    columns = ["metric", "control", "treatment", "effect", "interval", "p", "method"]
    lines = []
    refused = []
    for row in rows:
        error = row["error"]
        if isinstance(error, dict):
            lines.append([str(row["name"]), "", "", "undefined", "", "", ""])
            refused.append(f"{row['name']}: {error['code']} {error['message']}")
            continue
        low, high = cell(row["ci_lower"], "-inf"), cell(row["ci_upper"], "inf")
        shown = row.get("p_value_adjusted", row["p_value"])
        lines.append(
            [
                str(row["name"]),
                cell(row["control"]),
                cell(row["treatment"]),
                f"{cell(row['effect'])} {row['effect_kind']}",
                f"[{low}, {high}]",
                cell(shown),
                str(row["method"]),
            ]
        )
    print_table("Metrics", columns, lines)
    for line in refused:
        typer.echo(line)


def _print_decision(decision: "Decision") -> None:
    from rich.console import Console
    from rich.markup import escape

    console = Console(soft_wrap=True)
    console.print(f"[bold]{decision.verdict.value}[/bold]  {escape(decision.experiment)}")
    for reason in decision.reasons:
        where = f" {reason.metric}:" if reason.metric else ""
        console.print(escape(f"  {reason.code.value}{where} {reason.detail}".rstrip()))
    print_table(
        "Checks",
        ["check", "outcome", "detail"],
        [[check.name, check.outcome.value, check.detail] for check in decision.checks],
    )
    if decision.score is not None and decision.is_valid:
        console.print(escape(f"score (breaks ties only): {decision.score.arithmetic}"))
    if decision.units_left:
        days = "" if decision.days_left is None else f", about {decision.days_left} days"
        console.print(f"{decision.units_left} units left{days}")
    console.print(f"evidence sha256 {decision.evidence_sha256}")


def _read(path: Path) -> bytes:
    try:
        return sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
    except OSError as error:
        fail(f"cannot read {str(path)!r}: {error.strerror}")


def _load(kind: type[Model], path: Path) -> Model:
    from pydantic import ValidationError

    try:
        return kind.model_validate_json(_read(path))
    except ValidationError as error:
        fail(f"{str(path)!r} is not a valid summary:\n{_explain(error)}")


def _explain(error: "ValidationError") -> str:
    lines = []
    for item in error.errors()[:_MAX_ERRORS]:
        where = ".".join(str(part) for part in item["loc"]) or "file"
        value = item.get("input")
        shown = "" if isinstance(value, dict | list) else f" (got {value!r})"
        lines.append(f"  {where}: {item['msg']}{shown}")
    if error.error_count() > _MAX_ERRORS:
        lines.append(f"  and {error.error_count() - _MAX_ERRORS} more")
    return "\n".join(lines)
