"""Sessions keep their variant: under load, across a dead gateway, across a ramp."""

import asyncio
import time

from experiments.assignment import assign
from serve_app.config import parse_gateway_config
from tests.integration.conftest import GATEWAY, Cluster, chat, split, wait_until
from tests.integration.gateway.load import Answer, Load, ask_all, failures

N_SESSIONS = 2000


def variants(answers: list[Answer]) -> dict[str, set[str]]:
    """Return the variants that each session saw."""
    seen: dict[str, set[str]] = {}
    for answer in answers:
        seen.setdefault(answer.session, set()).add(answer.variant)
    return seen


def test_two_thousand_sessions_split_fairly_and_never_switch_across_a_dead_gateway(
    cluster: Cluster,
) -> None:
    sessions = [f"sticky-{n}" for n in range(N_SESSIONS)]
    answers = asyncio.run(ask_all(cluster.url, sessions))
    victim = cluster.replicas("gateway")[0]
    victim.kill()
    # The client repeats what broke with the gateway that held it, as the OpenAI SDK does.
    second = asyncio.run(ask_all(cluster.url, sessions))
    broken = failures(second)
    repeated = asyncio.run(ask_all(cluster.url, [answer.session for answer in broken]))
    cluster.wait_ready()
    third = asyncio.run(ask_all(cluster.url, sessions))
    assert failures(answers + third + repeated) == []
    assert len(broken) <= 40
    assert all(answer.status in (0, 502, 503) for answer in broken), broken

    seen = variants([*answers, *(a for a in second if a.status == 200), *repeated, *third])
    assert len(seen) == N_SESSIONS
    assert [session for session, found in seen.items() if len(found) != 1] == []
    n_candidate = sum(found == {"candidate"} for found in seen.values())
    assert abs(n_candidate - N_SESSIONS * 0.1) <= 3 * (N_SESSIONS * 0.1 * 0.9) ** 0.5

    def counted() -> bool:
        rows = cluster.query(
            "SELECT variant, COUNT(*) FROM exposures WHERE unit LIKE 'sticky-%' GROUP BY variant"
        )
        return dict(rows) == {"stable": N_SESSIONS - n_candidate, "candidate": n_candidate}

    wait_until(counted, "every session exposed exactly once")
    assert cluster.query("SELECT * FROM exposure_conflicts WHERE unit LIKE 'sticky-%'") == []
    wait_until(
        lambda: (
            cluster.query("SELECT COUNT(*) FROM outcomes WHERE unit LIKE 'sticky-%'")[0][0]
            >= 3 * N_SESSIONS
        ),
        "an outcome for every answer",
    )


def test_ramp_under_load_fails_nothing_restarts_nothing_and_moves_one_way(
    cluster: Cluster,
) -> None:
    before = cluster.pids()
    percents = (10, 30, 60)

    def ramp() -> None:
        for candidate in percents:
            cluster.deploy(gateway={"experiments": split(100 - candidate)})
            time.sleep(1.0)  # some load under this split

    answers = asyncio.run(Load(cluster.url, 40, lambda _: chat(temperature=1)).run_during(ramp))
    assert failures(answers) == []
    assert len(answers) > 100
    assert cluster.pids() == before

    configs = {
        config.config_hash: config.experiments["okla-v1-v2"].to_allocation()
        for config in (
            parse_gateway_config(GATEWAY | {"experiments": split(100 - candidate)})
            for candidate in percents
        )
    }
    assert {answer.headers["x-carril-config"] for answer in answers} == set(configs)
    for answer in answers:
        allocation = configs[answer.headers["x-carril-config"]]
        assert answer.variant == assign(answer.session, allocation, salt="okla-v1-v2").variant
    sessions = {answer.session for answer in answers}
    first, *_, last = (
        {s: assign(s, allocation, salt="okla-v1-v2").variant for s in sessions}
        for allocation in configs.values()
    )
    moves = {(first[s], last[s]) for s in sessions if first[s] != last[s]}
    assert moves == {("stable", "candidate")}
    final = asyncio.run(ask_all(cluster.url, sessions))
    assert {answer.session: answer.variant for answer in final} == last
