"""The commands `carril data ...` and `carril train`; heavy packages load when one runs."""

import json
from pathlib import Path
from typing import Annotated

import typer

data_app = typer.Typer(help="Generate the synthetic dataset.", no_args_is_help=True)

_EXIT_FAILED = 1
_EXIT_USAGE = 2

OutOption = Annotated[Path, typer.Option("--out", help="Folder to write to.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as one JSON document.")]


@data_app.command("generate")
def generate_command(
    out: OutOption,
    seed: Annotated[int, typer.Option(help="Seed; the same seed gives the same bytes.")] = 42,
    n_train: Annotated[
        int, typer.Option("--n", min=1, help="Number of training conversations.")
    ] = 12_000,
    as_json: JsonOption = False,
) -> None:
    """Write train.jsonl, heldout.jsonl and manifest.json."""
    from training.data.catalog import CatalogError
    from training.data.dataset import manifest_summary, write_dataset
    from training.data.generator import DataConfig

    try:
        manifest = write_dataset(DataConfig(seed=seed, n_train=n_train), out)
    except (CatalogError, OSError) as err:
        raise _failed(str(err), _EXIT_FAILED) from err
    if as_json:
        typer.echo(manifest_summary(manifest))
        return
    typer.echo(f"sha256 {manifest.sha256}")
    for name, info in manifest.splits.items():
        counts = f"{info.n_conversations} conversations, {info.n_families} phrase families"
        typer.echo(f"{name:8} {counts}, {out / info.file}")


def train_command(
    config: Annotated[Path, typer.Option("--config", help="Training configuration (YAML).")],
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Work folder; one under CARRIL_HOME by default."),
    ] = None,
    install_to: Annotated[
        Path | None,
        typer.Option("--install", help="Copy model and manifest here when done."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Train, evaluate, export and quantise a model; resume where a checkpoint is."""
    from experiments.jobs.errors import JobError
    from training.errors import ConfigError
    from training.jobs.finetune import run_finetune
    from training.jobs.progress import ProgressView

    try:
        code, manifest, folder = run_finetune(
            config, out=out, resume=True, install_to=install_to, echo=ProgressView().show
        )
    except ConfigError as err:
        raise _failed(str(err), _EXIT_USAGE) from err
    except JobError as err:
        raise _failed(str(err), int(err.code)) from err
    if manifest is None or folder is None:
        raise typer.Exit(code)
    if as_json:
        typer.echo(json.dumps(manifest.model_dump(mode="json"), ensure_ascii=False))
        return
    metrics = manifest.metrics
    typer.echo(f"{folder / manifest.file}  {manifest.size_bytes:,} bytes  sha256 {manifest.sha256}")
    typer.echo(
        f"held-out: loss {metrics.heldout_loss}, intent accuracy {metrics.intent_accuracy}, "
        f"valid JSON {metrics.json_validity} (n = {metrics.n_conversations})"
    )


def _failed(message: str, code: int) -> typer.Exit:
    typer.echo(f"error: {message}", err=True)
    return typer.Exit(code)
