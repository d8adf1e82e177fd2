"""`carril models ...`: register, judge, promote, roll back, and look.

Modules that do the work are imported by the commands, so that `carril --help` is quick.
"""

import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.errors import CommandError, ExitCode

if TYPE_CHECKING:
    from cluster.model_deployment import ConfigDeployment
    from experiments.registry import Registry
    from training.registry import Change

models_app = typer.Typer(
    help="The model registry: versions, gate, promotion, rollback.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

INCONCLUSIVE = 5

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
RefArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="okla@2.0.0, okla@champion, okla, okla-v2, or digits of the SHA-256."
    ),
]
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Model, for example okla.")]
ReasonOption = Annotated[str, typer.Option("--reason", help="Why; kept in the ledger.")]
ActorOption = Annotated[
    str | None, typer.Option("--actor", help="Who; CARRIL_ACTOR, else this user.")
]
ExpectOption = Annotated[
    str | None,
    typer.Option("--expect", help="Version that holds the place now; 'none' for nobody."),
]
DeployOption = Annotated[
    Path | None,
    typer.Option("--deploy", metavar="CONFIG", help="Edit this config and deploy it as well."),
]
VariantOption = Annotated[
    str | None, typer.Option("--variant", help="Variant to change, where the config has several.")
]
AddressOption = Annotated[str | None, typer.Option("--address", help="Ray dashboard.")]
UrlOption = Annotated[str | None, typer.Option("--url", help="Address of the API.")]
TimeoutOption = Annotated[float, typer.Option("--timeout", min=1, help="Seconds to wait.")]


@models_app.command()
def ls(as_json: JsonOption = False) -> None:
    """List versions with their state, aliases and gate."""
    from cluster.cli import models_output as output

    with _refusals():
        registry = _registry()
        output.show_versions(registry.versions(), registry.standings(), as_json=as_json)


@models_app.command()
def show(model: RefArgument, as_json: JsonOption = False) -> None:
    """Show one version: identity, origin, figures, history."""
    from cluster.cli import models_output as output

    with _refusals():
        registry = _registry()
        output.show_version(registry, registry.resolve(model), as_json=as_json)


@models_app.command()
def card(
    model: RefArgument,
    out: Annotated[Path | None, typer.Option("--out", help="Write it to this file.")] = None,
) -> None:
    """Print the model card (Markdown with Hugging Face metadata)."""
    from experiments.whole_file import write_whole
    from training.registry import model_card

    with _refusals():
        registry = _registry()
        text = model_card(registry, registry.resolve(model))
        if out is None:
            typer.echo(text, nl=False)
            return
        out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(out.absolute(), text.encode())


