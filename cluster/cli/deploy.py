"""`carril deploy`: check, plan, deploy, and wait until it is true."""

import os
import sys
from pathlib import Path

import typer
from rich.console import Console

from cluster.cli import plan as plan_command
from cluster.cli.console import note, out, step, warn
from cluster.cli.up import show as show_progress
from cluster.connection import resolve
from cluster.errors import CommandError, ExitCode
from cluster.memory import memory_need
from cluster.plan import Action, Plan
from cluster.plan_experiments import Consequences
from cluster.rollout import check, deploy_and_wait
from cluster.serve_api import ServeApi
from cluster.validate import check_files, load_serve_config

_DISRUPTIVE = {Action.RESTART, Action.DELETED}


def run(
    config_path: Path,
    *,
    yes: bool,
    timeout_s: float,
    address: str | None,
    url: str | None,
    plan_to: Console = out,
) -> None:
    """Deploy a config; return when every replica runs it.

    Args:
        config_path: The config.
        yes: Whether users may be disturbed without being asked about.
        timeout_s: How long it may take until every replica runs it.
        address: Ray's dashboard, if not the started server's.
        url: Carril's API, if not the started server's.
        plan_to: Where the plan is printed; commands with other data on stdout say stderr.

    Raises:
        ConfigError: If the config is not safe; the running one was not touched.
        CommandError: If it was refused or did not become ready; what served before goes on.
    """
    config = load_serve_config(config_path)
    connection = resolve(dashboard_url=address, http_url=url, guess=False)
    with ServeApi(connection.dashboard_url, token=connection.token) as api:
        details = api.details()
        if connection.record is not None:
            # Replicas read model paths from where the server was started.
            os.chdir(connection.record.working_dir)
        with step("Checking model files") as progress:
            sizes = check_files(config, on_file=progress.update)
        plan, effects = plan_command.for_deployment(config, details)
        plan_command.show(plan, effects, to=plan_to)
        if effects.reloads or not details.get("applications"):
            # What runs now already fits; only more models need more memory.
            _check_memory_of_reload(memory_need(config, sizes).swap_bytes)
        if not plan.changes_anything and check(api, config, http_url=connection.http_url).done:
            note("every replica already runs this config")
            return
        _confirm(plan, effects, yes=yes)
        with step("Deploying") as progress:
            seconds = deploy_and_wait(
                api,
                config,
                http_url=connection.http_url,
                timeout_s=timeout_s,
                on_progress=lambda verdict: show_progress(progress, verdict),
            )
    hashes = ", ".join(config.gateways[name].config_hash for name in config.gateways)
    note(f"every replica runs the new config {hashes} after {seconds:.1f} s")


def _confirm(plan: Plan, effects: Consequences, *, yes: bool) -> None:
    reasons = [f"{app.action} of {app.name}" for app in plan.apps if app.action in _DISRUPTIVE]
    reasons += [f"units leave {move.source}" for move in effects.moves if move.back]
    if yes or not reasons:
        return
    if not sys.stdin.isatty():
        raise CommandError(
            f"this deployment disturbs users: {', '.join(reasons)}",
            "if that is meant: --yes",
            ExitCode.USAGE,
        )
    if not typer.confirm(f"This disturbs users ({', '.join(reasons)}). Deploy?", err=True):
        raise CommandError("not deployed")


def _check_memory_of_reload(needed_bytes: int) -> None:
    import psutil

    available = psutil.virtual_memory().available
    if needed_bytes > available:
        warn(
            f"loading the new model beside the old one needs about {needed_bytes / 2**30:.1f} GiB, "
            f"{available / 2**30:.1f} GiB is available"
        )
