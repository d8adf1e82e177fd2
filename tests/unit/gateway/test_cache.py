"""The response cache: what is in a key, what expires, what is shared."""

import asyncio
import json
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.config import CacheConfig
from serve_app.gateway.auth import Caller
from serve_app.gateway.cache import (
    CachedAnswer,
    ResponseCache,
    _decode,
    _encode,
    cache_key,
    request_digest,
)
from serve_app.gateway.policy import Policy
from serve_app.gateway.prepare import Inbound, prepare_chat, prepare_completion
from serve_app.gateway.wire import (
    IRRELEVANT,
    ChatBody,
    CompletionBody,
    parse_chat,
    parse_completion,
)
from tests.unit.gateway.builders import CHAT, finished, gateway_config, identity, logprob

CONFIG = gateway_config()
POLICY = Policy(CONFIG)
TEXT: dict[str, Any] = {"model": "okla-chat", "prompt": "hola", "temperature": 0}


def inbound(tenant: str = "default", **headers: str) -> Inbound:
    return Inbound(inference_id="i", caller=Caller("k", tenant), headers=headers, received_at=0.0)


def chat_job(changes: dict[str, Any], tenant: str = "default") -> Any:
    body = parse_chat(CHAT | {"temperature": 0} | changes)
    return prepare_chat(body, inbound(tenant), CONFIG, POLICY).jobs[0]


def text_job(changes: dict[str, Any]) -> Any:
    body = parse_completion(TEXT | changes)
    return prepare_completion(body, inbound(), CONFIG, POLICY).jobs[0]


def json_schema(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}


