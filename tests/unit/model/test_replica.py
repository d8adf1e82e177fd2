"""The model replica without Serve: swaps, refusals, shared generations, health."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from serve_app.engines.protocol import EngineHealth, GenerationRequest, Message, SamplingParams
from serve_app.errors import EngineFailed, ModelNotReady
from serve_app.model.calls import ModelCall
from serve_app.model.replica import ModelReplica
from tests.unit.experiments.intent_prior.made_by_hand import with_prior

ECHO: dict[str, Any] = {"engine": "echo", "echo": {"tag": "one"}}


@pytest.fixture
def replica(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelReplica]:
    context = SimpleNamespace(replica_id=SimpleNamespace(unique_id="r1"), app_name="okla-stable")
    monkeypatch.setattr("serve_app.model.replica.serve.get_replica_context", lambda: context)
    monkeypatch.setenv("CARRIL_HOME", str(tmp_path))
    monkeypatch.setattr("serve_app.model.keeper._RETRY_S", 0.05)
    yield ModelReplica()
    for logger in (logging.getLogger(name) for name in ("serve_app", "experiments")):
        for handler in list(logger.handlers):
            logger.removeHandler(handler)
            handler.close()


def call(text: str = "hola", *, key: str | None = None, **request: Any) -> ModelCall:
    fields: dict[str, Any] = {
        "request_id": "r",
        "sampling": SamplingParams(max_tokens=50, temperature=0),
        "messages": (Message(role="user", content=text),),
    }
    return ModelCall(request=GenerationRequest(**(fields | request)), flight_key=key)


async def text(replica: ModelReplica, one: ModelCall | None = None) -> str:
    reply = await replica.generate(one or call())
    return "".join(chunk.text for chunk in reply.chunks)


async def eventually(true: Callable[[], bool], seconds: float = 3.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


def serving(replica: ModelReplica) -> str:
    current = replica._keeper.slot.current
    return current.identity.model_name if current else ""


async def test_first_configuration_is_loaded_before_traffic(replica: ModelReplica) -> None:
    await replica.reconfigure(ECHO)
    assert await text(replica) == "one hola"
    state = await replica.state()
    assert (state.state, state.error) == ("ready", None)
    assert state.identity is not None
    assert state.identity.config_hash == state.config_hash


async def test_before_it_there_is_no_model(replica: ModelReplica) -> None:
    assert (await replica.state()).state == "loading"
    with pytest.raises(ModelNotReady):
        await replica.generate(call())


async def test_new_model_takes_over_without_blocking(replica: ModelReplica) -> None:
    await replica.reconfigure(ECHO)
    started = time.monotonic()
    await replica.reconfigure({"engine": "echo", "echo": {"tag": "two", "prefill_s": 1}})
    assert time.monotonic() - started < 0.5
    assert await text(replica) == "one hola"
    await eventually(lambda: serving(replica) == "echo-two")
    assert await text(replica) == "two hola"


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        pytest.param({"engine": "gpt"}, "'gpt'", id="invalid"),
        pytest.param(None, "user_config", id="nothing"),
        pytest.param(
            {"engine": "llama_cpp", "model": {"path": "gone.gguf", "sha256": "ab" * 32}},
            "does not exist",
            id="missing file",
        ),
        pytest.param({"engine": "echo", "profile": "/gone"}, "no directory", id="profile"),
        pytest.param(
            {"engine": "echo", "echo": {"fail_rate": 1}}, "as configured", id="fails its warm-up"
        ),
    ],
)
async def test_bad_configuration_leaves_the_old_model_and_says_why(
    replica: ModelReplica, bad: Any, reason: str
) -> None:
    await replica.reconfigure(ECHO)
    await replica.reconfigure(bad)
    await eventually(lambda: reason in (replica._keeper._refusal or replica._keeper._error or ""))
    assert await text(replica) == "one hola"
    state = await replica.state()
    assert state.state == "ready"
    assert state.identity is not None
    assert state.identity.config_hash != state.config_hash
    await replica.reconfigure(ECHO)
    state = await replica.state()
    assert (state.error, state.config_hash) == (None, state.identity and state.identity.config_hash)


async def test_first_configuration_that_fails_is_reported_and_tried_again(
    replica: ModelReplica, tmp_path: Path
) -> None:
    profile = tmp_path / "profile"
    await asyncio.wait_for(replica.reconfigure(ECHO | {"profile": str(profile)}), 2)
    state = await replica.state()
    assert state.state == "failed"
    assert "no directory" in (state.error or "")
    await replica.check_health()
    profile.mkdir()
    await eventually(lambda: serving(replica) == "echo-one")
    assert (await replica.state()).error is None


async def test_refusal_is_not_forgotten_when_an_earlier_load_ends_well(
    replica: ModelReplica,
) -> None:
    await replica.reconfigure(ECHO)
    await replica.reconfigure({"engine": "echo", "echo": {"tag": "two", "prefill_s": 0.05}})
    await replica.reconfigure({"engine": "gpt"})
    await eventually(lambda: serving(replica) == "echo-two")
    await asyncio.sleep(0.02)
    state = await replica.state()
    assert "'gpt'" in (state.error or "")


async def test_newer_configuration_ends_the_load_of_an_older_one(replica: ModelReplica) -> None:
    await replica.reconfigure(ECHO)
    await replica.reconfigure({"engine": "echo", "echo": {"tag": "slow", "prefill_s": 0.1}})
    await replica.reconfigure({"engine": "echo", "echo": {"tag": "three"}})
    await eventually(lambda: serving(replica) == "echo-three")
    await asyncio.sleep(0.15)
    assert serving(replica) == "echo-three"
    assert len(replica._keeper.slot.loaded) == 1


async def test_going_back_to_what_serves_ends_the_load(replica: ModelReplica) -> None:
    await replica.reconfigure(ECHO)
    await replica.reconfigure({"engine": "echo", "echo": {"tag": "two", "prefill_s": 0.05}})
    await replica.reconfigure(ECHO)
    await asyncio.sleep(0.1)
    assert serving(replica) == "echo-one"
    assert (await replica.state()).error is None


async def test_request_on_the_old_model_outlives_the_swap(replica: ModelReplica) -> None:
    await replica.reconfigure(
        {"engine": "echo", "echo": {"tag": "one", "token_s": 0.02, "n_tokens": 10}}
    )
    stream = replica.stream(call())
    await anext(stream)
    await replica.reconfigure({"engine": "echo", "echo": {"tag": "two"}})
    await eventually(lambda: serving(replica) == "echo-two")
    assert len(replica._keeper.slot.loaded) == 2
    rest = [batch async for batch in stream]
    assert rest[-1].chunks[-1].finish_reason == "stop"
    await eventually(lambda: len(replica._keeper.slot.loaded) == 1)


async def test_identical_calls_share_one_generation(replica: ModelReplica) -> None:
    await replica.reconfigure(
        {"engine": "echo", "echo": {"tag": "one", "prefill_s": 0.02}, "warmup": False}
    )
    replies = await asyncio.gather(
        *(replica.generate(call(key="k")) for _ in range(5)),
        *(replica.generate(call(key="other")) for _ in range(2)),
    )
    assert [reply.joined for reply in replies].count(False) == 2
    current = replica._keeper.slot.current
    assert current is not None
    assert current.engine.stats().completion_tokens_total == 4
    late = await replica.generate(call(key="k"))
    assert late.joined


async def test_calls_without_a_key_share_nothing(replica: ModelReplica) -> None:
    await replica.reconfigure(ECHO)
    replies = await asyncio.gather(*(replica.generate(call()) for _ in range(3)))
    assert not any(reply.joined for reply in replies)


async def test_caller_that_leaves_frees_the_slot(replica: ModelReplica) -> None:
    await replica.reconfigure(
        {"engine": "echo", "echo": {"prefill_s": 30}, "warmup": False, "n_slots": 1}
    )
    current = replica._keeper.slot.current
    assert current is not None
    for key in (None, "k"):
        task = asyncio.create_task(replica.generate(call(key=key)))
        await eventually(lambda: current.engine.stats().running == 1)
        task.cancel()
        await asyncio.wait([task])
        await eventually(lambda: current.engine.stats().running == 0 and current.users == 0)


async def test_profile_is_added_where_the_client_brings_none(
    replica: ModelReplica, tmp_path: Path
) -> None:
    (tmp_path / "system_prompt.txt").write_text("Eres OKLA.\n", encoding="utf-8")
    (tmp_path / "answer.schema.json").write_text('{"type": "object"}', encoding="utf-8")
    await replica.reconfigure(ECHO | {"profile": str(tmp_path)})
    assert await text(replica) == '{"response":"hola","tag":"one"}'
    own = (Message(role="system", content="x"), Message(role="user", content="hola"))
    with_prompt = await replica.generate(call())
    with_own = await replica.generate(call(messages=own))
    assert with_prompt.chunks[-1].usage.prompt_tokens == 3
    assert with_own.chunks[-1].usage.prompt_tokens == 2


async def test_the_engine_is_told_what_answers_must_keep_to(
    replica: ModelReplica, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "profile.yaml").write_text("grounding: inventory", encoding="utf-8")
    await replica.reconfigure(ECHO | {"profile": str(tmp_path)})
    current = replica._keeper.slot.current
    assert current is not None
    asked = []
    generate = current.engine.generate

    def noted(request: GenerationRequest) -> Any:
        asked.append(request.grounding)
        return generate(request)

    monkeypatch.setattr(current.engine, "generate", noted)
    await replica.generate(call())
    assert asked == ["inventory"]


async def test_the_engine_is_told_what_the_profiles_classifier_says_of_the_last_message(
    replica: ModelReplica, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await replica.reconfigure(ECHO | {"profile": with_prior(tmp_path, weight=2.0)})
    current = replica._keeper.slot.current
    assert current is not None
    asked = []
    generate = current.engine.generate

    def noted(request: GenerationRequest) -> Any:
        asked.append(request.first_bias)
        return generate(request)

    monkeypatch.setattr(current.engine, "generate", noted)
    turns = [("user", "fotos"), ("assistant", "adios"), ("user", "hola"), ("assistant", "fotos")]
    said = tuple(Message(role=role, content=text) for role, text in turns)  # type: ignore[arg-type]
    await replica.generate(call(messages=said))
    await replica.generate(call(messages=said, json_schema='{"type":"object"}'))
    await replica.generate(call(messages=(Message(role="system", content="hola"),)))
    assert asked == [
        {
            '{"intent":"saludo"': 0.0,
            '{"intent":"fotos_video"': pytest.approx(-8, abs=1e-5),
            '{"intent":"despedida"': pytest.approx(-8, abs=1e-5),
        },
        None,  # a schema of the client's own
        None,  # nobody said anything
    ]


async def test_engine_error_says_nothing_internal(
    replica: ModelReplica, monkeypatch: pytest.MonkeyPatch
) -> None:
    await replica.reconfigure(ECHO)
    current = replica._keeper.slot.current

    async def broken(_: Any) -> Any:
        raise RuntimeError("secret")
        yield

    monkeypatch.setattr(current and current.engine, "generate", broken)
    with pytest.raises(EngineFailed) as caught:
        await replica.generate(call())
    assert "secret" not in caught.value.message


@pytest.mark.parametrize(
    ("health", "says"),
    [
        (EngineHealth(alive=False, heartbeat_age_s=0, reason="SIGSEGV"), "SIGSEGV"),
        (EngineHealth(alive=True, heartbeat_age_s=61), "61 s"),
    ],
)
async def test_health_follows_the_engine(
    replica: ModelReplica, monkeypatch: pytest.MonkeyPatch, health: EngineHealth, says: str
) -> None:
    await replica.reconfigure(ECHO)
    await replica.check_health()
    current = replica._keeper.slot.current
    monkeypatch.setattr(current and current.engine, "health", lambda: health)
    with pytest.raises(RuntimeError, match=says):
        await replica.check_health()


async def test_metrics_show_what_serves(replica: ModelReplica) -> None:
    await replica.reconfigure(ECHO)
    await text(replica)
    samples = {name: value for family in await replica.metrics() for name, _, value in family[3]}
    assert samples["okla_llm_model_loaded"] == 1
    assert samples["carril_model_config_current"] == 1
    assert samples["carril_engine_completion_tokens_total"] >= 2
    await replica.reconfigure({"engine": "gpt"})
    samples = {name: value for family in await replica.metrics() for name, _, value in family[3]}
    assert samples["carril_model_config_current"] == 0
    assert samples["carril_model_config_refused_total"] == 1


async def test_load_is_reported_with_the_thresholds_of_the_configuration(
    replica: ModelReplica,
) -> None:
    assert await replica.record_autoscaling_stats() == {}
    await replica.reconfigure(
        {
            "engine": "echo",
            "n_slots": 2,
            "echo": {"token_s": 0.05, "n_tokens": 5},
            "warmup": False,
            "scaling": {"target_wait_s": 3},
        }
    )
    calls = [asyncio.create_task(replica.generate(call(f"{n}"))) for n in range(5)]
    await asyncio.sleep(0.05)
    busy = await replica.record_autoscaling_stats()
    assert (busy["running"], busy["waiting"], busy["slots"]) == (2, 3, 2)
    assert (busy["target_wait_s"], busy["kv_high"]) == (3, 0.9)
    await asyncio.gather(*calls)
    after = await replica.record_autoscaling_stats()
    assert (after["running"], after["waiting"]) == (0, 0)
    assert 0.1 < after["service_s"] < 0.6
    samples = {name: value for family in await replica.metrics() for name, _, value in family[3]}
    assert samples["carril_engine_service_seconds"] == pytest.approx(after["service_s"], rel=0.2)


async def test_sleeping_model_wakes_for_a_call(replica: ModelReplica) -> None:
    await replica.reconfigure(ECHO | {"idle": {"unload_after_s": 0.05}})
    await eventually(lambda: replica._keeper.slot.current is None)
    assert (await replica.state()).state == "idle"
    samples = {name: value for family in await replica.metrics() for name, _, value in family[3]}
    assert (samples["carril_model_idle"], samples["okla_llm_model_loaded"]) == (1, 0)
    assert samples["carril_model_config_current"] == 1
    await replica.check_health()
    replies = await asyncio.gather(*(replica.generate(call(key="k")) for _ in range(3)))
    assert [reply.joined for reply in replies].count(False) == 1
