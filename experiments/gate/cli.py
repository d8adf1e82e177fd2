"""`carril eval gate`: the command around the engine."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from experiments.terminal import (
    EXIT_INCONCLUSIVE,
    EXIT_INFRASTRUCTURE,
    EXIT_OK,
    EXIT_REFUSED,
    EXIT_USAGE,
    fail,
)

if TYPE_CHECKING:
    from experiments.gate.report import GateReport

EXIT_CODES = {"PASS": EXIT_OK, "FAIL": EXIT_REFUSED, "INCONCLUSIVE": EXIT_INCONCLUSIVE}


def gate_command(
    candidate: Annotated[Path, typer.Option(help="Evaluation folder of the candidate.")],
    champion: Annotated[
        Path | None,
        typer.Option(help="Evaluation folder of the model in production, on the same suites."),
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="The GGUF that would ship; its hash must be the evaluated.")
    ] = None,
    policy: Annotated[
        Path | None, typer.Option(help="Thresholds (YAML or JSON); the defaults without it.")
    ] = None,
    hypothesis: Annotated[
        str | None, typer.Option(help="superiority, or non-inferiority with --reason.")
    ] = None,
    reason: Annotated[
        str | None, typer.Option(help="Why not being worse is enough; kept in the report.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="JSON to write, or a folder for it; the candidate's by default."),
    ] = None,
    ci: Annotated[
        bool,
        typer.Option("--ci", help="Verdict and reasons only; adds the table to a job summary."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print gate.json.")] = False,
) -> None:
    """Judge whether a model may be promoted: floors, and a paired test against the champion.

    Exits 0 for PASS, 1 for FAIL or evidence that cannot be trusted, 2 for files that cannot be
    read, 3 if the report cannot be written, 5 for INCONCLUSIVE. Writes gate.json and gate.md.
    """
    from experiments.evaluation.errors import BadInput, EvaluationError
    from experiments.gate.engine import evaluate_gate
    from experiments.gate.errors import BadPolicy
    from experiments.gate.policy import load_policy
    from experiments.gate.report import write_report

    try:
        path = _report_path(out or candidate)
        rules = load_policy(policy, hypothesis=hypothesis, reason=reason)
        report = evaluate_gate(candidate, champion, rules, model=model)
        markdown = write_report(report, path)
    except EvaluationError as error:
        unusable = isinstance(error, BadInput | BadPolicy)
        fail(error.message, EXIT_USAGE if unusable else EXIT_REFUSED, fix=error.fix)
    except OSError as error:
        fail(f"cannot write the report: {error}", EXIT_INFRASTRUCTURE)
    if as_json:
        typer.echo(report.to_json(), nl=False)
    else:
        _print(report, brief=ci)
        typer.echo(f"wrote {path} and {markdown}", err=True)
    if ci:
        _append_summary(report)
    raise typer.Exit(EXIT_CODES[report.verdict.value])


def _report_path(given: Path) -> Path:
    """Return the file to write, for a file or a folder that was given."""
    from experiments.evaluation.errors import BadInput

    if given.is_dir() or not given.suffix:
        return given / "gate.json"
    if given.suffix == ".md":
        raise BadInput(
            f"--out {str(given)!r}: the Markdown is written beside the JSON", "name the JSON file"
        )
    return given


def _print(report: "GateReport", *, brief: bool) -> None:
    typer.echo(f"{report.verdict.value}  {report.candidate.name} {report.candidate.version or ''}")
    for line in (*report.reasons, *report.notes):
        typer.echo(f"  {line}")
    if brief:
        return
    for check in report.checks:
        typer.echo(f"{check.outcome.value:12} {check.kind.value:8} {check.name}: {check.detail}")
    if report.n_slices_too_small:
        smallest = report.policy.min_slice_items
        typer.echo(f"{report.n_slices_too_small} slices have fewer than {smallest} items")


def _append_summary(report: "GateReport") -> None:
    """Add the Markdown to the page that the CI service shows for the job, where there is one."""
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if summary:
        with Path(summary).open("a", encoding="utf-8") as file:
            file.write(report.to_markdown() + "\n")