@models_app.command()
def log(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="One model.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show the ledger: who moved what, when, why, on which gate report."""
    from cluster.cli import models_output as output

    with _refusals():
        entries = [entry for entry in _registry().entries() if name in (None, entry.model)]
        output.show_log(entries, as_json=as_json)


@models_app.command()
def at(
    moment: Annotated[
        datetime,
        typer.Argument(
            metavar="WHEN",
            formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%SZ"],
            help="UTC.",
        ),
    ],
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="One model.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show which versions were champion and challenger at a moment."""
    from cluster.cli import models_output as output
    from experiments.registry.standing import standings

    with _refusals():
        until = moment.replace(tzinfo=UTC)
        entries = [entry for entry in _registry().entries() if entry.at <= until]
        then = {n: s for n, s in standings(entries).items() if name in (None, n)}
        output.show_aliases(then, as_json=as_json)


@models_app.command()
def register(
    manifest: Annotated[Path, typer.Argument(metavar="MANIFEST", help="*.manifest.json")],
    name: Annotated[
        str | None, typer.Option("--name", help="Model it is a version of; from the manifest.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="Its training configuration, for parameters.")
    ] = None,
    evaluation: Annotated[
        Path | None, typer.Option("--evaluation", help="Evaluation report (JSON) to keep.")
    ] = None,
    profile: Annotated[
        Path | None,
        typer.Option("--profile", help="Directory of its prompt, schema and template, to keep."),
    ] = None,
    gate: Annotated[Path | None, typer.Option("--gate", help="Gate report (JSON) to keep.")] = None,
    tag: Annotated[
        list[str] | None, typer.Option("--tag", metavar="KEY=VALUE", help="More of its origin.")
    ] = None,
    actor: ActorOption = None,
    reason: ReasonOption = "",
    as_json: JsonOption = False,
) -> None:
    """Register the model of a manifest; its file is hashed, then copied into the registry."""
    from cluster.cli.console import note, print_json, step, warn
    from training.registry import attach_gate
    from training.registry import register as run

    lineage = _tags(tag or [])
    with _refusals():
        registry = _registry()
        with step("Registering"):
            version, new = run(
                manifest,
                registry=registry,
                name=name,
                config=config,
                evaluation=evaluation,
                profile=profile,
                lineage=lineage,
                actor=actor,
                reason=reason,
            )
            if gate is not None:
                attach_gate(version.label, gate, registry=registry, actor=actor)
        _mirror(registry, version.name)
    if as_json:
        print_json({"new": new, **version.model_dump(mode="json")})
        return
    note("registered" if new else "registered before; nothing changed")
    if not version.has_profile:
        warn(
            "no profile with the hashes of the manifest was found, so none is kept: a promotion "
            "leaves the profile in the config as it is (--profile DIR names one)"
        )
    typer.echo(f"{version.label}  sha256 {version.sha256}")


@models_app.command()
def gate(
    model: RefArgument,
    report: Annotated[Path, typer.Argument(metavar="REPORT", help="Gate report (JSON).")],
    actor: ActorOption = None,
) -> None:
    """Keep a gate report with the version it judged; exit 0 PASS, 1 FAIL, 5 INCONCLUSIVE."""
    from experiments.registry import Verdict
    from training.registry import attach_gate

    with _refusals():
        registry = _registry()
        attached = attach_gate(model, report, registry=registry, actor=actor)
        _mirror(registry, attached.version.name)
    verdict = attached.report.verdict
    typer.echo(f"{attached.version.label}  {verdict.value}  {attached.report.report_sha256}")
    codes = {Verdict.PASS: 0, Verdict.FAIL: 1, Verdict.INCONCLUSIVE: INCONCLUSIVE}
    raise typer.Exit(codes[verdict])


@models_app.command()
def promote(
    model: RefArgument,
    to: Annotated[
        str, typer.Option("--to", help="champion (all traffic) or challenger (deployed at 0 %).")
    ] = "champion",
    gate: Annotated[
        Path | None, typer.Option("--gate", help="Gate report of this file; else the newest kept.")
    ] = None,
    reason: ReasonOption = "",
    expect: ExpectOption = None,
    deploy: DeployOption = None,
    variant: VariantOption = None,
    actor: ActorOption = None,
    timeout: TimeoutOption = 600,
    address: AddressOption = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a version champion or challenger; needs a passing gate report of this very file."""
    from experiments.registry import Alias
    from training.registry import promote as run

    if to not in (Alias.CHAMPION, Alias.CHALLENGER):
        raise CommandError(
            f"--to {to!r} is no place to promote to",
            "use --to champion or --to challenger",
            ExitCode.USAGE,
        )
    with _refusals():
        registry = _registry()
        change = run(
            model,
            registry=registry,
            alias=Alias(to),
            gate=gate,
            reason=reason,
            actor=actor,
            expect=expect,
            deployment=deployment_to(deploy, variant, timeout, address, url),
        )
        _mirror(registry, change.version.name)
    _tell(registry, change, as_json=as_json)


@models_app.command()
def rollback(
    name: NameArgument,
    reason: ReasonOption,
    to: Annotated[
        str | None, typer.Option("--to", help="Earlier champion; the one before by default.")
    ] = None,
    expect: ExpectOption = None,
    deploy: DeployOption = None,
    variant: VariantOption = None,
    actor: ActorOption = None,
    timeout: TimeoutOption = 600,
    address: AddressOption = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make an earlier champion the champion again; no gate, but a reason."""
    from training.registry import rollback as run

    with _refusals():
        registry = _registry()
        change = run(
            name,
            registry=registry,
            to=to,
            reason=reason,
            actor=actor,
            expect=expect,
            deployment=deployment_to(deploy, variant, timeout, address, url),
        )
        _mirror(registry, change.version.name)
    _tell(registry, change, as_json=as_json)


@models_app.command()
def retire(model: RefArgument, reason: ReasonOption, actor: ActorOption = None) -> None:
    """Take a version out of the running for good; files and history stay."""
    from training.registry import retire as run

    with _refusals():
        registry = _registry()
        change = run(model, registry=registry, reason=reason, actor=actor)
        _mirror(registry, change.version.name)
    typer.echo(f"{change.version.label} retired")


@models_app.command()
def verify(
    served: Annotated[
        bool, typer.Option("--served", help="Also compare with what the gateway serves.")
    ] = False,
    as_json: JsonOption = False,
    url: UrlOption = None,
) -> None:
    """Check ledger, records and every model file; with --served, also what runs. Exit 1 if not."""
    from cluster.cli import models_output as output
    from cluster.served_models import check_served, served_digests
    from training.registry.verification import verify as run

    with _refusals():
        registry = _registry()
        findings = run(registry)
        readyz = _readyz(url) if served else {}
        checks = check_served(registry.standings(), readyz) if served else ()
        output.show_verification(findings, checks, served_digests(readyz), as_json=as_json)
    if not all(finding.ok for finding in findings) or not all(check.ok for check in checks):
        raise typer.Exit(int(ExitCode.FAILED))


@models_app.command("hash")
def hash_(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="GGUF file or model folder.")],
) -> None:
    """Print the SHA-256 that a config names for a model file, or for a Hugging Face folder."""
    import hashlib

    from serve_app.errors import ModelFileError
    from serve_app.model.folders import hash_folder

    try:
        if path.is_dir():
            typer.echo(hash_folder(path).sha256)
            return
        with path.open("rb") as file:
            typer.echo(hashlib.file_digest(file, "sha256").hexdigest())
    except (ModelFileError, OSError) as error:
        raise CommandError(f"cannot hash {path}: {error}") from error


@models_app.command()
def unpack(
    gguf: Annotated[Path, typer.Argument(metavar="GGUF", help="Model file of ours.")],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="New folder.")],
) -> None:
    """Write a GGUF file as the Hugging Face folder that the vllm engine serves; print its hash."""
    from cluster.cli.console import note, step
    from serve_app.model.folders import hash_folder
    from training.errors import MissingExtraError, TrainingError

    try:
        try:
            from training.export.huggingface import unpack_gguf
        except ModuleNotFoundError as error:
            raise MissingExtraError("unpacking", str(error.name), "training") from error
        with step(f"Unpacking {gguf.name}"):
            unpack_gguf(gguf, folder)
    except TrainingError as error:
        raise CommandError(str(error)) from error
    note(f"wrote {folder}; its hash, for `model: {{path, sha256}}`:")
    typer.echo(hash_folder(folder).sha256)


