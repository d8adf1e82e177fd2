"""Shadow traffic on a whole gateway in this process: what is copied, and that nobody notices."""

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from serve_app.errors import EngineFailed
from serve_app.gateway.readiness import GatewayReport, readiness_body
from tests.unit.gateway.builders import CHAT, RAW_CONFIG, Gateway, gateway_config
from tests.unit.gateway.over_http import CHAT_PATH

FRESH = CHAT | {"temperature": 1}
JSON = '{"response":"dime","intent":"vehicle_search","confidence":0.8}'


def gateway(directory: Path, *, candidate: dict[str, Any] | None = None, **shadow: Any) -> Gateway:
    """Return a gateway whose `stable` answers everybody and whose `candidate` gets copies."""
    experiment = RAW_CONFIG["experiments"]["okla-v1-v2"]
    return Gateway(
        directory,
        engines={"candidate": {"echo": candidate or {}}, "stable": {"echo": {}}},
        models={"okla-chat": {"experiment": "okla-v1-v2", "defaults": {"temperature": 0}}},
        experiments={"okla-v1-v2": experiment | {"allocation": {"stable": 100, "candidate": 0}}},
        shadow={"v2": {"variant": "candidate", "of": "stable", "percent": 100} | shadow},
    )


def copies(under: Gateway, result: str) -> float:
    value = under.metrics.registry.get_sample_value(
        "carril_shadow_requests_total", {"shadow": "v2", "result": result}
    )
    return value or 0.0


async def ask(
    under: Gateway, body: dict[str, Any] = FRESH, n: int = 1, **headers: str
) -> list[Any]:
    """Let sessions ask at once; return their answers before the copies are done."""
    async with under.client() as client:
        return await asyncio.gather(
            *(
                client.post(CHAT_PATH, json=body, headers={"x-session-id": f"s{i}", **headers})
                for i in range(n)
            )
        )


async def settled(under: Gateway) -> None:
    await under.shadow.drain()
    await under.events.flush()


async def test_a_copy_is_recorded_beside_the_answer_and_exposes_nobody(tmp_path: Path) -> None:
    under = gateway(tmp_path)
    body = FRESH | {"messages": [{"role": "user", "content": JSON}]}
    (answer,) = await ask(under, body)
    await settled(under)
    assert (answer.status_code, answer.headers["x-carril-variant"]) == (200, "stable")
    shadow, shown = sorted(under.outcomes(), key=lambda outcome: outcome.exposure != "shadow")
    assert (shown.variant, shown.exposure) == ("stable", "enrolled")
    assert (shadow.variant, shadow.exposure, shadow.experiment) == ("candidate", "shadow", "v2")
    assert (shadow.request_id, shadow.unit) == (shown.inference_id, shown.unit)
    assert (shadow.intent, shown.intent) == ("vehicle_search", "vehicle_search")
    assert shadow.model_sha256 == under.variants["candidate"].weights.model_sha256
    assert [exposure.variant for exposure in under.exposures()] == ["stable"]
    assert (copies(under, "sent"), copies(under, "answered")) == (1, 1)
    assert (
        under.metrics.registry.get_sample_value("okla_llm_requests_total", {"variant": "candidate"})
        is None
    )


async def test_a_stream_is_copied_as_a_stream(tmp_path: Path) -> None:
    under = gateway(tmp_path, candidate={"token_s": 0.01})
    (answer,) = await ask(under, FRESH | {"stream": True})
    assert answer.text.endswith("data: [DONE]\n\n")
    await settled(under)
    (shadow,) = (outcome for outcome in under.outcomes() if outcome.exposure == "shadow")
    assert shadow.stream
    assert shadow.ttft_s is not None
    assert shadow.ttft_s < shadow.duration_s


