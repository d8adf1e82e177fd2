"""`carril eval calibrate|confidence`: fit a model's calibration, and read an answer by it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from experiments.evaluation.command_frame import progress, refusals
from experiments.terminal import fail

if TYPE_CHECKING:
    from experiments.evaluation.intent_calibration import IntentCalibration


def calibrate_command(
    gguf: Annotated[Path, typer.Option(help="The model file.")],
    data: Annotated[
        list[Path],
        typer.Option(
            help="dev.jsonl or natural.jsonl of a dataset: not trained on, and not what models are "
            "judged on; may be repeated, and each file counts the same."
        ),
    ],
    profile: Annotated[
        Path | None, typer.Option(help="Folder with prompt, template and answer schema.")
    ] = None,
    grammar: Annotated[bool, typer.Option(help="Force the answers into the schema.")] = True,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 chooses.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="File to write; NAME.calibration.json beside the model.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the record.")] = False,
) -> None:
    """Fit how far a model's intent probabilities can be believed, and from when on it is off-topic.

    The threshold for off-topic questions keeps false alarms at or below 5 %, at a 95 % bound.
    """
    from experiments.evaluation.calibrate import calibrate_model
    from experiments.evaluation.gguf_target import GgufTarget
    from experiments.evaluation.profile import DEFAULT_DIR, read_profile

    with refusals():
        asked = read_profile(profile or DEFAULT_DIR)
        target = GgufTarget(gguf, asked, grammar=grammar, threads=threads)
        try:
            with progress() as (_, on_progress):
                calibration, path = calibrate_model(
                    target, asked, model=gguf, data=data, out=out, on_progress=on_progress
                )
        finally:
            target.close()
    typer.echo(f"wrote {path}", err=True)
    if as_json:
        typer.echo(calibration.to_json(), nl=False)
        return
    for line in _lines(calibration):
        typer.echo(line)


def confidence_command(
    calibration: Annotated[Path, typer.Option(help="NAME.calibration.json of the model.")],
    answer: Annotated[
        typer.FileText,
        typer.Argument(help="Chat completion (JSON) that was asked for with logprobs; - is stdin."),
    ] = "-",  # type: ignore[assignment]  # Typer opens it
) -> None:
    """Print an answer's intent, calibrated confidence, and whether the question is off-topic."""
    import json

    from experiments.evaluation.answer_confidence import confidence_of
    from experiments.evaluation.intent_calibration import read_calibration

    with refusals():
        record = read_calibration(calibration)
        try:
            document: Any = json.load(answer)
        except ValueError as err:
            fail(f"the answer is no JSON: {err}")
        typer.echo(json.dumps(confidence_of(document, record)._asdict(), ensure_ascii=False))


def _lines(c: "IntentCalibration") -> list[str]:
    lines = [
        f"model        {c.model}  sha256 {c.model_sha256}",
        f"data         {c.data}  sha256 {c.data_sha256}",
        f"prior        {c.prior_sha256 or 'none'}",
        f"answers      {c.n}, and {c.n_without_probability} without a probability",
        f"temperature  {c.temperature:.3f}",
        f"confidence   slope {c.slope:.3f}, intercept {c.intercept:+.3f}",
    ]
    point = c.out_of_scope
    if point is None:
        return [
            *lines,
            "off-topic    no threshold: too few questions in scope to bound false alarms",
        ]
    recall = "unknown" if point.recall is None else f"{point.recall:.1%}"
    return [
        *lines,
        f"off-topic    from {point.threshold:.4f} on: false alarms {point.false_alarms:.1%} of "
        f"{point.n_in_scope}, at most {point.false_alarms_upper:.1%}; recall {recall} of "
        f"{point.n_out_of_scope}",
    ]
