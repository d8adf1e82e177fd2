"""`carril retrain ...`: from feedback to the next training.

Modules that do the work are imported by the commands, so that `carril --help` is quick.
"""

import contextlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import typer

from cluster.errors import CommandError, ExitCode

if TYPE_CHECKING:
    from pydantic import BaseModel

    from training.retrain.review import Reviewed, ReviewState

_EXIT_NOT_DUE = 5

retrain_app = typer.Typer(
    help="Decide when to train again, review feedback, prepare its dataset, submit.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
review_app = typer.Typer(
    help="Decide what may be trained on; nothing is used without approval.", no_args_is_help=True
)
retrain_app.add_typer(review_app, name="review")

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
PolicyOption = Annotated[
    Path | None, typer.Option(help="Thresholds (YAML or JSON); the defaults without it.")
]
BaseOption = Annotated[
    Path, typer.Option("--base", help="Dataset folder of the original data (carril data generate).")
]
ItemsArgument = Annotated[
    list[str] | None, typer.Argument(metavar="[ITEM]...", help="Ids, or how they begin.")
]
ByOption = Annotated[str, typer.Option("--by", help="Who decides; kept with the decision.")]
NoteOption = Annotated[str, typer.Option("--note", help="Why.")]
AllOption = Annotated[bool, typer.Option("--all", help="Every item that waits.")]


class Show(StrEnum):
    """Which items to list."""

    PENDING = "pending"
    APPROVED = "approved"
    REJECTED = "rejected"
    ALL = "all"


@retrain_app.command()
def check(
    model: Annotated[
        str | None, typer.Option(help="Registered model; needed where there are several.")
    ] = None,
    drift: Annotated[
        Path | None, typer.Option(help="Drift report; CARRIL_HOME/drift/latest.json by default.")
    ] = None,
    policy: PolicyOption = None,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="Exit 0 only if it is time, else 5.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Tell whether it is time to train again, and why; starts nothing."""
    from cluster.home import carril_home
    from experiments.retraining.state import gather
    from experiments.retraining.triggers import TriggerPolicy
    from experiments.retraining.triggers import check as apply_rules

    with _told():
        rules = _policy(TriggerPolicy, policy)
        state = gather(carril_home(), model=model, drift=drift)
    found = apply_rules(state, rules, now=datetime.now(UTC))
    if as_json:
        _print(found.to_document())
    else:
        verdict = "time to train again" if found.due else "nothing to do"
        if found.cooldown_until is not None:
            verdict += f" before {found.cooldown_until:%Y-%m-%d %H:%M} UTC (cool-down)"
        typer.echo(verdict)
        for trigger in found.triggers:
            mark = {True: "fired", False: "quiet", None: "unknown"}[trigger.fired]
            typer.echo(f"  {mark:8}{trigger.kind.value:14}{trigger.detail}")
    if exit_code and not found.due:
        raise typer.Exit(_EXIT_NOT_DUE)


@retrain_app.command()
def collect(
    base: BaseOption,
    source: Annotated[
        Path | None,
        typer.Option("--from", help="Export of `carril feedback export`; the event file without."),
    ] = None,
    policy: PolicyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Turn feedback into suggestions for the review queue; collected twice it is there once.

    Only suggestions with confidence 0.85 or more are queued, and none is used before somebody
    approves it. Texts are there only where the gateway captured them.
    """
    from cluster.home import carril_home
    from training.retrain.examples import read_examples
    from training.retrain.feedback import read_events, read_export
    from training.retrain.review import ReviewQueue
    from training.retrain.suggestions import SuggestionPolicy, suggest

    home = carril_home()
    with _told():
        rules = _policy(SuggestionPolicy, policy)
        events = home / "events" / "events.db"
        said = read_export(source) if source is not None else read_events(events)
        found = suggest(said, read_examples(base / "train.jsonl"), rules)
        n_new = ReviewQueue(home).add(found.items, now=datetime.now(UTC))
    if as_json:
        _print(
            {
                "n_feedback": len(said),
                "n_suggested": len(found.items),
                "n_queued": n_new,
                "skipped": found.skipped,
            }
        )
        return
    known = len(found.items) - n_new
    typer.echo(f"{len(said)} rated answers: {n_new} queued for review, {known} were there before")
    for reason, count in found.skipped.items():
        typer.echo(f"  {count} left out: {reason}")


@review_app.command("ls")
def review_ls(
    show: Annotated[Show, typer.Option(help="Which ones.")] = Show.PENDING,
    as_json: JsonOption = False,
) -> None:
    """List suggestions: what the customer wrote, what would be learnt, how sure that is."""
    from cluster.home import carril_home
    from training.retrain.review import ReviewQueue, ReviewState

    with _told():
        state = None if show is Show.ALL else ReviewState(show.value)
        found = ReviewQueue(carril_home()).items(state)
    if as_json:
        _print({"items": [_document(one) for one in found]})
        return
    typer.echo(f"{len(found)} items")
    for one in found:
        typer.echo(_row(one))


@review_app.command("approve")
def review_approve(
    by: ByOption,
    items: ItemsArgument = None,
    every: AllOption = False,
    note: NoteOption = "",
    as_json: JsonOption = False,
) -> None:
    """Approve suggestions for training."""
    from training.retrain.review import ReviewState

    _decide(items, ReviewState.APPROVED, by=by, every=every, note=note, as_json=as_json)


@review_app.command("reject")
def review_reject(
    by: ByOption,
    items: ItemsArgument = None,
    every: AllOption = False,
    note: NoteOption = "",
    as_json: JsonOption = False,
) -> None:
    """Reject suggestions, also those that were approved before."""
    from training.retrain.review import ReviewState

    _decide(items, ReviewState.REJECTED, by=by, every=every, note=note, as_json=as_json)


@retrain_app.command()
def prepare(
    base: BaseOption,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder to write; under CARRIL_HOME by default.")
    ] = None,
    original_ratio: Annotated[
        float | None, typer.Option(help="Share of original examples; 0.7 by default.")
    ] = None,
    all_original: Annotated[
        bool, typer.Option("--all-original", help="Every original example, to train from scratch.")
    ] = False,
    drop_flagged: Annotated[
        bool, typer.Option("--drop-flagged", help="Go on without what looks contaminated.")
    ] = False,
    suite: Annotated[
        list[Path] | None, typer.Option(help="Further evaluation suite to keep clear of.")
    ] = None,
    policy: PolicyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a dataset of approved feedback and original data: 70/30, split 85/10/5.

    Looks for floods, copies, flipped labels and trigger phrases first; exits 1 and writes nothing
    if the batch may be contaminated.
    """
    from cluster.home import carril_home
    from experiments.retraining.history import retrain_home
    from training.retrain.prepare import PreparePolicy
    from training.retrain.prepare import prepare as make
    from training.retrain.review import ReviewQueue, ReviewState

    home = carril_home()
    options = {
        "original_ratio": original_ratio,
        "all_original": all_original or None,
        "drop_flagged": drop_flagged or None,
    }
    folder = out or retrain_home(home) / "datasets" / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    with _told():
        rules = _policy(PreparePolicy, policy, **options)
        approved = ReviewQueue(home).items(ReviewState.APPROVED)
        done = make(
            [one.item for one in approved],
            base,
            folder,
            rules,
            suites=suite or (),
            seconded={one.item.item_id for one in approved if one.is_seconded},
        )
    manifest = done.manifest
    if as_json:
        _print({"folder": str(done.folder), **manifest.model_dump(mode="json")})
        return
    typer.echo(f"{done.folder}  sha256 {manifest.sha256}")
    share = manifest.n_original / (manifest.n_original + manifest.n_new)
    typer.echo(
        f"{manifest.n_original} original and {manifest.n_new} new examples ({share:.0%} original)"
    )
    for name, part in manifest.parts.items():
        typer.echo(f"  {name:8} {part.n_examples} examples, {part.n_new} of them new")
    for finding in done.findings:
        typer.echo(f"  left out: {finding.code.value}: {finding.detail}")


@retrain_app.command()
def submit(
    config: Annotated[
        Path, typer.Option("--config", help="Configuration of the training to repeat.")
    ],
    dataset: Annotated[
        Path | None, typer.Option("--dataset", help="Prepared dataset; the newest by default.")
    ] = None,
    version: Annotated[
        str | None, typer.Option(help="Of the new model; the next minor version by default.")
    ] = None,
    by: Annotated[str | None, typer.Option(help="Who submits; the user of the machine.")] = None,
    again: Annotated[bool, typer.Option("--again", help="A new attempt of the same work.")] = False,
    address: Annotated[str | None, typer.Option("--address", help="Ray dashboard.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Submit the training on a prepared dataset to the cluster; begins the cool-down.

    The model that comes out has to pass the gate like any other.
    """
    import getpass

    from cluster.cli import jobs_output
    from cluster.cli.console import note
    from cluster.connection import resolve
    from cluster.home import carril_home
    from cluster.jobs.api import JobsApi
    from cluster.jobs.submission import Submitter
    from experiments.retraining.history import (
        Submission,
        read_history,
        record_submission,
        retrain_home,
    )
    from training.retrain.prepare import read_manifest
    from training.retrain.submission import derive_config

    home = carril_home()
    with _told():
        folder = dataset or _newest_dataset(retrain_home(home) / "datasets")
        manifest = read_manifest(folder)
        path = derive_config(
            config, folder, manifest, retrain_home(home) / "configs", version=version
        )
        known = {entry.submission_id for entry in read_history(home)}
    connection = resolve(dashboard_url=address, guess=False)
    with JobsApi(connection.dashboard_url, token=connection.token) as api:
        done = Submitter(api, connection, home, note).finetune(path, out=None, again=again)
    if done.submission_id not in known:
        record_submission(
            home,
            Submission(
                at=datetime.now(UTC),
                by=by or getpass.getuser(),
                submission_id=done.submission_id,
                dataset=folder.name,
                dataset_sha256=manifest.sha256,
                config=path.name,
            ),
        )
    jobs_output.show_submitted(done, as_json=as_json)


def _newest_dataset(datasets: Path) -> Path:
    from experiments.retraining.errors import BadRecord

    found = sorted(datasets.glob("*/manifest.json"))
    if not found:
        raise BadRecord(f"no prepared dataset under {str(datasets)!r}", "carril retrain prepare")
    return found[-1].parent


def _decide(
    items: list[str] | None,
    decision: "Literal[ReviewState.APPROVED, ReviewState.REJECTED]",
    *,
    by: str,
    every: bool,
    note: str,
    as_json: bool,
) -> None:
    from cluster.home import carril_home
    from training.retrain.review import ReviewQueue, ReviewState

    if bool(items) == every:
        raise CommandError("name items, or give --all", "carril retrain review ls", ExitCode.USAGE)
    if not by.strip():
        raise CommandError("--by is empty; a decision needs a name", code=ExitCode.USAGE)
    with _told():
        queue = ReviewQueue(carril_home())
        waiting = [one.item.item_id for one in queue.items(ReviewState.PENDING)] if every else []
        done = queue.decide(
            items or waiting, decision, by=by.strip(), note=note, now=datetime.now(UTC)
        )
    if as_json:
        _print({"items": [_document(one) for one in done]})
    else:
        typer.echo(f"{len(done)} {decision.value} by {by.strip()}")


def _document(one: "Reviewed") -> dict[str, object]:
    return {
        **one.item.model_dump(mode="json"),
        "state": one.state.value,
        "decisions": [decision.model_dump(mode="json") for decision in one.decisions],
    }


def _row(one: "Reviewed") -> str:
    item = one.item
    change = f"{item.answered_intent or '?'} -> {item.intent}"
    if item.answered_intent == item.intent:
        change = item.intent
    decided = "" if not one.decisions else f"  {one.state.value} by {one.decisions[-1].by}"
    return (
        f"{item.item_id[:8]}  {item.confidence:.2f}  {item.kind.value:17} {change}  "
        f"{item.text[:70]!r}{decided}"
    )


Model = TypeVar("Model", bound="BaseModel")


def _policy(kind: type[Model], path: Path | None, **options: object) -> Model:
    """Read a policy file and apply options; None leaves what the file says."""
    import yaml
    from pydantic import ValidationError

    document: object = {}
    try:
        if path is not None:
            document = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        if not isinstance(document, dict):
            raise CommandError(
                f"{str(path)!r} is no mapping of field to value", code=ExitCode.USAGE
            )
        given = {key: value for key, value in options.items() if value is not None}
        return kind.model_validate(document | given)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise CommandError(f"cannot read {str(path)!r}: {error}", code=ExitCode.USAGE) from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise CommandError(f"policy: {where}: {first['msg']}", code=ExitCode.USAGE) from error


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Turn the loop's errors into the command line's: bad files are usage, a refusal is exit 1."""
    from experiments.retraining.errors import BadRecord, RetrainingError

    try:
        yield
    except RetrainingError as error:
        code = ExitCode.USAGE if isinstance(error, BadRecord) else ExitCode.FAILED
        raise CommandError(error.message, error.fix, code) from error


def _print(document: object) -> None:
    typer.echo(json.dumps(document, ensure_ascii=False, indent=2))
