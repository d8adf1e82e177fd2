"""`carril exp simulate`: what the default method and the habits it replaces are worth.

numpy is imported inside the command, so that `carril --help` is quick. Exit codes: 0 the default
method keeps its promise, 1 it does not, 2 usage.
"""

import math
from typing import TYPE_CHECKING, Annotated

import typer

from experiments.assignment import Hash
from experiments.terminal import EXIT_REFUSED, fail, print_json, print_table

if TYPE_CHECKING:
    from experiments.stats.simulation import MethodResult, SimulationPlan

_SESSIONS = 4000


def simulate(
    runs: Annotated[int, typer.Option(min=1, help="Simulated experiments.")] = 1000,
    sessions: Annotated[
        int | None,
        typer.Option(
            min=4,
            help=f"Sessions of both arms. Without it {_SESSIONS:,} for A/A, and what the planner "
            "asks for to find --effect.",
        ),
    ] = None,
    look_every: Annotated[int, typer.Option(min=1, help="Sessions between looks.")] = 50,
    rate: Annotated[float, typer.Option(help="Success rate of a request.")] = 0.7,
    effect: Annotated[float, typer.Option(help="Added in treatment; 0 is A/A.")] = 0.0,
    icc: Annotated[float, typer.Option(help="Correlation of a session's requests.")] = 0.3,
    max_requests: Annotated[int, typer.Option(min=1, help="Most requests a session.")] = 11,
    treatment_percent: Annotated[float, typer.Option(help="Percent of units treated.")] = 50.0,
    coverage: Annotated[float, typer.Option(help="Percent of units that take part.")] = 100.0,
    holdout: Annotated[float, typer.Option(help="Percent of units held out.")] = 0.0,
    how: Annotated[Hash, typer.Option("--hash", help="Hash of the split.")] = Hash.SHA256,
    alpha: Annotated[float, typer.Option(help="Error rate.")] = 0.05,
    power: Annotated[float, typer.Option(help="Power to plan --effect for.")] = 0.8,
    seed: Annotated[int, typer.Option(help="Seed; the same gives the same numbers.")] = 42,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Simulate A/A or A/B experiments and show how often each method claims an effect.

    Exits 1 if the default method breaks its promise by more than three Monte-Carlo standard
    errors: more false positives than alpha in A/A, less than --power in A/B of the planned size.
    """
    from experiments.stats.simulation import SimulationPlan, planned_sessions
    from experiments.stats.simulation import simulate as run

    planned = sessions is None and effect != 0
    try:
        if planned:
            sessions = planned_sessions(
                rate=rate,
                effect=effect,
                icc=icc,
                max_requests=max_requests,
                treatment_percent=treatment_percent,
                alpha=alpha,
                power=power,
            )
        plan = SimulationPlan(
            runs=runs,
            sessions=_SESSIONS if sessions is None else sessions,
            look_every=look_every,
            rate=rate,
            effect=effect,
            icc=icc,
            max_requests=max_requests,
            treatment_percent=treatment_percent,
            coverage_percent=coverage,
            holdout_percent=holdout,
            hash=how,
            alpha=alpha,
            seed=seed,
        )
        results = run(plan)
    except ValueError as error:
        fail(str(error))
    _show(plan, results, as_json=as_json)
    if not _kept(plan, results, power if planned else None):
        raise typer.Exit(EXIT_REFUSED)


def _show(plan: "SimulationPlan", results: "dict[str, MethodResult]", *, as_json: bool) -> None:
    from experiments.stats.simulation import METHODS

    label = "false_positives" if plan.effect == 0 else "power"
    if as_json:
        print_json(
            {
                "runs": plan.runs,
                "sessions": plan.sessions,
                "alpha": plan.alpha,
                "effect": plan.effect,
                "methods": {
                    name: {
                        label: result.significant,
                        "standard_error": result.standard_error,
                        "sessions_to_stop": result.sessions_to_stop,
                        "what": METHODS[name],
                    }
                    for name, result in results.items()
                },
            }
        )
        return
    kind = "A/A" if plan.effect == 0 else f"A/B ({plan.rate:g} and {plan.rate + plan.effect:g})"
    print_table(
        f"{plan.runs:,} simulated {kind} experiments of {plan.sessions:,} sessions, each of 1-"
        f"{plan.max_requests} requests (ICC {plan.icc:g}), a look every {plan.look_every}",
        ["method", label.replace("_", " "), "+-", "sessions to stop"],
        [
            [
                name,
                f"{result.significant:.1%}",
                f"{result.standard_error:.1%}",
                f"{result.sessions_to_stop:.0f}",
            ]
            for name, result in results.items()
        ],
    )
    for name in results:
        typer.echo(f"{name}: {METHODS[name]}")


def _kept(plan: "SimulationPlan", results: "dict[str, MethodResult]", power: float | None) -> bool:
    """Return whether the default method does what it promises, chance of the simulation aside."""
    from experiments.stats.simulation import ALWAYS_VALID

    claimed = results[ALWAYS_VALID].significant

    def error(share: float) -> float:
        return 3.0 * math.sqrt(share * (1.0 - share) / plan.runs)

    if plan.effect == 0:
        return claimed <= plan.alpha + error(plan.alpha)
    return power is None or claimed >= power - error(power)
