"""The command `carril`: names, options and help of every verb.

Nothing heavy is imported here or in the option types, so that `carril --help` answers at once; each
command loads its own module when it runs.
"""

import errno
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from cluster.errors import CommandError, ExitCode

_EPILOG = (
    "State goes under CARRIL_HOME (./var). Data on stdout, progress on stderr. "
    "Exit codes: 0 ok, 1 failed, 2 usage, 3 infrastructure, 4 auth, 5 inconclusive, "
    "130 interrupted."
)
_MACHINE_SAYS_NO = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}
"""Faults of disk and permissions: no bug, wherever they turn up."""


class _InOrder(TyperGroup):
    """Lists commands in the order of a day's work, not of the alphabet."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 (typer calls it by position)
        return list(self.commands)


app = typer.Typer(
    cls=_InOrder,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    epilog=_EPILOG,
    help="Serve your own fine-tuned models, split live traffic, prove which one is better.",
)

ConfigArgument = Annotated[Path, typer.Argument(metavar="CONFIG", help="Serve config file.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
AddressOption = Annotated[
    str | None,
    typer.Option("--address", help="Ray dashboard; RAY_DASHBOARD_ADDRESS, else the local one."),
]
UrlOption = Annotated[
    str | None, typer.Option("--url", help="Address of the API; CARRIL_URL, else the local one.")
]
_FORWARD = {
    "allow_extra_args": True,
    "ignore_unknown_options": True,
    "help_option_names": [],
}
DEFAULT_CONFIG = Path("serve_config.yaml")


@app.command()
def up(
    config: ConfigArgument = DEFAULT_CONFIG,
    port: Annotated[int | None, typer.Option(help="Port of the API.")] = None,
    dashboard_port: Annotated[int, typer.Option(help="Port of Ray's dashboard.")] = 8265,
    ray_port: Annotated[int, typer.Option(help="Port of Ray's control store.")] = 6379,
    num_cpus: Annotated[
        int | None, typer.Option(min=1, help="Logical CPUs; at least 4 by default.")
    ] = None,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds to wait until ready.")] = 600,
    auth: Annotated[bool, typer.Option(help="Ask for a token on Ray's own ports.")] = True,
    haproxy: Annotated[bool, typer.Option(help="HAProxy in front, where there is one.")] = True,
    keep: Annotated[bool, typer.Option(help="Leave a failed cluster up.")] = False,
) -> None:
    """Start the server and return when it is healthy."""
    from cluster.cli import up as command

    command.run(
        config,
        port=port,
        dashboard_port=dashboard_port,
        ray_port=ray_port,
        num_cpus=num_cpus,
        timeout_s=timeout,
        authenticate=auth,
        haproxy=haproxy,
        keep=keep,
    )


@app.command()
def down(
    now: Annotated[bool, typer.Option(help="Do not wait for requests in flight.")] = False,
) -> None:
    """Stop the server that `up` started, and nothing else."""
    from cluster.cli import down as command

    command.run(now=now)


@app.command()
def status(
    as_json: JsonOption = False, address: AddressOption = None, url: UrlOption = None
) -> None:
    """Show applications, replicas, models, split and memory."""
    from cluster.cli import status as command

    command.run(as_json=as_json, address=address, url=url)


@app.command()
def doctor(
    config: ConfigArgument = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Check this machine; exit 1 if something would not work."""
    from cluster.cli import doctor as command

    command.run(config, as_json=as_json)


@app.command()
def plan(
    config: ConfigArgument = DEFAULT_CONFIG,
    as_json: JsonOption = False,
    address: AddressOption = None,
    against: Annotated[
        Path | None, typer.Option(help="Compare with this file, not with what runs.")
    ] = None,
) -> None:
    """Say what a deployment would restart, reconfigure or leave alone."""
    from cluster.cli import plan as command

    command.run(config, as_json=as_json, address=address, against=against)


@app.command()
def deploy(
    config: ConfigArgument = DEFAULT_CONFIG,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds to wait.")] = 600,
    address: AddressOption = None,
    url: UrlOption = None,
) -> None:
    """Check, plan and deploy a config; return when every replica runs it."""
    from cluster.cli import deploy as command

    command.run(config, yes=yes, timeout_s=timeout, address=address, url=url)


@app.command()
def chat(
    message: Annotated[str | None, typer.Argument(help="Ask this and end.")] = None,
    model: Annotated[str, typer.Option(help="Served model.")] = "okla-chat:text",
    variant: Annotated[str | None, typer.Option(help="Pin a variant.")] = None,
    session: Annotated[
        str | None, typer.Option(help="Session id, which decides the variant.")
    ] = None,
    url: UrlOption = None,
    api_key: Annotated[str | None, typer.Option(help="API key; CARRIL_API_KEY.")] = None,
) -> None:
    """Talk to a model; shows variant, cache and speed after each answer."""
    from cluster.cli import chat as command

    command.run(message, model=model, variant=variant, session=session, url=url, api_key=api_key)


