"""`carril canary`: raise a treatment's share step by step, and take it back when it does harm."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from decimal import Decimal, InvalidOperation
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster.cli.console import note, print_json, warn, watched
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
)
from cluster.errors import CommandError, ExitCode
from cluster.home import carril_home

if TYPE_CHECKING:
    from cluster.canary.controller import Controller
    from experiments.canary.journal import Journal, Kept
    from experiments.canary.records import Decision, State

canary_app = typer.Typer(
    name="canary",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Raise a treatment's share; take it back when it does harm.",
)


@canary_app.command()
def run(
    name: NameArgument,
    config: ConfigOption = DEFAULT_CONFIG,
    steps: Annotated[
        str | None, typer.Option(help="Percents, such as 1,5,20,50,100; as declared by default.")
    ] = None,
    once: OnceOption = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a paused canary.")] = False,
    interval: Annotated[float, typer.Option(min=0.1, help="Seconds between looks.")] = 1.0,
    timeout: TimeoutOption = 60,
    as_json: JsonOption = False,
) -> None:
    """Walk the ramp until the treatment has all traffic or is taken back.

    Stop it as you like; the same command goes on where it was. Exit codes: 0 the last step is
    reached (or asked to stop), 1 rolled back or somebody else changed the split, 5 paused.
    """
    percents = None if steps is None else _parse_steps(steps)
    with (
        _controller(name, config, timeout_s=timeout) as controller,
        watched("cluster.steering") as stop,
    ):
        controller.begin(percents)
        if resume and controller.resume() is None:
            warn(f"the canary of {name!r} is not paused")
        if once:
            controller.tick()
            state = controller.state
        else:
            state = controller.run(stop, interval_s=interval)
    if as_json:
        print_json(_state_json(_journal(name), state))
    raise typer.Exit(_exit_code(state))


@canary_app.command()
def status(name: NameArgument, as_json: JsonOption = False) -> None:
    """Show where a canary stands and what it waits for."""
    journal = _journal(name)
    with told():
        document = _state_json(journal, journal.require())
    if as_json:
        print_json(document)
        return
    keys = ("status", "treatment", "percent", "step", "since", "last_decision", "why")
    title = f"canary of {name}, version {document['version']}"
    print_status(title, {key: document[key] for key in keys})


@canary_app.command()
def history(name: NameArgument, replay: ReplayOption = False, as_json: JsonOption = False) -> None:
    """Show every decision with its reasons and its evidence file."""
    from experiments.canary.journal import faults

    journal = _journal(name)
    row_of = partial(_record_json, journal)
    print_history(journal, row_of, _history_line, faults if replay else None, as_json=as_json)


@canary_app.command()
def rollback(
    name: NameArgument, config: ConfigOption = DEFAULT_CONFIG, timeout: TimeoutOption = 60
) -> None:
    """Take the treatment's traffic back now, whether a controller runs or not."""
    from experiments.canary.records import Status
    from experiments.steering.errors import ControllerBusy

    journal = _journal(name)
    with told():
        journal.require()
    try:
        with _controller(name, config, timeout_s=timeout) as controller:
            controller.roll_back_by_hand()
        return
    except CommandError as error:
        if not isinstance(error.__cause__, ControllerBusy):
            raise
    journal.ask_to_roll_back()
    deadline_s = time.monotonic() + timeout
    while journal.require().status is not Status.ROLLED_BACK:
        if time.monotonic() > deadline_s:
            raise CommandError(
                f"the controller of {name!r} has not rolled back after {timeout:.0f} s",
                "stop it, then run this command again",
            )
        time.sleep(0.1)
    note(f"the controller took the traffic of {journal.require().treatment!r} back")


@contextmanager
def _controller(name: str, config: Path, *, timeout_s: float) -> "Iterator[Controller]":
    from cluster.canary.controller import Controller
    from experiments.home import event_file

    journal, events = _journal(name), event_file(carril_home())
    tell = partial(_tell, journal)
    with controlled(Controller, journal, config, events, timeout_s=timeout_s, tell=tell) as found:
        yield found


def _journal(name: str) -> "Journal":
    from experiments.canary.journal import Journal

    return journal_of(Journal, name)


def _tell(journal: "Journal", decision: "Decision", state: "State") -> None:
    from experiments.canary.records import Action

    percent = state.served.percent
    why = "; ".join(f"{reason.code.value} {reason.detail}".strip() for reason in decision.reasons)
    note(f"{decision.action.value:9} {state.treatment} has {percent:g} %: {why}")
    if decision.action is Action.HOLD:
        return
    kept = journal.records()[-1]
    row = _record_json(journal, kept)
    if row["seconds_to_detect"] is not None:
        note(f"          detected {row['seconds_to_detect']:.1f} s after the first sign of it")
    if row["seconds_to_apply"] is not None:
        note(f"          in force on every gateway {row['seconds_to_apply']:.1f} s later")
    note(f"          evidence: {kept.path}")


def _parse_steps(text: str) -> tuple[float, ...]:
    from experiments.analysis.declaration import check_steps

    try:
        steps = tuple(Decimal(part.strip()) for part in text.split(","))
        check_steps(steps)
    except (InvalidOperation, ValueError) as error:
        shown = "not all numbers" if isinstance(error, InvalidOperation) else error
        raise CommandError(
            f"--steps {text!r}: {shown}", "for example --steps 1,5,20,50,100", ExitCode.USAGE
        ) from error
    return tuple(float(step) for step in steps)


def _state_json(journal: "Journal", state: "State") -> dict[str, Any]:
    return {
        "experiment": state.experiment,
        "version": state.version,
        "status": state.status.value,
        "control": state.control,
        "treatment": state.treatment,
        "percent": state.served.percent,
        "config": state.served.config_hash,
        "step": f"{state.step + 1} of {len(state.plan.steps)}",
        "steps": list(state.plan.steps),
        "since": shown(state.step_at) if state.step_at else None,
        **last_decision(journal.records()),
    }


def _record_json(journal: "Journal", kept: "Kept") -> dict[str, Any]:
    from experiments.canary.machine import time_to_detection

    record = kept.record
    applied = journal.applied(record.number)
    took_s = None
    if applied is not None and record.decision.percent is not None:
        took_s = round(applied.applied_at - record.observation.at, 2)
    detected_s = time_to_detection(record)
    return {
        **base_row(kept),
        "seconds_to_detect": None if detected_s is None else round(detected_s, 2),
        "seconds_to_apply": took_s,
    }


def _history_line(row: Mapping[str, Any]) -> str:
    head = f"{row['at']}  {row['action']}"
    if row["percent"] is not None:
        head += f" to {row['percent']:g} %"
    if row["seconds_to_detect"] is not None:
        head += f", detected in {row['seconds_to_detect']:.1f} s"
    if row["seconds_to_apply"] is not None:
        head += f", in force {row['seconds_to_apply']:.1f} s later"
    return head


def _exit_code(state: "State") -> int:
    from experiments.canary.records import Status

    match state.status:
        case Status.ROLLED_BACK | Status.CONFLICT:
            return int(ExitCode.FAILED)
        case Status.PAUSED:
            return 5
        case _:
            return int(ExitCode.OK)
