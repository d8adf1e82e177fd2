"""`carril eval prior`: fit the classifier that a profile's `intent_prior` names."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from experiments.evaluation.command_frame import refusals

if TYPE_CHECKING:
    from experiments.intent_prior.fit import FittedPrior


def prior_command(
    data: Annotated[
        Path,
        typer.Option(help="Labelled messages to learn from; carril data messages writes them."),
    ],
    tune: Annotated[
        Path,
        typer.Option(help="dev.jsonl of a dataset: other phrases, which the temperature is for."),
    ],
    out: Annotated[
        Path, typer.Option(help="File to write, beside the profile.yaml that is to name it.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Fit a linear classifier of messages, to be laid over a network's choice of the intent.

    Words as they are written and as they sound, in pairs and pieces, weighed by a linear SVM; two
    minutes of CPU for 150,000 messages.
    The same files give the same bytes.
    """
    from experiments.evaluation.errors import BadInput
    from experiments.evaluation.labelled_texts import read_training_texts
    from experiments.intent_prior.fit import fit_prior
    from experiments.intent_prior.table import pack
    from experiments.whole_file import write_whole

    with refusals():
        train = read_training_texts(data)
        held = read_training_texts(tune)
        if train.sha256 == held.sha256:
            raise BadInput(
                f"{str(data)!r} and {str(tune)!r} are the same messages: a temperature that is "
                "fitted to what was learnt is too sure",
                "--tune takes dev.jsonl of a dataset",
            )
        typer.echo(f"fitting to {len(train.texts)} messages", err=True)
        fitted = fit_prior(train, held)
        content = pack(fitted.table)
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            write_whole(out, content)
        except OSError as err:
            raise BadInput(f"Cannot write {str(out)!r}: {err.strerror}") from err
    typer.echo(f"wrote {out}", err=True)
    figures = _figures(fitted, content)
    if as_json:
        import json

        typer.echo(json.dumps(figures, indent=2))
        return
    for name, value in figures.items():
        typer.echo(f"{name:<16} {value if not isinstance(value, float) else f'{value:.4f}'}")


def _figures(fitted: "FittedPrior", content: bytes) -> dict[str, object]:
    import hashlib

    table = fitted.table
    return {
        "n_messages": table.n_messages,
        "n_features": len(table.hashes),
        "n_labels": len(table.labels),
        "n_tune": fitted.n_tune,
        "tune_accuracy": fitted.n_right / fitted.n_tune,
        "tune_log_loss": fitted.log_loss,
        "temperature": table.temperature,
        "size_bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "training_sha256": table.training_sha256,
    }