async def test_only_answers_made_for_the_request_are_copied(tmp_path: Path) -> None:
    under = gateway(tmp_path, candidate={"tag": "v2"})
    assert [a.headers["x-carril-cache"] for a in await ask(under, CHAT)] == ["miss"]
    assert [a.headers["x-carril-cache"] for a in await ask(under, CHAT)] == ["hit"]
    assert (await ask(under, FRESH | {"model": "okla-chat@stable"}))[0].status_code == 200
    assert (await ask(under, FRESH | {"model": "okla-chat@candidate"}))[0].status_code == 200
    assert (await ask(under, FRESH | {"max_tokens": 0}))[0].status_code == 400
    await settled(under)
    assert copies(under, "sent") == 1
    # What the copy brought is nobody's answer: the variant starts with an empty cache.
    (pinned,) = await ask(under, CHAT | {"model": "okla-chat@candidate"})
    assert pinned.headers["x-carril-cache"] == "miss"


async def test_the_share_that_is_copied_is_the_declared_one(tmp_path: Path) -> None:
    under = gateway(tmp_path, percent=25, max_in_flight=256)
    for _ in range(8):
        await ask(under, n=50)
        await settled(under)
    assert copies(under, "sent") == pytest.approx(100, abs=5 * (400 * 0.25 * 0.75) ** 0.5)


async def test_a_slow_shadow_drops_copies_and_delays_nobody(tmp_path: Path) -> None:
    under = gateway(tmp_path, candidate={"prefill_s": 5.0}, max_in_flight=2, timeout_s=0.3)
    started = time.monotonic()
    for _ in range(5):
        assert {answer.status_code for answer in await ask(under, n=4)} == {200}
    assert time.monotonic() - started < 2.0
    await settled(under)
    assert copies(under, "dropped") >= 10
    assert copies(under, "sent") + copies(under, "dropped") == 20
    assert copies(under, "failed") == copies(under, "sent")
    failed = [outcome for outcome in under.outcomes() if outcome.exposure == "shadow"]
    assert {outcome.error_code for outcome in failed} == {"timeout"}
    assert under.metrics.registry.get_sample_value("carril_shadow_in_flight", {"shadow": "v2"}) == 0


async def test_a_dead_shadow_is_no_error_of_the_user_and_never_repeated(tmp_path: Path) -> None:
    under = gateway(tmp_path, max_in_flight=256)
    under.variants["candidate"].faults = [(0, EngineFailed("gone"))] * 5
    under.variants["candidate"].faults += [(0, ValueError("a bug"))] * 5
    assert {answer.status_code for answer in await ask(under, n=10)} == {200}
    await settled(under)
    assert (copies(under, "failed"), copies(under, "answered")) == (10, 0)
    assert len(under.variants["candidate"].calls) == 10
    shadows = [outcome for outcome in under.outcomes() if outcome.exposure == "shadow"]
    assert {outcome.status for outcome in shadows} == {"error"}


async def test_a_failed_answer_is_copied_to_compare_failures(tmp_path: Path) -> None:
    under = gateway(tmp_path)
    under.variants["stable"].faults = [(0, EngineFailed("gone"))]
    (answer,) = await ask(under)
    assert answer.status_code == 500
    await settled(under)
    assert copies(under, "answered") == 1


async def test_a_dead_shadow_degrades_the_gateway_and_does_not_stop_it(tmp_path: Path) -> None:
    under = gateway(tmp_path)
    for variant in under.variants.values():
        await variant.refresh()
    under.variants["candidate"].states = []
    report = GatewayReport(replica="g1", config="c", error=None)
    variants = list(under.variants.values())
    assert readiness_body([report], variants, spare={"candidate"})["status"] == "degraded"
    assert readiness_body([report], variants)["status"] == "not_ready"


def test_the_readme_declares_a_shadow_that_is_valid() -> None:
    readme = (Path(__file__).parents[3] / "README.md").read_text(encoding="utf-8")
    section = readme.split("## Let a new variant listen first")[1]
    declared = yaml.safe_load(section.split("```yaml")[1].split("```")[0])
    experiment = RAW_CONFIG["experiments"]["okla-v1-v2"]
    whole = {"okla-v1-v2": experiment | {"allocation": {"stable": 100, "candidate": 0}}}
    models = {"okla-chat": {"experiment": "okla-v1-v2"}}
    config = gateway_config(experiments=whole, models=models, **declared)
    assert config.shadow["v2-beside-v1"].percent == 10
