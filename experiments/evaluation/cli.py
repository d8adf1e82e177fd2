"""`carril eval run|gate|calibrate|confidence|prior|metrics`: measure models, judge which may ship.

Modules that do the work are imported by the commands, so that `carril --help` is quick.
Exit codes: 0 every threshold is kept, 1 one is not, 2 bad input, 3 the model cannot be reached,
4 the key is refused, 5 nothing failed but something could not be decided.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from experiments.evaluation.calibration_cli import calibrate_command, confidence_command
from experiments.evaluation.command_frame import progress, refusals
from experiments.evaluation.prior_cli import prior_command
from experiments.gate.cli import gate_command
from experiments.terminal import EXIT_INCONCLUSIVE, EXIT_REFUSED, fail

if TYPE_CHECKING:
    from experiments.evaluation.report import Report

eval_app = typer.Typer(
    name="eval",
    help="Measure models, and judge whether one may ship.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@eval_app.callback()
def _group() -> None:
    """Keep `run` a verb of its own even while it is the only one."""


@eval_app.command("run")
def run_command(
    model: Annotated[
        str | None,
        typer.Option(help="Served model: okla-chat, or okla-chat@stable for one variant."),
    ] = None,
    gguf: Annotated[Path | None, typer.Option(help="Measure this model file.")] = None,
    baseline: Annotated[
        bool, typer.Option("--baseline", help="Measure a classifier over TF-IDF alone.")
    ] = False,
    baseline_model: Annotated[
        str | None, typer.Option(help="Which one: svm, the stronger, or logreg.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="YAML with all settings, instead of options.")
    ] = None,
    suite: Annotated[
        list[Path] | None, typer.Option(help="Suite file, or folder of them; may be repeated.")
    ] = None,
    train: Annotated[
        Path | None, typer.Option(help="Messages for the simpler classifiers of the table.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of results; CARRIL_HOME/evaluations/... by default.")
    ] = None,
    url: Annotated[
        str | None, typer.Option(help="Address of the API; CARRIL_URL, else the local one.")
    ] = None,
    api_key: Annotated[str | None, typer.Option(help="API key; CARRIL_API_KEY.")] = None,
    grammar: Annotated[bool, typer.Option(help="Force a GGUF's answers into the schema.")] = True,
    profile: Annotated[
        Path | None, typer.Option(help="Folder of system prompt, template and schema.")
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, max=64, help="Requests at a time.")] = 4,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads of a GGUF; 0: all.")] = 0,
    calibration: Annotated[
        Path | None,
        typer.Option(help="Decide by this one; by default the one beside the model file."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Most items of each suite.")] = None,
    skip_latency: Annotated[bool, typer.Option("--skip-latency")] = False,
    skip_adversarial: Annotated[bool, typer.Option("--skip-adversarial")] = False,
    skip_naturalness: Annotated[bool, typer.Option("--skip-naturalness")] = False,
    skip_leads: Annotated[bool, typer.Option("--skip-leads")] = False,
    skip_calibration: Annotated[bool, typer.Option("--skip-calibration")] = False,
    skip_grounding: Annotated[bool, typer.Option("--skip-grounding")] = False,
    skip_pii: Annotated[bool, typer.Option("--skip-pii")] = False,
    skip_out_of_scope: Annotated[bool, typer.Option("--skip-out-of-scope")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Measure a model on suites; write predictions and a report (JSON, Markdown, HTML)."""
    import os

    from experiments.evaluation.launch import default_out, evaluate
    from experiments.evaluation.settings import DEFAULT_URL, make_settings, read_settings
    from experiments.jobs.record import home_dir

    given = sum((model is not None, gguf is not None, baseline, config is not None))
    if given != 1:
        fail("give one of --model, --gguf, --baseline or --config")
    if baseline_model is not None and not baseline:
        fail(f"--baseline-model {baseline_model} says which classifier --baseline measures")
    skipped = {
        "latency": skip_latency,
        "adversarial": skip_adversarial,
        "naturalness": skip_naturalness,
        "leads": skip_leads,
        "calibration": skip_calibration,
        "grounding": skip_grounding,
        "pii": skip_pii,
        "out_of_scope": skip_out_of_scope,
    }
    document: dict[str, object] = {
        "target": "served" if model else "gguf" if gguf else "baseline",
        "model": model or (str(gguf) if gguf else None),
        "url": url or os.environ.get("CARRIL_URL") or DEFAULT_URL,
        "suites": tuple(suite or ()),
        "train": train,
        "baseline_model": baseline_model or "svm",
        "grammar": grammar,
        "concurrency": concurrency,
        "threads": threads,
        "calibration": calibration,
        "limit": limit,
        "skip": frozenset(name for name, wanted in skipped.items() if wanted),
    }
    if profile is not None:
        document["profile"] = profile
    with refusals():
        settings = read_settings(config) if config else make_settings(document, where="options")
        folder = out or default_out(settings, home_dir())
        with progress() as (on_stage, on_progress):
            report = evaluate(
                settings, folder, api_key=api_key, on_stage=on_stage, on_progress=on_progress
            )
    typer.echo(f"report: {folder / 'report.html'}", err=True)
    if as_json:
        typer.echo(report.model_dump_json(indent=2))
    else:
        print_dimensions(report)
    raise typer.Exit(exit_code(report))


@eval_app.command("metrics")
def metrics_command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="JSON with a kind and the data.")],
) -> None:
    """Compute metrics of your own data: labels, numbers, search results, embeddings, answers.

    The file is one of {"kind": "classification", "truth", "predicted"}, {"kind": "regression",
    "truth", "predicted"}, {"kind": "retrieval", "queries": [{"found": [...], "wanted": {name:
    gain}}], "k"}, {"kind": "embeddings", "first", "second"}, {"kind": "answers", "answers"} and
    {"kind": "folds", "groups", "folds", "seed"}.
    """
    import json

    from experiments.evaluation.metrics.document import figures_of

    with refusals():
        typer.echo(json.dumps(figures_of(file), indent=2, ensure_ascii=False))


def exit_code(report: "Report") -> int:
    """Return how a run ends: with 1 where a threshold is not kept, with 5 where none can tell."""
    verdicts = [dimension.passed for dimension in report.dimensions]
    if False in verdicts:
        return EXIT_REFUSED
    return EXIT_INCONCLUSIVE if None in verdicts else 0


def print_dimensions(report: "Report") -> None:
    """Print the dimensions as a table on stdout."""
    from rich.console import Console
    from rich.table import Table

    from experiments.evaluation.markdown import dimension_interval, dimension_value

    table = Table(title=f"{report.target.name}", title_justify="left")
    for column in ("dimension", "value", "95 % interval", "n", "threshold", "kept"):
        table.add_column(column, no_wrap=True)
    words = {True: "[green]yes[/]", False: "[bold red]no[/]", None: "[yellow]undecided[/]"}
    for d in report.dimensions:
        sign = ">=" if d.direction == "at_least" else "<="
        table.add_row(
            d.name,
            dimension_value(d, d.value),
            dimension_interval(d),
            str(d.n),
            f"{sign} {dimension_value(d, d.threshold)}",
            words[d.passed],
        )
    console = Console()
    # In a file nothing need fit a screen, and a cut number is no number.
    (console if console.is_terminal else Console(width=120)).print(table)


eval_app.command("gate")(gate_command)
eval_app.command("calibrate")(calibrate_command)
eval_app.command("confidence")(confidence_command)
eval_app.command("prior")(prior_command)