@app.command(context_settings=_FORWARD)
def data(context: typer.Context) -> None:
    """Generate and check training data."""
    from training.cli import data_app

    data_app(args=context.args, prog_name="carril data")


@app.command(context_settings=_FORWARD)
def train(context: typer.Context) -> None:
    """Train a model and export it to GGUF."""
    from training.cli import train_command

    single = typer.Typer(add_completion=False)
    single.command()(train_command)
    single(args=context.args, prog_name="carril train")


@app.command(context_settings=_FORWARD)
def jobs(context: typer.Context) -> None:
    """Run trainings and evaluations as jobs on the cluster."""
    from cluster.cli.jobs import jobs_app

    jobs_app(args=context.args, prog_name="carril jobs")


@app.command()
def loop(
    config: Annotated[Path, typer.Option("--config", help="What a turn is made of (YAML).")] = Path(
        "training/configs/loop.yaml"
    ),
    serve_config: Annotated[
        Path, typer.Option("--serve-config", help="Config that is served now.")
    ] = DEFAULT_CONFIG,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds for a deployment.")] = 600,
    api_key: Annotated[str | None, typer.Option(help="API key; CARRIL_API_KEY.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Go the whole way under traffic: data, training, gate, promotion, rollback."""
    from cluster.cli import loop as command

    command.run(config, serve_config, timeout_s=timeout, api_key=api_key, as_json=as_json)


@app.command(context_settings=_FORWARD)
def models(context: typer.Context) -> None:
    """Register, promote and roll back models."""
    from cluster.cli.models import models_app

    models_app(args=context.args, prog_name="carril models")


@app.command(context_settings=_FORWARD)
def exp(context: typer.Context) -> None:
    """Plan, simulate, analyse and decide experiments."""
    from cluster.analysis_runs import track
    from cluster.cli.adapt import with_adapt
    from experiments.cli import exp_app

    with_adapt(exp_app)(args=context.args, prog_name="carril exp", obj=track)


@app.command(context_settings=_FORWARD)
def canary(context: typer.Context) -> None:
    """Raise a treatment's share step by step; take it back when it does harm."""
    from cluster.cli.canary import canary_app

    canary_app(args=context.args, prog_name="carril canary")


@app.command(context_settings=_FORWARD)
def events(context: typer.Context) -> None:
    """Look after the event log: status, shipping, export, retention."""
    from experiments.events.cli import events_app

    events_app(args=context.args, prog_name="carril events")


@app.command(context_settings=_FORWARD)
def feedback(context: typer.Context) -> None:
    """Analyse, export and report what users said."""
    from experiments.feedback.cli import feedback_app

    feedback_app(args=context.args, prog_name="carril feedback")


@app.command("eval", context_settings=_FORWARD)
def evaluation(context: typer.Context) -> None:
    """Measure models, and judge whether one may ship."""
    from experiments.evaluation.cli import eval_app

    eval_app(args=context.args, prog_name="carril eval")


@app.command(context_settings=_FORWARD)
def drift(context: typer.Context) -> None:
    """Compare live traffic with a reference; alert people when it moved."""
    from experiments.drift.cli import drift_app

    drift_app(args=context.args, prog_name="carril drift")


@app.command(context_settings=_FORWARD)
def size(context: typer.Context) -> None:
    """Say how many machines a load needs, from measured speeds."""
    from cluster.cli.size import size_app

    size_app(args=context.args, prog_name="carril size")


@app.command(context_settings=_FORWARD)
def retrain(context: typer.Context) -> None:
    """Turn feedback into the next training: check, collect, review, prepare, submit."""
    from cluster.cli.retrain import retrain_app

    retrain_app(args=context.args, prog_name="carril retrain")


def main() -> None:
    """Run the command line; the console script `carril`."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code."""
    try:
        app(args=arguments, prog_name="carril")
    except SystemExit as finished:
        return finished.code if isinstance(finished.code, int) else int(ExitCode.FAILED)
    except CommandError as error:
        _print_failure(error.message, error.fix)
        return int(error.code)
    except KeyboardInterrupt:
        return int(ExitCode.INTERRUPTED)
    except Exception as error:
        return _unexpected(error)
    return int(ExitCode.OK)


def _unexpected(error: Exception) -> int:
    from serve_app.errors import ConfigError

    if isinstance(error, ConfigError):
        _print_failure(str(error), None)
        return int(ExitCode.FAILED)
    if isinstance(error, OSError) and error.errno in _MACHINE_SAYS_NO:
        where = f"{error.filename}: " if error.filename else ""
        _print_failure(
            f"{where}{error.strerror}", "see to disk and permissions, or set CARRIL_HOME elsewhere"
        )
        return int(ExitCode.INFRASTRUCTURE)
    import traceback

    from cluster.home import carril_home

    path = carril_home() / "logs" / "cli-error.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
    _print_failure(f"{type(error).__name__}: {error}", f"this is a bug; details: {path}")
    return int(ExitCode.FAILED)


def _print_failure(message: str, fix: str | None) -> None:
    from cluster.cli.console import fail

    fail(message, fix)


if __name__ == "__main__":
    main()
