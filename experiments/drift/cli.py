"""`carril drift baseline|check|compare|simulate`: whether traffic still looks as it did.

Modules that do the work are imported by the commands, so that `carril --help` is quick. Exit codes:
0 no critical drift, 1 critical drift, 2 usage, 3 the event file cannot be read, 5 not enough data.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from experiments.home import carril_home
from experiments.terminal import (
    EXIT_INCONCLUSIVE,
    EXIT_INFRASTRUCTURE,
    EXIT_OK,
    EXIT_REFUSED,
    fail,
    moment,
    print_json,
    print_table,
)

if TYPE_CHECKING:
    from experiments.drift.policy import DriftPolicy
    from experiments.drift.simulation import Proof

DEFAULT_CONFIG = Path("drift.yaml")

drift_app = typer.Typer(
    name="drift",
    help="Compare live traffic with a reference: seven signals, tested, with memory and alerts.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", help="Thresholds and alerts; ./drift.yaml where there is one."),
]
EventsOption = Annotated[
    str | None,
    typer.Option(
        "--events",
        metavar="FILE|URL",
        help="Event file, or postgresql:// address; CARRIL_HOME/events/events.db by default.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@drift_app.command()
def baseline(
    days: Annotated[float, typer.Option(min=0.01, help="Days before --until.")] = 14.0,
    since: Annotated[str | None, typer.Option(help="Start, such as 2026-01-31 (UTC).")] = None,
    until: Annotated[str | None, typer.Option(help="End; the last request without it.")] = None,
    variant: Annotated[
        list[str] | None, typer.Option(help="Variant; all without it. May be repeated.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="File; CARRIL_HOME/drift/baseline.json by default.")
    ] = None,
    allow_short: Annotated[
        bool, typer.Option("--allow-short", help="Also with too few days or sessions.")
    ] = False,
    config: ConfigOption = None,
    events: EventsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Freeze a good period as the reference that later traffic is compared with."""
    from experiments.analysis.sources import event_source
    from experiments.drift.baseline import (
        lint,
        make_baseline,
        shortfalls,
        too_small,
        write_baseline,
    )
    from experiments.drift.source import period_of, read_traffic
    from experiments.events.databases import name_of

    with _told():
        policy = _policy(config)
        source = event_source(events)
        period = period_of(source)
        if period is None:
            fail(f"no traffic in {name_of(str(source))}", EXIT_INCONCLUSIVE)
        first, last = period
        end = moment("--until", until) if until else last + 1e-3
        start = moment("--since", since) if since else max(first, end - days * 86_400.0)
        if start >= end:
            fail("the period is empty: --since is not before --until")
        seen = read_traffic(source, policy, since=start, until=end)
        unknown = sorted(set(variant or ()) - seen.keys())
        if unknown:
            fail(f"no traffic of {unknown} in the period; there is of {sorted(seen)}")
        chosen = {name: part for name, part in seen.items() if not variant or name in variant}
        if not chosen:
            fail("no traffic in the period", EXIT_INCONCLUSIVE)
        made = make_baseline(chosen, policy, since=start, until=end, now=datetime.now(UTC))
        left_out = [] if variant or allow_short else too_small(made.variants, policy)
        if left_out and len(left_out) < len(chosen):
            # A candidate with a tenth of the traffic must not keep the others from a reference.
            chosen = {name: part for name, part in chosen.items() if name not in left_out}
            made = make_baseline(chosen, policy, since=start, until=end, now=datetime.now(UTC))
            least = policy.samples.reference_sessions
            left = f"left out {left_out}: fewer than {least} sessions; --allow-short takes them"
            typer.echo(f"note: {left}", err=True)
        missing = shortfalls(made.variants, policy, since=start, until=end)
        if missing and not allow_short:
            for line in missing:
                typer.echo(f"  {line}", err=True)
            fail("not enough traffic for a baseline; --allow-short takes it", EXIT_INCONCLUSIVE)
        path = out or _home() / "drift" / "baseline.json"
        write_baseline(made, path)
        warnings = lint(made, policy)
    for line in [*missing, *warnings]:
        typer.echo(f"note: {line}", err=True)
    if as_json:
        print_json({"path": str(path), **made.model_dump(mode="json")})
        return
    typer.echo(f"{path}  sha256 {made.sha256}")
    rows = [
        [
            name,
            str(reference.summary.n_sessions),
            str(reference.summary.n_answers),
            _ratio(reference.summary.confidence),
            _ratio(reference.summary.fallback),
            "-" if reference.summary.latency is None else f"{reference.summary.latency.value:.3g}",
            _ratio(reference.summary.satisfaction),
            "-" if not reference.summary.leads.n else f"{reference.summary.leads.estimate:.3g}",
            str(len(reference.summary.intents.weights)),
            _ratio(reference.summary.tokens),
        ]
        for name, reference in made.variants.items()
    ]
    print_table(
        f"{made.since:%Y-%m-%d %H:%M} to {made.until:%Y-%m-%d %H:%M} UTC",
        [
            "variant",
            "sessions",
            "answers",
            "confidence",
            "fallback",
            "p95 s",
            "satisfaction",
            "leads",
            "intents",
            "tokens",
        ],
        rows,
    )


