"""`carril exp holdout`: what all experiments together have brought.

Exit codes: 0 ok, 1 nothing to compare or not to be believed, 2 usage, 3 the log cannot be read, 5 a
metric needs more sessions.
"""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from experiments.analysis.cli import ConfigOption, EventsOption, refusals
from experiments.terminal import (
    EXIT_INCONCLUSIVE,
    EXIT_REFUSED,
    cell,
    fail,
    print_json,
    print_table,
)

if TYPE_CHECKING:
    from experiments.analysis.holdout import Holdout, Row


def holdout(
    events: EventsOption = None,
    config: ConfigOption = None,
    since: Annotated[
        str | None, typer.Option(help="Answers from this moment on, such as 2026-01-31 (UTC).")
    ] = None,
    alpha: Annotated[
        float, typer.Option(min=0.0001, max=0.5, help="Error rate of each interval.")
    ] = 0.05,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Compare the holdout with everybody else: what all experiments together have brought."""
    from experiments.analysis.holdout import compare_holdout
    from experiments.analysis.log import open_log
    from experiments.analysis.sources import event_source
    from experiments.assignment.section import read_section

    start = 0.0 if since is None else _moment(since)
    with refusals():
        section = read_section(config)
        if section.holdout is None:
            fail("no holdout is declared; declare one such as holdout: {percent: 5, salt: hold-1}")
        share = float(section.holdout.percent) / 100.0
        with open_log(event_source(events)) as log:
            found = compare_holdout(log, declared_share=share, since=start, alpha=alpha)
    if as_json:
        print_json(_document(found))
    else:
        _print(found)
    if found.conflicts:
        raise typer.Exit(EXIT_REFUSED)
    if any(row.comparison is None for row in found.rows):
        raise typer.Exit(EXIT_INCONCLUSIVE)


def _document(found: "Holdout") -> dict[str, Any]:
    return {
        "schema_version": 1,
        "sessions": dict(found.sessions),
        "declared_share": found.declared_share,
        "sessions_on_both_sides": found.both,
        "srm_sequential_p": found.srm_p,
        "srm_chi2_p": found.srm_chi2_p,
        "conflicts": list(found.conflicts),
        "metrics": [_metric(row) for row in found.rows],
    }


def _metric(row: "Row") -> dict[str, Any]:
    from experiments.stats.summary import finite_or_none

    made = row.comparison
    if made is None:
        return {"name": row.name, "effect": None, "problem": row.problem}
    return {
        "name": row.name,
        "holdout": made.control,
        "others": made.treatment,
        "effect": made.effect,
        "ci_lower": finite_or_none(made.ci_lower),
        "ci_upper": finite_or_none(made.ci_upper),
        "p_value": made.p_value,
        "method": made.method,
        "n_holdout": made.n_control,
        "n_others": made.n_treatment,
        "problem": None,
    }


def _print(found: "Holdout") -> None:
    for conflict in found.conflicts:
        typer.echo(f"INVALID: {conflict}")
    rows = []
    for row in map(_metric, found.rows):
        if row["problem"] is not None:
            rows.append([row["name"], "", "", row["problem"], ""])
            continue
        interval = f"[{cell(row['ci_lower'], '-inf')}, {cell(row['ci_upper'], 'inf')}]"
        numbers = (row["holdout"], row["others"], row["effect"])
        rows.append([row["name"], *(cell(number) for number in numbers), interval])
    sessions = found.sessions
    print_table(
        f"Holdout: {sessions['holdout']:,} sessions beside {sessions['others']:,} others",
        ["metric", "holdout", "others", "others - holdout", "interval"],
        rows,
        note="Valid at every look, each interval by itself. Declared share "
        f"{found.declared_share:.2%}: p {found.srm_p:.3g}; {found.both} sessions on both sides are "
        "left out",
    )


def _moment(text: str) -> float:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        fail(f"--since {text!r} is no moment; write 2026-01-31 or 2026-01-31T12:00:00")
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
