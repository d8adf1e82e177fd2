"""`carril exp adapt`: let the split of an experiment follow its results."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster.cli.console import note, out, print_json, watched
from cluster.cli.steering import (
    DEFAULT_CONFIG,
    ConfigOption,
    JsonOption,
    NameArgument,
    OnceOption,
    ReplayOption,
    TimeoutOption,
    base_row,
    controlled,
    journal_of,
    last_decision,
    print_history,
    print_status,
    shown,
    told,
    why,
)
from cluster.errors import CommandError, ExitCode

if TYPE_CHECKING:
    from cluster.adaptive.controller import Controller
    from experiments.adaptive.journal import Journal
    from experiments.adaptive.records import Decision, State

adapt_app = typer.Typer(
    name="adapt",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Let the split follow the results; units keep their first variant.",
)

_INCONCLUSIVE = 5


def with_adapt(app: typer.Typer) -> typer.Typer:
    """Return `carril exp` with its commands that need a cluster."""
    if all(group.typer_instance is not adapt_app for group in app.registered_groups):
        app.add_typer(adapt_app)
    return app


@adapt_app.command()
def run(
    name: NameArgument,
    config: ConfigOption = DEFAULT_CONFIG,
    events: Annotated[
        str | None,
        typer.Option(
            "--events",
            metavar="FILE|URL",
            help="Event file, or postgresql:// address where several nodes serve; "
            "CARRIL_HOME/events/events.db by default.",
        ),
    ] = None,
    once: OnceOption = False,
    interval: Annotated[float, typer.Option(min=0.1, help="Seconds between looks.")] = 10.0,
    timeout: TimeoutOption = 60,
    as_json: JsonOption = False,
) -> None:
    """Move the split as declared until a variant can be recommended.

    Stop it as you like; the same command goes on where it was, and --once suits a scheduler. Exit
    codes: 0 a treatment is recommended, or it is still learning; 1 the control is recommended, or
    somebody else changed the split; 5 the data cannot be believed (--once).
    """
    from experiments.adaptive.records import Code

    decision = None
    with _controller(name, config, events, timeout_s=timeout) as controller:
        with watched("cluster.steering") as stop:
            controller.begin()
            if once:
                decision = controller.tick()
            else:
                controller.run(stop, interval_s=interval)
        state = controller.state
    if as_json:
        print_json(_state_json(_journal(name), state))
    if decision is not None and decision.reasons[0].code in (Code.UNHEALTHY, Code.CONFIG_UNKNOWN):
        raise typer.Exit(_INCONCLUSIVE)
    raise typer.Exit(_exit_code(_journal(name), state))


@adapt_app.command()
def status(name: NameArgument, as_json: JsonOption = False) -> None:
    """Show the split, what it rests on, and the recommendation."""
    journal = _journal(name)
    with told():
        document = _state_json(journal, journal.require())
    if as_json:
        print_json(document)
        return
    keys = ("status", "method", "percent", "since", "recommendation", "last_decision", "why")
    told_of = {key: document[key] or "" for key in keys} | {"percent": _shares(document["percent"])}
    print_status(f"split of {name}, version {document['version']}", told_of)


@adapt_app.command()
def history(name: NameArgument, replay: ReplayOption = False, as_json: JsonOption = False) -> None:
    """Show every decision with its reasons and its evidence file."""
    from experiments.adaptive.journal import faults

    chosen = faults if replay else None
    print_history(_journal(name), base_row, _history_line, chosen, as_json=as_json)


@adapt_app.command()
def simulate(
    rate: Annotated[float, typer.Option(help="Success rate of a control session.")] = 0.6,
    effect: Annotated[float, typer.Option(help="Added to it in treatment; 0 is an A/A test.")] = 0,
    drift: Annotated[float, typer.Option(help="Added to both rates from first to last.")] = 0,
    method: Annotated[str, typer.Option(help="thompson or track_and_stop.")] = "thompson",
    runs: Annotated[int, typer.Option(min=1, help="Simulated experiments.")] = 300,
    periods: Annotated[int, typer.Option(min=1, help="Looks, each of which may move.")] = 20,
    sessions: Annotated[int, typer.Option(min=1, help="New sessions per period.")] = 200,
    seed: Annotated[int, typer.Option(min=0)] = 42,
    as_json: JsonOption = False,
) -> None:
    """Simulate splits that follow their results: what it earns, what the intervals cover.

    Exits 1 if the interval by periods misses the truth more often than promised.
    """
    from pydantic import ValidationError

    from experiments.adaptive.declaration import AdaptiveDeclaration
    from experiments.adaptive.simulation import SimulationPlan
    from experiments.adaptive.simulation import simulate as run_all

    try:
        declared = AdaptiveDeclaration.model_validate({"method": method, "seed": seed})
        plan = SimulationPlan(
            runs=runs,
            periods=periods,
            sessions=sessions,
            rate=rate,
            effect=effect,
            drift=drift,
            seed=seed,
        )
        found = run_all(plan, declared)
    except ValidationError as error:
        known = "allowed: thompson, track_and_stop"
        raise CommandError(f"--method {method!r}; {known}", code=ExitCode.USAGE) from error
    except ValueError as error:
        raise CommandError(str(error), code=ExitCode.USAGE) from error
    promised = plan.alpha + 3 * (plan.alpha * (1 - plan.alpha) / runs) ** 0.5
    if as_json:
        print_json(found._asdict())
    else:
        for line in (
            f"interval by periods misses the effect   {found.missed:.1%} of {runs} runs, promised: "
            f"{plan.alpha:g} at most, over all looks",
            f"interval of all sessions in one pot     {found.missed_pooled:.1%}",
            f"sessions with the treatment             {found.treatment_share:.1%}",
            f"regret per session                      {found.regret:.4f}, in halves: "
            f"{found.regret_equal:.4f}",
            f"recommended: treatment, control         {found.promoted:.1%}, {found.kept:.1%}",
        ):
            out.print(line, markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(int(ExitCode.FAILED if found.missed > promised else ExitCode.OK))


@contextmanager
def _controller(
    name: str, config: Path, events: str | None, *, timeout_s: float
) -> "Iterator[Controller]":
    from cluster.adaptive.controller import Controller
    from experiments.analysis.sources import event_source

    journal, source = _journal(name), event_source(events)
    tell = partial(_tell, journal)
    with controlled(Controller, journal, config, source, timeout_s=timeout_s, tell=tell) as found:
        yield found


def _journal(name: str) -> "Journal":
    from experiments.adaptive.journal import Journal

    return journal_of(Journal, name)


def _tell(journal: "Journal", decision: "Decision", state: "State") -> None:
    from experiments.adaptive.records import Action

    note(f"{decision.action.value:9} {_shares(state.served.percent)}: {why(decision)}")
    if decision.action is not Action.HOLD:
        note(f"          evidence: {journal.records()[-1].path}")


def _state_json(journal: "Journal", state: "State") -> dict[str, Any]:
    kept = journal.records()
    last = kept[-1].record if kept else None
    advice = None if last is None else last.decision.recommendation
    return {
        "experiment": state.experiment,
        "version": state.version,
        "status": state.status.value,
        "method": state.plan.method.value,
        "metric": state.plan.metric,
        "percent": dict(state.served.percent),
        "config": state.served.config_hash,
        "since": shown(state.served_at) if state.served_at else None,
        "recommendation": None if advice is None else f"{advice.verdict.value}: {advice.variant}",
        "best": dict(last.decision.best) if last else {},
        "expected_loss": dict(last.decision.loss) if last else {},
        **last_decision(kept),
    }


def _history_line(row: Mapping[str, Any]) -> str:
    split = f" to {_shares(row['percent'])}" if row["percent"] else ""
    return f"{row['at']}  {row['action']}{split}"


def _shares(percent: Mapping[str, float]) -> str:
    return ", ".join(f"{variant} {share:g} %" for variant, share in sorted(percent.items()))


def _exit_code(journal: "Journal", state: "State") -> int:
    from experiments.adaptive.records import Status
    from experiments.decision.verdict import Verdict

    match state.status:
        case Status.CONFLICT:
            return int(ExitCode.FAILED)
        case Status.RECOMMENDED:
            advice = journal.records()[-1].record.decision.recommendation
            kept = advice is not None and advice.verdict is Verdict.KEEP_A
            return int(ExitCode.FAILED if kept else ExitCode.OK)
        case Status.LEARNING:
            return int(ExitCode.OK)
