"""`carril size`: how many machines a load needs."""

import math
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from cluster.cli.console import note, out, print_json, step
from cluster.errors import CommandError, ExitCode
from cluster.sizing.answer import Answer, Effort, Estimate, Goal, gateways_for, size_for
from cluster.sizing.cost import cost_of
from cluster.sizing.demand import observed, parametric
from cluster.sizing.simulation import System
from cluster.sizing.speed import Speed

size_app = typer.Typer(add_completion=False)


@size_app.command()
def size(
    rate: Annotated[float, typer.Option(help="Requests per second.")],
    speed: Annotated[
        str,
        typer.Option(
            help="Measured tokens/s of all active sequences together, by their number: "
            "1=16.4,4=33,8=28, or a file (JSON, or the JSON lines of llama-batched-bench)."
        ),
    ],
    slots: Annotated[int, typer.Option(min=1, help="Slots of a replica (n_slots).")] = 8,
    prompt: Annotated[str, typer.Option(help="Prompt tokens, or mean:cv.")] = "600",
    answer: Annotated[str, typer.Option(help="Answer tokens, or mean:cv.")] = "48:0.5",
    cached: Annotated[
        float, typer.Option(min=0, help="Prompt tokens that are in memory already.")
    ] = 0,
    lengths: Annotated[
        Path | None,
        typer.Option(help="CSV with prompt_tokens,answer_tokens; instead of --prompt, --answer."),
    ] = None,
    prefill: Annotated[
        float | None, typer.Option(help="Prompt tokens/s; default: what the file says.")
    ] = None,
    prefill_share: Annotated[
        float, typer.Option(help="Share of time for prompts while others decode.")
    ] = 0.5,
    first_p95: Annotated[
        float | None, typer.Option(help="Seconds within which 95 % of answers begin.")
    ] = None,
    total_p95: Annotated[
        float | None, typer.Option(help="Seconds within which 95 % of answers are complete.")
    ] = None,
    max_ongoing: Annotated[
        int | None, typer.Option(min=1, help="max_ongoing_requests; default: twice the slots.")
    ] = None,
    router_ms: Annotated[
        float, typer.Option(min=0, help="Time of a gateway per request, in ms.")
    ] = 4.0,
    replicas_per_node: Annotated[int, typer.Option(min=1)] = 1,
    max_replicas: Annotated[int, typer.Option(min=1, help="Where to give up.")] = 64,
    requests: Annotated[int, typer.Option(min=200, help="Simulated requests per run.")] = 4000,
    runs: Annotated[int, typer.Option(min=2, help="Independent runs per size.")] = 8,
    seed: Annotated[int, typer.Option()] = 1,
    node_hour: Annotated[
        float | None,
        typer.Option(
            help="What a node costs per hour, in any currency; tells the cost of answers."
        ),
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Write a picture (PNG).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say how many machines a load needs, by simulation from measured speeds."""
    if not 0 < rate < math.inf:
        raise CommandError(
            f"--rate {rate:g} is no rate", "requests per second, above 0", ExitCode.USAGE
        )
    if not 0 < prefill_share < 1:
        raise CommandError(
            f"--prefill-share {prefill_share:g} is no share of the time",
            "above 0 and below 1",
            ExitCode.USAGE,
        )
    if first_p95 is None and total_p95 is None:
        raise CommandError(
            "nothing is promised, so any number would do",
            "give --first-p95 or --total-p95",
            ExitCode.USAGE,
        )
    for name, seconds in (("--first-p95", first_p95), ("--total-p95", total_p95)):
        if seconds is not None and not 0 < seconds < math.inf:
            raise CommandError(f"{name} {seconds:g} is no time", "seconds, above 0", ExitCode.USAGE)
    if plot is not None:
        from cluster.sizing.plot import check_drawing

        check_drawing()  # before minutes of simulation
    if node_hour is not None and not 0 < node_hour < math.inf:
        raise CommandError(
            f"--node-hour {node_hour:g} is no price",
            "what a node costs per hour, above 0",
            ExitCode.USAGE,
        )
    speeds = Speed.parse(speed, prefill)
    demand = (
        observed(lengths, cached_tokens=cached, rate=rate)
        if lengths is not None
        else parametric(prompt=prompt, answer=answer, cached_tokens=cached, rate=rate)
    )
    if demand.mean_prompt_tokens > 0 and speeds.prefill_tokens_per_s is None:
        raise CommandError(
            f"{demand.mean_prompt_tokens:.0f} prompt tokens have to be computed at no known speed",
            "give --prefill, or --cached for prompts that are in memory",
            ExitCode.USAGE,
        )
    system = System(
        replicas=1,
        slots=slots,
        totals=speeds.totals(slots),
        prefill_tokens_per_s=speeds.prefill_tokens_per_s,
        prefill_share=prefill_share,
        max_ongoing=max_ongoing or 2 * slots,
        gateways=gateways_for(rate, router_ms / 1000),
        router_s=router_ms / 1000,
    )
    goal = Goal(first_p95_s=first_p95, total_p95_s=total_p95)
    with step("Simulating") as progress:
        found = size_for(
            demand,
            system,
            goal,
            replicas_per_node=replicas_per_node,
            max_replicas=max_replicas,
            effort=Effort(requests=requests, runs=runs, seed=seed),
            on_size=lambda n: progress.update(f"{n} replicas"),
        )
    if plot is not None and found.sizes:
        from cluster.sizing.plot import draw

        draw(found, goal, rate=rate, path=plot)
        note(f"drawn to {plot}")
    cost = None
    if node_hour is not None and found.nodes is not None:
        cost = cost_of(
            found.nodes, rate, node_hour, node_capacity=found.capacity * replicas_per_node
        )
    if as_json:
        costs = {} if cost is None else {"cost": asdict(cost)}
        print_json({"rate": rate, "goal": asdict(goal), **asdict(found), **costs})
    else:
        _show(found, rate=rate)
        if cost is not None:
            out.print(
                f"1,000 answers cost {cost.per_thousand:.3g}, and {cost.per_thousand_full:.3g} on "
                "nodes that are never idle, where nothing is promised",
                highlight=False,
                soft_wrap=True,
            )
    if found.needed is None:
        note(f"no size up to {max_replicas} replicas keeps the promise; raise --max-replicas")
        sys.exit(ExitCode.FAILED)


def _show(answer: Answer, *, rate: float) -> None:
    # Lines, not a table of rich: that one cuts figures off where the terminal is narrow.
    times = ("wait p95", "first p95", "p50", "p95", "p99")
    lines = [f"{'replicas':>8} {'nodes':>6} {'load':>5} {'slots':>6}" + _columns(times)]
    for item in answer.sizes:
        shown = (item.wait_s["p95"], item.first_s["p95"], *item.total_s.values())
        mark = "  enough" if item.replicas == answer.needed else ""
        lines.append(
            f"{item.replicas:>8} {item.nodes:>6} {item.load:>5.0%} {item.slots_busy.value:>6.0%}"
            + _columns([_seconds(estimate) for estimate in shown])
            + mark
        )
    lines.append(
        "slots taken; seconds ± 95 % interval: wait for a slot, first token, whole answer\n"
    )
    out.print("\n".join(lines), highlight=False, soft_wrap=True)
    needed = "more replicas than tried" if answer.needed is None else _counted(answer)
    out.print(
        f"{rate:g} requests/s need {needed}; one replica sustains {answer.capacity:.3g} requests/s",
        highlight=False,
        soft_wrap=True,
    )


def _columns(texts: Sequence[str]) -> str:
    return "".join(f"{text:>13}" for text in texts)


def _counted(answer: Answer) -> str:
    def count(n: int | None, what: str) -> str:
        return f"{n} {what}" + ("" if n == 1 else "s")

    parts = (count(answer.needed, "replica"), count(answer.nodes, "node"))
    return f"{parts[0]} on {parts[1]}, and {count(answer.gateways, 'gateway')}"


def _seconds(estimate: Estimate) -> str:
    digits = 0 if estimate.value >= 100 else 1 if estimate.value >= 10 else 2
    return f"{estimate.value:.{digits}f} ±{estimate.error:.{digits}f}"
