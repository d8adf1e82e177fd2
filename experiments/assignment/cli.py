"""`carril exp assign`: what a unit gets, and every rule that was looked at."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from experiments.terminal import fail, print_json, print_table

if TYPE_CHECKING:
    from experiments.assignment import Assignment
    from experiments.assignment.rules import Placement
    from experiments.assignment.section import Section
    from experiments.assignment.targeting import Given

_NO_UNIT = "unit is empty; give the session id as the log has it: --unit SESSION"


def assign(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Only this experiment.")
    ] = None,
    unit: Annotated[
        str,
        typer.Option("--unit", help="Session id, behind `tenant/` where there are tenants."),
    ] = "",
    header: Annotated[
        list[str] | None,
        typer.Option("--header", help="Request header 'name: value', for targeting. Repeatable."),
    ] = None,
    metadata: Annotated[
        list[str] | None,
        typer.Option("--metadata", help="Metadata key=value, for targeting. Repeatable."),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", help="Serve config; by default what the gateway runs now."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show which variant a unit gets, and why; the gateway decides by the same code."""
    from experiments.analysis.cli import refusals
    from experiments.assignment.section import read_section
    from experiments.assignment.targeting import Given

    if not unit:
        fail(_NO_UNIT)
    given = Given(
        {key.lower(): value for key, value in _pairs(header, ":", "--header", "'x-channel: web'")},
        dict(_pairs(metadata, "=", "--metadata", "country=do")),
    )
    with refusals():
        section = read_section(config)
    if name is not None and name not in section.experiments:
        fail(f"unknown experiment {name!r}; declared: {', '.join(sorted(section.experiments))}")
    rows = []
    for candidates, models in section.groups().items():
        if name is None or name in candidates:
            rows.append(_row(section, unit, candidates, models, given))
    if as_json:
        print_json({"unit": unit, "placements": rows})
        return
    for row in rows:
        _print(row)


def _row(
    section: "Section", unit: str, candidates: Sequence[str], models: list[str], given: "Given"
) -> dict[str, Any]:
    from experiments.assignment.rules import Reason, choose, place

    rules = [section.rules[name] for name in candidates]
    chosen = choose(unit, rules, given)
    steps: list[dict[str, Any]] = []
    for one in rules:
        if one.experiment == chosen.experiment:
            steps += _steps(one.experiment, chosen)
        elif chosen.reason is not Reason.OVERRIDE:
            steps += _steps(one.experiment, place(unit, one, given))
    assigned = chosen.assignment
    kept = None if assigned is None else _kept(section, str(chosen.experiment), unit)
    if kept is not None:
        assigned = kept
        detail = f"the log has it under {kept.variant} first, which an adaptive split keeps"
        steps.append(
            {"experiment": chosen.experiment, "rule": "kept", "passed": True, "detail": detail}
        )
    return {
        "served_models": models,
        "variant": chosen.variant if assigned is None else assigned.variant,
        "reason": chosen.reason.value,
        "experiment": chosen.experiment,
        "version": section.experiments[chosen.experiment].version if chosen.experiment else None,
        "probability": None if assigned is None else assigned.probability,
        "bucket": None if assigned is None else assigned.bucket,
        "rules": steps,
    }


_FIRST = """
SELECT variant, probability, bucket FROM exposures
WHERE experiment = :experiment AND version = :version AND unit = :unit
"""


def _kept(section: "Section", experiment: str, unit: str) -> "Assignment | None":
    """Return what a unit of an adaptive experiment was given first, as this home's log has it."""
    from experiments.analysis.cli import refusals
    from experiments.analysis.log import open_log
    from experiments.assignment import Assignment
    from experiments.home import carril_home, event_file

    declared, path = section.experiments[experiment], event_file(carril_home())
    if declared.adaptive is None or not path.is_file():
        return None
    with refusals(), open_log(path) as log:
        key = {"experiment": experiment, "version": declared.version, "unit": unit}
        row = log.first(_FIRST, key)
    return Assignment(*row) if row is not None and row[0] in declared.allocation else None


def _steps(experiment: str, placement: "Placement") -> list[dict[str, Any]]:
    return [
        {
            "experiment": experiment,
            "rule": step.rule.value,
            "passed": step.passed,
            "detail": step.detail,
        }
        for step in placement.steps
    ]


def _print(row: dict[str, Any]) -> None:
    chance = "" if row["probability"] is None else f", as {row['probability']:.2%} of its units are"
    whose = f" by {row['experiment']}" if row["experiment"] else ""
    models = ", ".join(row["served_models"]) or "no served model"
    print_table(
        f"{models}: {row['variant']} ({row['reason']}{whose}{chance})",
        ["experiment", "rule", "goes on", "because"],
        [
            [step["experiment"], step["rule"], "yes" if step["passed"] else "no", step["detail"]]
            for step in row["rules"]
        ],
    )


def _pairs(
    given: list[str] | None, separator: str, option: str, example: str
) -> Iterator[tuple[str, str]]:
    for text in given or ():
        key, found, value = text.partition(separator)
        if not found or not key.strip():
            fail(f"{option} {text!r} is no pair; write it as {option} {example}")
        yield key.strip(), value.strip()
