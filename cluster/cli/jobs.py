"""`carril jobs ...`: submit trainings, evaluations, the watch for drift; look at them, stop them.

Modules that do the work are imported by the commands, so that `carril --help` is quick.
"""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.errors import CommandError, ExitCode

if TYPE_CHECKING:
    from cluster.jobs.api import JobsApi
    from cluster.jobs.submission import Submitted, Submitter
    from cluster.jobs.view import JobView

jobs_app = typer.Typer(
    help="Trainings, evaluations and the watch for drift as jobs on the cluster.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
submit_app = typer.Typer(help="Submit a job; the same work runs once.", no_args_is_help=True)
jobs_app.add_typer(submit_app, name="submit")

JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="Id, or how it begins.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
AddressOption = Annotated[str | None, typer.Option("--address", help="Ray dashboard.")]
AgainOption = Annotated[
    bool, typer.Option("--again", help="A new attempt, also of work that runs or succeeded.")
]
FollowOption = Annotated[
    bool, typer.Option("--follow", "-f", help="Show its log until it ends; exit as it does.")
]
_STOP_TIMEOUT_S = 60.0


@submit_app.command("finetune")
def submit_finetune(
    config: Annotated[Path, typer.Option("--config", help="Training configuration (YAML).")],
    out: Annotated[
        Path | None, typer.Option("--out", help="Work folder; under CARRIL_HOME by default.")
    ] = None,
    again: AgainOption = False,
    follow: FollowOption = False,
    as_json: JsonOption = False,
    address: AddressOption = None,
) -> None:
    """Train a model; goes on from the checkpoint that an earlier attempt left."""
    with _submitter(address) as submitter:
        submitted = submitter.finetune(config, out=out, again=again)
    _tell_submitted(submitted, follow=follow, as_json=as_json, address=address)


@submit_app.command(
    "evaluate", context_settings={"allow_extra_args": True, "ignore_unknown_options": True}
)
def submit_evaluate(
    context: typer.Context,
    again: AgainOption = False,
    follow: FollowOption = False,
    as_json: JsonOption = False,
    address: AddressOption = None,
) -> None:
    """Evaluate a model; takes the options of `python -m experiments.jobs.evaluate`.

    Those are --config FILE, or --target served|gguf|baseline with --model, --suite, --train, --url,
    --limit, --skip PART, --threads, --concurrency, --no-grammar, --out.
    """
    with _submitter(address) as submitter:
        submitted = submitter.evaluate(context.args, again=again)
    _tell_submitted(submitted, follow=follow, as_json=as_json, address=address)


@submit_app.command("drift")
def submit_drift(
    config: Annotated[
        Path | None,
        typer.Option("--config", help="Thresholds and alerts; ./drift.yaml where there is one."),
    ] = None,
    every: Annotated[
        str | None, typer.Option(help="Time between checks, such as 90m; 6 hours without it.")
    ] = None,
    follow: FollowOption = False,
    as_json: JsonOption = False,
    address: AddressOption = None,
) -> None:
    """Check for drift again and again, until the job is stopped; one watch a cluster.

    Needs a baseline (carril drift baseline). Alerts take addresses and keys from the environment
    that the cluster was started in.
    """
    from cluster.connection import resolve
    from cluster.home import carril_home
    from cluster.jobs.api import JobsApi
    from cluster.jobs.watch import watch_drift

    connection = resolve(dashboard_url=address, guess=False)
    with JobsApi(connection.dashboard_url, token=connection.token) as api:
        submitted = watch_drift(api, connection, carril_home(), config=config, every=every)
    another = f"carril jobs stop {submitted.submission_id}, then submit"
    _tell_submitted(submitted, follow=follow, as_json=as_json, address=address, another=another)


@jobs_app.command()
def ls(as_json: JsonOption = False, address: AddressOption = None) -> None:
    """List jobs, also those whose cluster is gone."""
    from cluster.cli import jobs_output as output
    from cluster.home import carril_home
    from cluster.jobs.view import all_jobs

    with _cluster(address) as api:
        output.show_jobs(all_jobs(carril_home(), api), as_json=as_json)


@jobs_app.command()
def status(job: JobArgument, as_json: JsonOption = False, address: AddressOption = None) -> None:
    """Show one job: state, times, folder, run in MLflow, error."""
    from cluster.cli import jobs_output as output

    with _cluster(address) as api:
        found = _find(api, job)
        _settle(found)
        output.show_job(found, as_json=as_json)


@jobs_app.command()
def logs(job: JobArgument, follow: FollowOption = False, address: AddressOption = None) -> None:
    """Print what a job said, also after its cluster is gone."""
    from cluster.home import carril_home
    from cluster.jobs.follow import read_log

    with _cluster(address) as api:
        found = _find(api, job)
        if follow:
            _follow(api, found.submission_id)
        else:
            sys.stdout.write(read_log(carril_home(), api, found))


@jobs_app.command()
def stop(job: JobArgument, as_json: JsonOption = False, address: AddressOption = None) -> None:
    """Ask a job to stop; a training writes a checkpoint first."""
    from cluster.cli import jobs_output as output
    from cluster.cli.console import note, step
    from cluster.home import carril_home
    from cluster.jobs.stop import stop_job

    with _cluster(address) as api:
        found = _find(api, job)
        if found.state.ended:
            note(f"{found.submission_id} has ended already: {found.state.value}")
        else:
            with step(f"Stopping {found.submission_id}"):
                found = stop_job(carril_home(), api, found, timeout_s=_STOP_TIMEOUT_S)
            _settle(found)
        output.show_job(found, as_json=as_json)


@contextlib.contextmanager
def _cluster(address: str | None) -> Iterator["JobsApi | None"]:
    """Give the cluster, or None where none runs here: records outlive it."""
    from cluster.connection import resolve
    from cluster.jobs.api import JobsApi

    try:
        connection = resolve(dashboard_url=address, guess=False)
    except CommandError as error:
        if error.code is not ExitCode.INFRASTRUCTURE:
            raise
        yield None
        return
    with JobsApi(connection.dashboard_url, token=connection.token) as api:
        if connection.record is not None and not connection.record.is_alive():
            yield None
            return
        yield api


@contextlib.contextmanager
def _submitter(address: str | None) -> Iterator["Submitter"]:
    from cluster.cli.console import note
    from cluster.connection import resolve
    from cluster.home import carril_home
    from cluster.jobs.api import JobsApi
    from cluster.jobs.submission import Submitter

    connection = resolve(dashboard_url=address, guess=False)
    with JobsApi(connection.dashboard_url, token=connection.token) as api:
        yield Submitter(api, connection, carril_home(), note)


def _find(api: "JobsApi | None", wanted: str) -> "JobView":
    from cluster.home import carril_home
    from cluster.jobs.view import find

    return find(carril_home(), api, wanted)


def _settle(job: "JobView") -> None:
    from cluster.cli.console import note
    from cluster.home import carril_home
    from cluster.jobs.runs import settle_run

    settle_run(carril_home(), job, say=note)


def _tell_submitted(
    submitted: "Submitted",
    *,
    follow: bool,
    as_json: bool,
    address: str | None,
    another: str = "--again",
) -> None:
    from cluster.cli import jobs_output as output

    output.show_submitted(submitted, as_json=as_json, another=another)
    if follow:
        with _cluster(address) as api:
            _follow(api, submitted.submission_id)


def _follow(api: "JobsApi | None", submission_id: str) -> None:
    from cluster.cli import jobs_output as output
    from cluster.cli.console import note
    from cluster.home import carril_home
    from cluster.jobs.follow import follow
    from experiments.jobs.record import JobState

    def write(text: str) -> None:
        sys.stderr.write(text)
        sys.stderr.flush()

    try:
        ended = follow(carril_home(), api, submission_id, write=write)
    except KeyboardInterrupt:
        note(f"\n{submission_id} goes on; stop it with: carril jobs stop {submission_id}")
        raise
    _settle(ended)
    match ended.state:
        case JobState.SUCCEEDED:
            return
        case JobState.STOPPED:
            raise typer.Exit(int(ExitCode.INTERRUPTED))
        case _:
            code = ended.record.exit_code if ended.record else None
            raise CommandError(
                f"{submission_id} {ended.state.value}: {ended.error}",
                output.how_to_repeat(ended.record) if ended.record else None,
                ExitCode(code) if code in set(ExitCode) and code else ExitCode.FAILED,
            )
