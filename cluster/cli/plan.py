"""`carril plan`: what a deployment would do."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cluster.cli.console import note, out, print_json, warn
from cluster.connection import resolve
from cluster.plan import Action, Plan, Running, make_plan
from cluster.plan_experiments import Consequences, consequences
from cluster.serve_api import ServeApi
from cluster.validate import ServeConfig, load_serve_config

_STYLES = {
    Action.NONE: "dim",
    Action.CONTROLLER: "dim",
    Action.SCALE: "cyan",
    Action.RECONFIGURE: "cyan",
    Action.RESTART: "bold red",
    Action.ADDED: "green",
    Action.DELETED: "bold red",
}


def run(config_path: Path, *, as_json: bool, address: str | None, against: Path | None) -> None:
    """Compare the config with what runs (or with another file) and print the plan."""
    config = load_serve_config(config_path)
    if against is not None:
        old = dict(load_serve_config(against).raw)
        running = Running.from_config(old)
    else:
        running, old = read_running(address)
    plan, effects = make_plan(running, config.raw), consequences(old, config.raw)
    if as_json:
        print_json(as_document(plan, effects))
    else:
        show(plan, effects)


def read_running(address: str | None) -> tuple[Running, dict[str, Any]]:
    """Return what the cluster runs, and the config it was deployed from.

    Raises:
        CommandError: If no cluster answers.
    """
    connection = resolve(dashboard_url=address)
    with ServeApi(connection.dashboard_url, token=connection.token) as api:
        return running_of(api.details())


def running_of(details: dict[str, Any]) -> tuple[Running, dict[str, Any]]:
    """Split Serve's answer into the state for the plan, and the config behind it."""
    running = Running.from_api(details)
    apps = [
        {"name": name, **app.config} for name, app in running.apps.items() if app.config is not None
    ]
    return running, {"applications": apps}


def for_deployment(config: ServeConfig, details: dict[str, Any]) -> tuple[Plan, Consequences]:
    """Return the plan of a config against Serve's answer."""
    running, old = running_of(details)
    return make_plan(running, config.raw), consequences(old, config.raw)


def show(plan: Plan, effects: Consequences, *, to: Console = out) -> None:
    """Print a plan for people."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("application", "deployment", "action", "because"):
        table.add_column(column, overflow="fold")
    for app in plan.apps:
        style = _STYLES[app.action]
        table.add_row(
            escape(app.name), "", f"[{style}]{app.action}[/]", escape("; ".join(app.reasons))
        )
        for deployment in app.deployments:
            style = _STYLES[deployment.action]
            table.add_row(
                "",
                escape(deployment.name),
                f"[{style}]{deployment.action}[/]",
                escape("; ".join(deployment.reasons)),
            )
    to.print(table)
    for move in effects.moves:
        to.print(
            f"{move.experiment}: {move.share:.2%} of units move {move.source} -> {move.target}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
    for reload in effects.reloads:
        to.print(
            f"{reload.app}: loads beside the running model, then switches ({reload.reason})",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
    for warning in (*plan.warnings, *effects.warnings):
        warn(warning)
    if not plan.changes_anything:
        note("nothing would change")


def as_document(plan: Plan, effects: Consequences) -> dict[str, Any]:
    """Return a plan as JSON."""
    return {
        "changes_anything": plan.changes_anything,
        "applications": [asdict(app) for app in plan.apps],
        "moved_units": [asdict(move) for move in effects.moves],
        "model_reloads": [asdict(reload) for reload in effects.reloads],
        "warnings": [*plan.warnings, *effects.warnings],
    }
