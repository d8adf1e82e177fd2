"""`carril exp shadow NAME`: the shadow beside what users saw, on the same requests.

Exit codes: 0 ok, 1 no copy was answered yet, 2 unknown shadow, 3 the log cannot be read, 5 a
metric needs more sessions.
"""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from experiments.analysis.cli import EventsOption, refusals
from experiments.terminal import EXIT_INCONCLUSIVE, cell, print_json, print_table

if TYPE_CHECKING:
    from experiments.shadow.compare import Comparison, Metric
    from experiments.shadow.pairs import Compared

_NOTE = (
    "Shadow minus users, by session; agreement and ratio as they are. Valid at every look, each "
    "interval by itself."
)


def shadow(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Shadow, as declared.")],
    events: EventsOption = None,
    alpha: Annotated[
        float, typer.Option(min=0.0001, max=0.5, help="Error rate of each interval.")
    ] = 0.05,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Compare a shadow with the answers that users saw, on the same requests."""
    from experiments.analysis.log import open_log
    from experiments.analysis.sources import event_source
    from experiments.shadow.compare import compare
    from experiments.shadow.pairs import latest, pairs

    with refusals(), open_log(event_source(events)) as log:
        compared = latest(log, name)
        result = compare(pairs(log, name, compared), alpha=alpha)
    if as_json:
        print_json(_document(name, compared, result))
    else:
        _print(name, compared, result)
    if any(metric.waits and metric.n_pairs for metric in result.metrics):
        raise typer.Exit(EXIT_INCONCLUSIVE)


def _document(name: str, compared: "Compared", result: "Comparison") -> dict[str, Any]:
    from experiments.analysis.report.document import moment

    return {
        "schema_version": 1,
        "shadow": name,
        "of": compared.of,
        "variant": compared.variant,
        "of_sha256": compared.of_sha256,
        "variant_sha256": compared.variant_sha256,
        "first_at": moment(result.first_at),
        "last_at": moment(result.last_at),
        "n_pairs": result.n_pairs,
        "n_sessions": result.n_sessions,
        "alpha": result.alpha,
        "metrics": [_row(metric) for metric in result.metrics],
        "changed_intents": [
            {"shown": shown, "shadow": other, "n_pairs": n} for shown, other, n in result.changes
        ],
    }


def _row(metric: "Metric") -> dict[str, Any]:
    interval = metric.interval
    return {
        "name": metric.name,
        "shown": metric.shown,
        "shadow": metric.shadow,
        "effect": None if interval is None else interval.estimate,
        "ci_lower": None if interval is None else interval.lower,
        "ci_upper": None if interval is None else interval.upper,
        "method": None if interval is None else interval.method,
        "n_sessions": None if interval is None else interval.n,
        "n_pairs": metric.n_pairs,
        "problem": metric.problem or None,
    }


def _print(name: str, compared: "Compared", result: "Comparison") -> None:
    document = _document(name, compared, result)
    typer.echo(
        f"{name}: {compared.variant} ({compared.variant_sha256[:12]}) beside {compared.of} "
        f"({compared.of_sha256[:12]}), {result.n_pairs:,} pairs in {result.n_sessions:,} sessions, "
        f"{document['first_at']} to {document['last_at']}"
    )
    measured = [row for row in document["metrics"] if row["n_pairs"]]
    print_table(
        "Paired",
        ["metric", "users", "shadow", "difference", "interval", "pairs"],
        [
            [
                row["name"],
                cell(row["shown"]),
                cell(row["shadow"]),
                cell(row["effect"]),
                "" if row["problem"] else f"[{cell(row['ci_lower'])}, {cell(row['ci_upper'])}]",
                f"{row['n_pairs']:,}",
            ]
            for row in measured
        ],
        note=_NOTE,
    )
    for row in measured:
        if row["problem"]:
            typer.echo(f"{row['name']}: {row['problem']}")
    if result.changes:
        print_table(
            "Changed intents",
            ["users", "shadow", "pairs"],
            [[shown, other, f"{n:,}"] for shown, other, n in result.changes],
        )