@drift_app.command()
def check(
    baseline_file: Annotated[
        Path | None, typer.Option("--baseline", help="Baseline file; the one of the home.")
    ] = None,
    at: Annotated[str | None, typer.Option(help="End of the windows; now without it.")] = None,
    alert: Annotated[bool, typer.Option(help="Send alerts about what is new.")] = True,
    config: ConfigOption = None,
    events: EventsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare the last hours with the baseline; write a report, tell people what is new."""
    from experiments.analysis.sources import event_source
    from experiments.drift.levels import Level
    from experiments.drift.run import run_check

    with _told():
        now = moment("--at", at) if at else None
        policy = _policy(config)
        done = run_check(
            _home(),
            policy,
            baseline_path=baseline_file,
            events=event_source(events),
            now=now,
            alert=alert,
        )
    for delivery in done.deliveries:
        outcome = "delivered" if delivery.delivered else f"not delivered: {delivery.error}"
        typer.echo(f"alert to {delivery.channel} {outcome}", err=True)
    if as_json:
        print_json(done.document)
    else:
        _show(done.document)
    exits = {Level.CRITICAL: EXIT_REFUSED, Level.INSUFFICIENT_DATA: EXIT_INCONCLUSIVE}
    raise typer.Exit(exits.get(done.level, EXIT_OK))


@drift_app.command()
def compare(
    reference: Annotated[Path, typer.Argument(help="Baseline file to compare with.")],
    current: Annotated[Path, typer.Argument(help="Baseline file that is compared.")],
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare two periods, each frozen by `drift baseline --out`; changes nothing."""
    from experiments.drift.compare import compare_baselines
    from experiments.drift.levels import Level

    with _told():
        document = compare_baselines(reference, current, _policy(config))
    if as_json:
        print_json(document)
    else:
        _show(document)
    exits = {Level.CRITICAL: EXIT_REFUSED, Level.INSUFFICIENT_DATA: EXIT_INCONCLUSIVE}
    raise typer.Exit(exits.get(Level(document["level"]), EXIT_OK))


@drift_app.command()
def simulate(
    runs: Annotated[int, typer.Option(min=1, help="Simulated deployments.")] = 20,
    days: Annotated[float, typer.Option(min=1, help="Days of A/A traffic each.")] = 30.0,
    sessions_per_day: Annotated[int, typer.Option(min=50, help="Sessions a day.")] = 1000,
    seed: Annotated[int, typer.Option(help="Seed; the same gives the same numbers.")] = 42,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Prove the detector: false alarms without drift, and every drift at its threshold found.

    Exits 1 if there is more than one false critical finding in 30 days, if a drift of a critical
    threshold is not found within a week, or if a brand-new intent breaks the divergence.
    """
    from dataclasses import asdict

    from experiments.drift.simulation import Plan, prove, with_made_up_intents

    with _told():
        policy = with_made_up_intents(_policy(config))
    plan = Plan(runs=runs, days=days, sessions_per_day=sessions_per_day, seed=seed, policy=policy)
    proof = prove(plan, lambda line: typer.echo(line, err=True))
    if as_json:
        print_json({"seed": seed, "holds": proof.holds, **asdict(proof)})
    else:
        _show_proof(proof)
    raise typer.Exit(EXIT_OK if proof.holds else EXIT_REFUSED)


def _show_proof(proof: "Proof") -> None:
    alarms = proof.false_alarms
    typer.echo(
        f"A/A: {alarms.runs} runs of {alarms.days:g} days, {alarms.checks} checks: "
        f"{alarms.critical} false critical ({alarms.critical_per_30_days:.2f} in 30 days, most in "
        f"a run {alarms.most_in_a_run}; allowed 1), {alarms.warnings} false warnings "
        f"({alarms.warnings_per_30_days:.2f} in 30 days)"
    )
    rows = [
        [
            found.scenario,
            f"{found.injected:g}",
            f"{found.found} of {found.runs}",
            f"{found.critical} of {found.runs}",
            _hours(found.hours_to_warning),
            _hours(found.hours_to_critical),
            _hours(found.slowest_hours),
        ]
        for found in (*proof.detections, proof.new_intent)
    ]
    columns = ["injected", "size", "found", "critical", "first found", "critical after", "slowest"]
    print_table("Drift of exactly the critical threshold", columns, rows)
    finite = "finite in every check" if proof.new_intent_kl_finite else "NOT finite"
    typer.echo(f"KL with a brand-new intent: {finite}")
    typer.echo("the detector holds" if proof.holds else "the detector does not hold")


def _hours(value: float | None) -> str:
    return "-" if value is None else f"{value:g} h"


def _show(document: dict[str, Any]) -> None:
    from experiments.drift.policy import SignalName
    from experiments.drift.report import TITLES, show_degradation, show_effect

    typer.echo(f"drift: {document['level'].replace('_', ' ')}")
    for name, variant in document["variants"].items():
        rows = []
        for key, item in variant["signals"].items():
            signal, slow, limits = SignalName(key), item["slow"], item["thresholds"]
            rows.append(
                [
                    TITLES[signal],
                    item["level"].replace("_", " "),
                    slow["refusal"] or show_effect(signal, slow["effect"]),
                    show_effect(signal, slow["lower"]),
                    f"{show_effect(signal, limits['warning'])} / "
                    f"{show_effect(signal, limits['critical'])}",
                    f"{slow['hours']:.3g} h" if slow["hours"] else "",
                    str(slow["n_current"]),
                ]
            )
        columns = ["signal", "level", "effect", "lower bound", "thresholds", "window", "n"]
        print_table(name, columns, rows)
        for note in variant["notes"]:
            typer.echo(f"  {note}")
        for item in variant["degradations"]:
            typer.echo(f"  {show_degradation(item)}")
        for item in variant["anomalies"][:5]:
            typer.echo(
                f"  {item['series']} at {item['hour']}: {item['value']:.4g}, usually "
                f"{item['usual']:.4g} (z {item['z']:.1f})"
            )
    for item in document["findings"]:
        typer.echo(f"{item['severity']}: {item['variant']}: {item['title']}")
        for reason in item["reasons"]:
            typer.echo(f"  {reason}")
        typer.echo(f"  acknowledge by {item['sla']['acknowledge_by']}")
    for note in document["notes"]:
        typer.echo(f"note: {note}")
    retrain = document.get("retrain")
    if retrain is not None:
        due = {True: "due", False: "not due"}.get(retrain["due"], "unknown")
        typer.echo(f"retraining: {due}; carril retrain check")


def _ratio(arm: Any) -> str:
    return "-" if not arm.n else f"{arm.estimate:.3g}"


def _home() -> Path:
    return carril_home().absolute()


def _policy(config: Path | None) -> "DriftPolicy":
    from experiments.drift.policy import read_policy

    if config is None and DEFAULT_CONFIG.is_file():
        config = DEFAULT_CONFIG
    return read_policy(config)


@contextmanager
def _told() -> Iterator[None]:
    from experiments.drift.errors import DriftError, EventsUnavailable, NotEnoughData

    try:
        yield
    except EventsUnavailable as error:
        fail(str(error), EXIT_INFRASTRUCTURE)
    except NotEnoughData as error:
        fail(str(error), EXIT_INCONCLUSIVE)
    except DriftError as error:
        fail(str(error))
