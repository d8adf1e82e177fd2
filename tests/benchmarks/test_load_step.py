"""A step of load on one variant, drawn: what is asked, how many replicas answer, how long it takes.

Leaves `load-step.json` and `load-step.png` under CARRIL_HOME/bench. The engine is the echo engine
with a fixed time per answer, so that the picture shows the scaling and nothing else.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import pytest

from tests.benchmarks.report import bench_dir
from tests.benchmarks.servers import carril_with
from tests.load_step import SERVICE_S, SLOTS, Asked, LoadStep, Moment, scaled_app

CALM, RUSH = 1.0, 9.0
"""Requests per second; one replica answers SLOTS / SERVICE_S = 4."""


CONFIG: dict[str, Any] = {
    "applications": [
        {
            "name": "gateway",
            "route_prefix": "/",
            "import_path": "serve_app.app:build_gateway",
            "deployments": [
                {
                    "name": "gateway",
                    "user_config": {
                        "models": {"scaled": {"variant": "scaled"}},
                        "variants": {"scaled": {"app": "okla-scaled"}},
                    },
                }
            ],
        },
        scaled_app("okla-scaled", target_wait_s=SERVICE_S),
    ]
}


@pytest.fixture
def server() -> Iterator[str]:
    with carril_with(CONFIG, name="load_step") as url:
        yield url


@pytest.mark.timeout(400)
async def test_replicas_follow_a_step_of_load(server: str) -> None:
    load = LoadStep(server, "scaled", "scaled", show=print)
    async with load.running():
        load.rate = CALM
        await load.until(lambda moment: moment.at_s > 8, "a calm start", 20)
        load.rate = RUSH
        await load.until(lambda moment: moment.replicas == 3, "three replicas", 90)
        backlog = 3 * SLOTS
        await load.until(lambda moment: moment.in_flight <= backlog, "no backlog", 60)
        until = load.moments[-1].at_s + 10
        await load.until(lambda moment: moment.at_s > until, "a while of it", 30)
        load.rate = CALM
        await load.until(lambda moment: moment.replicas == 1, "one replica again", 90)
    assert [asked for asked in load.asked if asked.status != 200] == []
    _publish(load.moments, load.asked)


def _publish(moments: Sequence[Moment], asked: Sequence[Asked]) -> None:
    directory = bench_dir()
    directory.mkdir(parents=True, exist_ok=True)
    document = {"moments": [asdict(m) for m in moments], "asked": [asdict(a) for a in asked]}
    (directory / "load-step.json").write_text(json.dumps(document, indent=1), encoding="utf-8")
    try:
        import matplotlib as mpl
    except ModuleNotFoundError:
        return
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(3, 1, figsize=(9, 7), sharex=True, layout="constrained")
    try:
        _draw(axes, moments, asked)
        figure.savefig(directory / "load-step.png", dpi=130)
    finally:
        plt.close(figure)


def _draw(axes: Any, moments: Sequence[Moment], asked: Sequence[Asked]) -> None:
    at = [moment.at_s for moment in moments]
    blue, orange = "#20558a", "#c0562f"
    rate, replicas, latency = axes
    rate.step(at, [moment.rate for moment in moments], where="post", color=blue, label="asked")
    rate.step(
        at,
        [moment.replicas * SLOTS / SERVICE_S for moment in moments],
        where="post",
        color=orange,
        linestyle="--",
        label="what the replicas can answer",
    )
    rate.set_ylabel("requests/s")
    rate.legend(frameon=False)
    replicas.step(at, [moment.replicas for moment in moments], where="post", color=orange)
    replicas.set_ylabel("replicas")
    replicas.set_yticks([1, 2, 3])
    replicas.set_ylim(0.5, 3.5)
    latency.scatter(
        [one.at_s for one in asked], [one.took_s for one in asked], s=8, color=blue, alpha=0.5
    )
    latency.axhline(SERVICE_S, color="#888888", linewidth=1, linestyle=":")
    latency.set_ylabel("seconds per answer\n(dotted: without waiting)")
    latency.set_xlabel("seconds; an answer stands where it was asked for")
    latency.set_ylim(bottom=0)
    for one in axes:
        one.grid(axis="y", color="#e3e3e3", linewidth=0.8)
        one.set_axisbelow(True)
        one.spines[["top", "right"]].set_visible(False)
