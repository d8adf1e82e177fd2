"""The commands `carril data ...` and `carril train`; heavy packages load when one runs."""

import json
import shlex
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from training.data.generator import DataConfig

data_app = typer.Typer(help="Generate, check and count training data.", no_args_is_help=True)


class Until(StrEnum):
    """How far a training goes."""

    PREPARED = "prepared"


_EXIT_FAILED = 1
_EXIT_USAGE = 2

OutOption = Annotated[Path, typer.Option("--out", help="Folder to write to.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as one JSON document.")]


@data_app.command("generate")
def generate_command(
    out: OutOption,
    config: Annotated[
        Path | None,
        typer.Option("--config", help="Take the data section of a training configuration."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed; the same seed gives the same bytes.")
    ] = None,
    n_train: Annotated[
        int | None, typer.Option("--n", min=1, help="Number of training conversations.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write the splits, the evaluation suites and manifest.json."""
    from training.data.catalog import CatalogError
    from training.data.dataset import manifest_summary, write_dataset
    from training.data.generator import DataConfig
    from training.errors import ConfigError

    try:
        data = _data_config(config) if config else DataConfig()
        changes = {"seed": seed, "n_train": n_train}
        data = data.model_copy(update={k: v for k, v in changes.items() if v is not None})
        manifest = write_dataset(data, out)
    except ConfigError as err:
        raise _failed(str(err), _EXIT_USAGE) from err
    except (CatalogError, OSError) as err:
        raise _failed(str(err), _EXIT_FAILED) from err
    if as_json:
        typer.echo(manifest_summary(manifest))
        return
    typer.echo(f"sha256 {manifest.sha256}")
    for name, info in manifest.splits.items():
        counts = f"{info.n_conversations} conversations, {info.n_families} phrase families"
        typer.echo(f"{name:10} {counts}, {out / info.file}")
    for name, suite in manifest.suites.items():
        typer.echo(f"{name:10} {suite.n_items} items to evaluate on, {out / suite.file}")
    if manifest.natural:
        natural = manifest.natural
        typer.echo(f"{'natural':10} {natural.n_items} messages to fit on, {out / natural.file}")
    typer.echo(f"{'ratings':10} {manifest.ratings.n_items} rated answers, {manifest.ratings.file}")


@data_app.command("messages")
def messages_command(
    out: Annotated[Path, typer.Option("--out", help="File to write (JSONL).")],
    n: Annotated[int, typer.Option("--n", min=1, help="Number of messages.")] = 150_000,
    config: Annotated[
        Path | None,
        typer.Option("--config", help="Take the data section of a training configuration."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed; the same seed gives the same bytes.")
    ] = None,
) -> None:
    """Write single messages of the training split with their intents, for simple classifiers."""
    from training.data.catalog import CatalogError
    from training.data.generator import DataConfig
    from training.data.messages import write_messages
    from training.errors import ConfigError

    try:
        data = _data_config(config) if config else DataConfig()
        if seed is not None:
            data = data.model_copy(update={"seed": seed})
        sha256 = write_messages(data, n, out)
    except ConfigError as err:
        raise _failed(str(err), _EXIT_USAGE) from err
    except (CatalogError, OSError) as err:
        raise _failed(str(err), _EXIT_FAILED) from err
    typer.echo(f"sha256 {sha256}")
    typer.echo(f"{n} messages, {out}")


@data_app.command("validate")
def validate_command(
    folder: Annotated[Path, typer.Argument(help="What `carril data generate` wrote.")],
    as_json: JsonOption = False,
) -> None:
    """Check hashes, lines, ids, answers, classes and leaks; exit 1 if anything is wrong."""
    from training.data.suites import WrittenSuite
    from training.data.validation import near_duplicates, validate_dataset, validate_sources

    problems = validate_sources() + validate_dataset(folder)
    compared = [] if problems else [near_duplicates(folder, suite) for suite in WrittenSuite]
    if as_json:
        report = {"problems": problems, "near_duplicates": [near._asdict() for near in compared]}
        typer.echo(json.dumps(report, ensure_ascii=False))
    else:
        for problem in problems:
            typer.echo(f"error: {problem}", err=True)
        if compared:
            typer.echo("sound: hashes, lines, ids, answers, classes, no family in two splits")
        for near in compared:
            typer.echo(
                f"{near.suite}: {near.n_near} of {near.n_messages} messages are at least 0.8 alike "
                "(4-grams) to one that is trained on"
            )
            for written, trained in near.examples:
                typer.echo(f"  {written!r} ~ {trained!r}")
    if problems:
        raise typer.Exit(_EXIT_FAILED)


@data_app.command("readings")
def readings_command(
    unread: Annotated[
        str | None,
        typer.Option(
            metavar="SPLIT",
            help="Print the phrases of this split that nobody has read a second time, without "
            "their intents and in no order: what a second reader gets.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Count what a second reader made of the phrases, by split."""
    from training.data.catalog import CatalogError, Split, written_patterns
    from training.data.second_reading import (
        ReadingsError,
        reading_counts,
        second_readings,
        unread_phrases,
    )

    if unread is not None and unread not in set(Split):
        names = ", ".join(Split)
        raise _failed(f"there is no split {unread!r}; there are {names}", _EXIT_USAGE)
    try:
        written = {
            s: [(p.intent, p.text) for p in written_patterns() if p.split is s] for s in Split
        }
        readings = second_readings()
    except (CatalogError, ReadingsError) as err:
        raise _failed(str(err), _EXIT_FAILED) from err
    if unread is not None:
        for text in unread_phrases(written[Split(unread)], readings):
            typer.echo(text)
        return
    found = {split: reading_counts(phrases, readings) for split, phrases in written.items()}
    if as_json:
        typer.echo(json.dumps({k: v._asdict() for k, v in found.items()}))
        return
    for split, counts in found.items():
        agreed = f"{counts.n_agreed / counts.n_read:.1%}" if counts.n_read else "none"
        typer.echo(
            f"{split:10} {counts.n_phrases} phrases, {counts.n_read} read a second time: "
            f"{agreed} alike, {counts.n_undecided} that nobody can tell"
        )


@data_app.command("stats")
def stats_command(
    folder: Annotated[Path, typer.Argument(help="What `carril data generate` wrote.")],
    as_json: JsonOption = False,
) -> None:
    """Count conversations by intent, register, noise and length."""
    from training.data.catalog import Split
    from training.data.statistics import split_statistics

    try:
        files = {str(split): folder / f"{split}.jsonl" for split in Split}
        found = {name: split_statistics(path) for name, path in files.items() if path.exists()}
    except (OSError, ValueError) as err:
        raise _failed(f"{folder}: {err}", _EXIT_FAILED) from err
    if not found:
        raise _failed(f"{str(folder)!r} has no split; see `carril data generate`", _EXIT_FAILED)
    if as_json:
        typer.echo(json.dumps({k: v._asdict() for k, v in found.items()}, ensure_ascii=False))
        return
    for name, stats in found.items():
        typer.echo(
            f"{name}: {stats.n_conversations} conversations, {stats.n_families} phrase families, "
            f"{stats.n_messages} messages of customers, {stats.n_distinct} different; "
            f"{stats.n_with_inventory} with inventory"
        )
        for title, counts in (
            ("intents", stats.intents),
            ("registers", stats.registers),
            ("noise", stats.noise),
            ("turns", stats.turns),
        ):
            listed = ", ".join(f"{key} {n}" for key, n in counts.items())
            typer.echo(f"  {title}: {listed}")


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
    until: Annotated[
        Until | None,
        typer.Option(help="Stop early: `prepared` writes only what `training.fit` learns from."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Train, evaluate, export and quantise a model; resume where a checkpoint is."""
    from experiments.jobs.errors import JobError
    from training.errors import ConfigError
    from training.jobs.finetune import run_finetune
    from training.jobs.progress import ProgressView

    if until is Until.PREPARED:
        _prepare(config, out)
        return
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


def _prepare(path: Path, out: Path | None) -> None:
    from training.config import load_config
    from training.errors import ConfigError, TrainingError
    from training.jobs.progress import ProgressView
    from training.pipeline import prepare

    if out is None:
        raise _failed("--until prepared needs --out, the folder to take along", _EXIT_USAGE)
    try:
        loaded = load_config(path)
        out.mkdir(parents=True, exist_ok=True)
        made = prepare(loaded, out, report=ProgressView().show)
    except ConfigError as err:
        raise _failed(str(err), _EXIT_USAGE) from err
    except (TrainingError, OSError) as err:
        raise _failed(str(err), _EXIT_FAILED) from err
    typer.echo(f"{made}  {made.stat().st_size:,} bytes")
    command = shlex.join(["--config", str(path), "--out", str(out)])
    typer.echo(f"next, where the GPU is: python -m training.fit {command}")


def _data_config(path: Path) -> "DataConfig":
    from training.config import load_config

    return load_config(path).data


def _failed(message: str, code: int) -> typer.Exit:
    typer.echo(f"error: {message}", err=True)
    return typer.Exit(code)