@models_app.command()
def ui(
    port: Annotated[int, typer.Option(help="Port on this machine.")] = 5000,
) -> None:
    """Start MLflow's server on this machine and show the registry in it; Ctrl-C ends it."""
    from training.registry.mirror import why_not

    reason = why_not()
    if reason is not None:
        raise CommandError(f"MLflow is not used: {reason}", "make tracking")
    import os
    import subprocess

    from cluster.cli.console import note
    from training.registry.server import server_command

    own = os.environ.get("MLFLOW_TRACKING_URI")
    if own and own.startswith(("http://", "https://")):
        note(f"MLFLOW_TRACKING_URI names a server, which shows it: {own}")
        return
    with _refusals():
        registry = _registry()
        _mirror(registry)
    command = server_command(registry.root.parent, port=port, uri=own)
    note(f"MLflow on http://127.0.0.1:{port}  (Ctrl-C ends it)")
    finished = subprocess.run(command.arguments, env=command.environment, check=False)
    if finished.returncode > 0:
        raise CommandError(
            f"MLflow's server ended with status {finished.returncode}",
            f"is port {port} free? --port takes another",
            ExitCode.INFRASTRUCTURE,
        )


def _registry() -> "Registry":
    from cluster.home import carril_home
    from experiments.registry import Registry

    return Registry(carril_home() / "registry")