def user(content: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": content}]


CHANGES: dict[str, list[Any]] = {
    # Two values each, both other than the default.
    "messages": [user("a"), user("b")],
    "temperature": [0, 0.0001],
    "top_p": [0.5, 0.6],
    "top_k": [1, 2],
    "min_p": [0.1, 0.2],
    "frequency_penalty": [0.5, -0.5],
    "presence_penalty": [0.5, -0.5],
    "seed": [1, 2],
    "stop": ["a", "b"],
    "max_tokens": [5, 6],
    "max_completion_tokens": [5, 6],
    "response_format": [{"type": "json_object"}, json_schema({"type": "object"})],
    "logprobs": [True, False],
    "top_logprobs": [1, 2],
    "prompt": ["a", "b"],
    "echo": [True, False],
}
NEEDS: dict[str, dict[str, Any]] = {
    "top_logprobs": {"logprobs": True},
    "temperature": {"seed": 7},
}
SAME: dict[str, list[Any]] = {
    # Values of the fields declared irrelevant; they must not reach the engine.
    "model": ["okla-chat@stable", "okla-chat"],
    "stream": [True, False],
    "stream_options": [{"include_usage": True}, None],
    "metadata": [{"session_id": "u1"}, None],
    "user": ["u1", "u2"],
    "safety_identifier": ["u1", "u2"],
    "prompt_cache_key": ["u1", "u2"],
    "prompt_cache_retention": ["24h", None],
    "store": [True, False],
    "service_tier": ["flex", "auto"],
    "parallel_tool_calls": [True, False],
    "verbosity": ["low", "high"],
    "reasoning_effort": ["low", "high"],
    "n": [1, None],
    "best_of": [1, None],
    "logit_bias": [{}, None],
    "tools": [[], None],
    "tool_choice": ["none", "auto"],
    "suffix": ["", None],
}


@pytest.mark.parametrize(
    ("body", "job", "field"),
    [
        pytest.param(body, job, field, id=f"{body.__name__}.{field}")
        for body, job in ((ChatBody, chat_job), (CompletionBody, text_job))
        for field in body.model_fields
    ],
)
def test_every_request_field_is_in_the_key_or_declared_irrelevant(
    body: type[ChatBody] | type[CompletionBody], job: Any, field: str
) -> None:
    """A new field fails here until it is in one of the tables, and behaves as that says."""
    if field not in IRRELEVANT:
        values = (1, 2) if field == "logprobs" and body is CompletionBody else CHANGES[field]
        jobs = [job(NEEDS.get(field, {}) | {field: value}) for value in values]
        assert jobs[0].digest is not None
        assert jobs[0].digest != jobs[1].digest
        return
    extra = {"stream": True} if field == "stream_options" else {}
    jobs = [job(extra | {field: value}) for value in SAME[field]]
    assert jobs[0].digest == jobs[1].digest is not None
    assert jobs[0].request == jobs[1].request


def test_message_fields_are_in_the_key() -> None:
    digests = {
        chat_job({"messages": messages}).digest
        for messages in (
            user("a"),
            [{"role": "system", "content": "a"}],
            user("a") + user("a"),
            user("aa"),
            [{"role": "user", "content": "a", "name": "Ana"}],
        )
    }
    assert len(digests) == 5


requests = st.fixed_dictionaries(
    {},
    optional={
        "messages": st.lists(
            st.fixed_dictionaries(
                {"role": st.sampled_from(["system", "user"]), "content": st.sampled_from("ab")}
            ),
            min_size=1,
            max_size=2,
        ),
        "temperature": st.sampled_from([0, 0.0]),
        "top_p": st.sampled_from([0.5, 1]),
        "top_k": st.sampled_from([0, 5]),
        "seed": st.sampled_from([0, 1]),
        "stop": st.sampled_from(["a", ["a"], ["a", "b"], None]),
        "max_tokens": st.sampled_from([5, 512]),
        "max_completion_tokens": st.sampled_from([5, 512]),
        "logprobs": st.booleans(),
        "user": st.sampled_from("xy"),
        "response_format": st.sampled_from(
            [
                {"type": "text"},
                {"type": "json_object"},
                json_schema({"const": None}),
                json_schema({}),
                json_schema({"enum": [None]}),
                json_schema({"enum": []}),
            ]
        ),
    },
)


@given(requests, requests)
def test_equal_keys_mean_equal_work(a: dict[str, Any], b: dict[str, Any]) -> None:
    first, second = chat_job(a), chat_job(b)
    if first.digest == second.digest:
        assert first.request == second.request


def test_tenants_never_share_a_key() -> None:
    assert chat_job({}, tenant="a").digest != chat_job({}, tenant="b").digest


def test_chat_and_completion_never_share_a_key() -> None:
    body = parse_completion(TEXT)
    common: dict[str, Any] = {"tenant": "t", "temperature": 0.0, "max_tokens": 5}
    assert request_digest("chat", body, **common) != request_digest("completion", body, **common)


def test_order_of_schema_properties_matters() -> None:
    """Answers are generated in the order of the schema's properties."""
    one = {"type": "object", "properties": {"a": {}, "b": {}}}
    two = {"type": "object", "properties": {"b": {}, "a": {}}}
    assert (
        chat_job({"response_format": json_schema(one)}).digest
        != chat_job({"response_format": json_schema(two)}).digest
    )


def test_text_and_json_names_of_one_experiment_share_answers() -> None:
    assert chat_job({"model": "okla-chat:text"}).digest == chat_job({}).digest


def test_applied_defaults_are_in_the_key() -> None:
    limits = {"default_max_tokens": 5}
    other = gateway_config(limits=limits)
    body = parse_chat(CHAT)
    assert (
        prepare_chat(body, inbound(), other, Policy(other)).jobs[0].digest
        != prepare_chat(body, inbound(), CONFIG, POLICY).jobs[0].digest
    )
    assert chat_job({"max_tokens": 512}).digest == chat_job({}).digest


def test_prompts_of_one_request_have_keys_of_their_own() -> None:
    body = parse_completion(TEXT | {"prompt": ["a", "b"]})
    jobs = prepare_completion(body, inbound(), CONFIG, POLICY).jobs
    assert jobs[0].digest != jobs[1].digest
    assert jobs[0].digest == text_job({"prompt": "a"}).digest


def test_other_weights_are_another_key() -> None:
    assert cache_key(b"r" * 32, "weights a") != cache_key(b"r" * 32, "weights b")


ANSWER = CachedAnswer(chunk=finished(), identity=identity())
FULL = CachedAnswer(
    chunk=finished(
        "¡klk! 👍",
        logprobs=(logprob(), replace(logprob(), token_bytes=b"\xf0\x9f", logprob=None)),
        prompt_text="hola",
        prompt_logprobs=(logprob("x", None),),
    ),
    identity=identity(has_answer_schema=True, prior_sha256="ab" * 32),
)


def cache(shared: Any = None, **changes: Any) -> ResponseCache:
    return ResponseCache(CacheConfig(**changes), shared)


class Clock:
    """Monotonic time that the test moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr("serve_app.gateway.cache.time.monotonic", lambda: self.now)


async def test_stored_answer_is_returned_until_it_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, store = Clock(monkeypatch), cache(ttl_s=10)
    await store.put("k", ANSWER)
    clock.now += 9.9
    assert await store.get("k") is ANSWER
    clock.now += 0.2
    assert await store.get("k") is None
    assert (len(store), store.size_bytes) == (0, 0)


async def test_least_recently_used_goes_first() -> None:
    store = cache(max_entries=2)
    await store.put("a", ANSWER)
    await store.put("b", ANSWER)
    await store.get("a")
    await store.put("c", ANSWER)
    assert await store.get("b") is None
    assert await store.get("a") is ANSWER
    assert len(store) == 2


async def test_bytes_are_bounded() -> None:
    store = cache(max_bytes=20_000)
    for n in range(50):
        await store.put(f"k{n}", CachedAnswer(chunk=finished("x" * 1000), identity=identity()))
        assert store.size_bytes <= 20_000
    assert 1 <= len(store) < 10
    huge = CachedAnswer(chunk=finished("x" * 100_000), identity=identity())
    await store.put("huge", huge)
    assert await store.get("huge") is None
    assert len(store) >= 1


async def test_storing_again_does_not_count_twice() -> None:
    store = cache()
    await store.put("k", ANSWER)
    size = store.size_bytes
    await store.put("k", ANSWER)
    assert (len(store), store.size_bytes) == (1, size)
    store.clear()
    assert (len(store), store.size_bytes) == (0, 0)


class Shared:
    """A second tier in memory."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}

    async def get(self, key: str) -> bytes | None:
        await asyncio.sleep(0)
        return self.values.get(key)

    async def put(self, key: str, value: bytes, ttl_s: float) -> None:
        self.values[key] = value


async def test_shared_tier_serves_another_process_once() -> None:
    shared = Shared()
    one, two = cache(shared), cache(shared)
    await one.put("k", FULL)
    assert await two.get("k") == FULL
    shared.values.clear()
    assert await two.get("k") == FULL


@pytest.mark.parametrize("answer", [ANSWER, FULL], ids=["plain", "full"])
def test_stored_form_round_trip(answer: CachedAnswer) -> None:
    assert _decode(_encode(answer)) == answer


def mangled() -> list[bytes]:
    """Return stored answers in which one value has been replaced by one of another type."""
    cases = []
    paths = [[0], [1, "chunk"], [1, "identity"], [1, "chunk", "usage"]]
    for part, example in (("chunk", FULL.chunk), ("identity", FULL.identity)):
        paths += [[1, part, field.name] for field in fields(example)]
    for path in paths:
        for value in (None, -1, True, "x", {}, [5]):
            stored = json.loads(_encode(FULL))
            inner = stored
            for step in path[:-1]:
                inner = inner[step]
            if type(value) is type(inner[path[-1]]) and path[-1] != "finish_reason":
                continue
            if path[-1] in {"finish_reason", "prior_sha256"} and value is None:
                continue
            inner[path[-1]] = value
            cases.append(json.dumps(stored).encode())
    return cases


@pytest.mark.parametrize(
    "stored",
    [b"", b"null", b"[]", b"{", b"5", b'"x"', b"\xff\xfe", b"\x80\x04K\x01.", b"[2]", *mangled()],
)
async def test_garbage_is_a_miss(stored: bytes) -> None:
    shared = Shared()
    shared.values["k"] = stored
    assert await cache(shared).get("k") is None


@given(st.binary(max_size=200))
def test_random_bytes_are_a_miss(stored: bytes) -> None:
    assert _decode(stored) is None