def _mirror(registry: "Registry", name: str | None = None) -> None:
    from cluster.cli.console import note
    from training.registry.mirror import mirror

    mirror(registry, name, say=note)


def _tags(given: list[str]) -> dict[str, str]:
    for item in given:
        if "=" not in item:
            raise CommandError(f"--tag {item!r}: write KEY=VALUE", code=ExitCode.USAGE)
    return dict(item.split("=", 1) for item in given)


def deployment_to(
    config: Path | None,
    variant: str | None = None,
    timeout_s: float = 600,
    address: str | None = None,
    url: str | None = None,
) -> "ConfigDeployment | None":
    """Return how a promotion is served through a config file; None if it is only recorded.

    Args:
        config: The deployable config.
        variant: Variant to change, where the config leaves a choice.
        timeout_s: Longest wait until every replica runs it.
        address: Ray's dashboard, as for `carril deploy`.
        url: Address of the API.

    Raises:
        CommandError: If a variant is named without a config.
    """
    if config is None:
        if variant is not None:
            raise CommandError("--variant needs --deploy CONFIG", code=ExitCode.USAGE)
        return None
    from cluster.cli import deploy as command
    from cluster.model_deployment import ConfigDeployment

    def deploy(path: Path) -> None:
        # The promotion is the consent: that units move to the control is what it is for.
        command.run(path, yes=True, timeout_s=timeout_s, address=address, url=url)

    return ConfigDeployment(config, deploy, variant=variant)


def _readyz(url: str | None) -> dict[str, object]:
    from cluster.connection import resolve
    from cluster.errors import infrastructure
    from cluster.rollout import fetch_readyz

    connection = resolve(http_url=url)
    body = fetch_readyz(connection.http_url)
    if body is None:
        raise infrastructure(
            f"no gateway answers on {connection.http_url}", "start one with: carril up"
        )
    return body


def _tell(registry: "Registry", change: "Change", *, as_json: bool) -> None:
    from cluster.cli.console import note, print_json

    entry = change.entry
    if as_json:
        print_json(entry.model_dump(mode="json"))
        return
    before = entry.source.version if entry.source else "none"
    typer.echo(f"{change.version.label} is {entry.alias}  (before: {before})")
    if entry.deployed is not None:
        note(f"served by variant {entry.deployed.variant} of {entry.deployed.config}")
        return
    path = registry.blob(change.version.sha256)
    note(
        "recorded; nothing was deployed. To serve it, set in the config (or use --deploy CONFIG):\n"
        f'  model:\n    path: {path}\n    sha256: "{change.version.sha256}"\n'
        "and run: carril deploy"
    )


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    """Turn the registry's errors into those of the command line."""
    from experiments.registry.errors import GateRefused, RegistryBusy, RegistryError

    try:
        yield
    except GateRefused as error:
        if not error.inconclusive:
            raise CommandError(error.message, error.fix) from error
        from cluster.cli.console import fail

        fail(error.message, error.fix)
        raise typer.Exit(INCONCLUSIVE) from error
    except RegistryBusy as error:
        raise CommandError(error.message, error.fix, ExitCode.INFRASTRUCTURE) from error
    except RegistryError as error:
        raise CommandError(error.message, error.fix) from error
