"""The way to a variant's replicas: what Ray raises becomes what a client can read."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from ray import ActorID
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayTaskError
from ray.serve.exceptions import (
    BackPressureError,
    DeploymentUnavailableError,
    RayServeException,
    ReplicaUnavailableError,
    RequestCancelledError,
)

from serve_app.config import RetryConfig
from serve_app.engines.protocol import GenerationRequest, SamplingParams
from serve_app.errors import (
    ContextLengthExceeded,
    InternalError,
    ModelNotReady,
    Overloaded,
    ReplicaLost,
    RequestError,
)
from serve_app.gateway.retry import RetryBudget
from serve_app.gateway.variants import _LESSER_AT_ONCE, VariantClient
from serve_app.model.calls import AdapterHashes, ModelCall, ModelState, ReplyBatch
from serve_app.telemetry.metrics import GatewayMetrics
from tests.unit.gateway.builders import batch, finished, identity

CALL = ModelCall(request=GenerationRequest(request_id="r", sampling=SamplingParams(max_tokens=5)))


class Response:
    """What a Serve handle returns, both kinds in one."""

    def __init__(self, items: list[Any]) -> None:
        self._items = items
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True

    async def _next(self) -> Any:
        await asyncio.sleep(0)
        item = self._items.pop(0)
        if item == "hang":
            await asyncio.Event().wait()
        if isinstance(item, BaseException):
            raise item
        return item

    def __await__(self) -> Any:
        return self._next().__await__()

    async def __aiter__(self) -> AsyncIterator[Any]:
        while self._items:
            yield await self._next()


class Handle:
    """A Serve handle whose answers the test decides."""

    def __init__(self, *responses: list[Any]) -> None:
        self.responses = [Response(items) for items in responses]
        self.n_calls = 0
        self.calls: list[ModelCall] = []
        self.states: list[Any] | BaseException = []

    def remote(self, call: ModelCall) -> Response:
        self.n_calls += 1
        self.calls.append(call)
        return self.responses[self.n_calls - 1]

    def broadcast(self, _: str) -> Any:
        async def results_async(**_: Any) -> Any:
            if isinstance(self.states, BaseException):
                raise self.states
            return self.states

        return SimpleNamespace(results_async=results_async)


def client(handle: Handle, **retry: Any) -> VariantClient:
    variant = VariantClient("stable", "app", RetryBudget(RetryConfig(**retry)), GatewayMetrics())
    variant._handle = variant._unary = variant._stream = handle
    return variant


async def reply(variant: VariantClient, *, stream: bool) -> list[ReplyBatch]:
    return [piece async for piece in variant.call(CALL, stream=stream)]


def died() -> ActorDiedError:
    return ActorDiedError()


LOST = [
    pytest.param(died(), id="died"),
    pytest.param(ActorUnavailableError("gone", ActorID.from_random().binary()), id="unavailable"),
    pytest.param(ReplicaUnavailableError("gone"), id="replica unavailable"),
    pytest.param(RequestCancelledError("r"), id="cancelled by Serve"),
]


@pytest.mark.parametrize("error", LOST)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_call_to_a_lost_replica_is_repeated_before_the_first_token(
    error: Exception, stream: bool
) -> None:
    handle = Handle([error], [batch(finished())])
    [answer] = await reply(client(handle), stream=stream)
    assert answer.retries == 1
    assert handle.n_calls == 2


async def test_stream_is_not_repeated_after_the_first_token() -> None:
    handle = Handle([batch(finished()), died()])
    pieces = client(handle).call(CALL, stream=True)
    assert await anext(pieces) == batch(finished())
    with pytest.raises(ReplicaLost):
        await anext(pieces)
    assert handle.n_calls == 1


@pytest.mark.parametrize("n_retries", [0, 1, 3])
async def test_retries_are_bounded(n_retries: int) -> None:
    handle = Handle(*[[died()] for _ in range(10)])
    with pytest.raises(ReplicaLost) as caught:
        await reply(client(handle, max_retries=n_retries), stream=False)
    assert handle.n_calls == n_retries + 1
    assert caught.value.status == 502


async def test_default_budget_covers_the_death_of_one_of_two_replicas() -> None:
    """All of a hundred requests are in progress, half of them on the replica that dies."""
    n = 100
    dying = asyncio.Event()

    class Half(Handle):
        def remote(self, _: ModelCall) -> Any:
            self.n_calls += 1
            return self._answer(self.n_calls)

        async def _answer(self, number: int) -> ReplyBatch:
            if number <= n:
                await dying.wait()
                if number % 2:
                    raise died()
            else:
                await asyncio.sleep(0.01)
            return batch(finished())

    variant = client(Half())
    tasks = [asyncio.create_task(reply(variant, stream=False)) for _ in range(n)]
    await asyncio.sleep(0.01)
    dying.set()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert [answer for answer in answers if isinstance(answer, BaseException)] == []


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        pytest.param(
            BackPressureError(num_queued_requests=5, max_queued_requests=5), Overloaded, id="full"
        ),
        pytest.param(
            RayTaskError("f", "tb", ValueError("secret")).as_instanceof_cause(),
            InternalError,
            id="bug in the replica",
        ),
        pytest.param(
            RayTaskError("f", "tb", ContextLengthExceeded("long")).as_instanceof_cause(),
            ContextLengthExceeded,
            id="error of ours, as Ray wraps it",
        ),
        pytest.param(
            RayTaskError("f", "tb", ContextLengthExceeded("long")),
            ContextLengthExceeded,
            id="error of ours, not unwrapped",
        ),
    ],
)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_other_errors_are_translated_and_not_repeated(
    error: Exception, kind: type[RequestError], stream: bool
) -> None:
    handle = Handle([error])
    with pytest.raises(kind) as caught:
        await reply(client(handle), stream=stream)
    assert handle.n_calls == 1
    assert "secret" not in caught.value.message


async def test_deleted_application_is_looked_up_again() -> None:
    handle = Handle([DeploymentUnavailableError("deployment")])
    variant = client(handle, max_retries=0)
    with pytest.raises(ModelNotReady):
        await reply(variant, stream=False)
    assert variant._unary is None


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_caller_that_leaves_cancels_the_call(stream: bool) -> None:
    handle = Handle(["hang"])
    task = asyncio.create_task(reply(client(handle), stream=stream))
    await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait([task])
    assert handle.responses[0].cancelled


async def test_closing_a_stream_cancels_the_call_at_once() -> None:
    handle = Handle([batch(finished()), "hang"])
    pieces: AsyncGenerator[ReplyBatch, None] = client(handle).call(CALL, stream=True)
    await anext(pieces)
    await pieces.aclose()
    assert handle.responses[0].cancelled


async def test_finished_stream_is_not_cancelled() -> None:
    handle = Handle([batch(finished())])
    await reply(client(handle), stream=True)
    assert not handle.responses[0].cancelled


def state(replica: str = "r1", **changes: Any) -> ModelState:
    return ModelState(
        replica=replica,
        state="ready",
        identity=identity(replica=replica, **changes),
        config_hash="c",
        error=None,
    )


async def test_refresh_learns_states_and_weights() -> None:
    handle = Handle()
    handle.states = [state("r1"), RayServeException("r2 is busy")]
    variant = client(handle)
    await variant.refresh()
    assert [one.replica for one in variant.states] == ["r1"]
    assert variant.identity == identity(replica="r1")


async def test_variant_of_an_adapter_asks_for_it_and_sees_its_hashes_only() -> None:
    hashes = AdapterHashes("a", model_sha256="12" * 32, fingerprint="34" * 32)
    handle = Handle([batch(finished())])
    handle.states = [state("r1", adapters=(hashes,)), state("r2")]
    variant = VariantClient(
        "tuned", "app", RetryBudget(RetryConfig()), GatewayMetrics(), adapter="a"
    )
    variant._handle = variant._unary = variant._stream = handle
    await reply(variant, stream=False)
    assert [call.request.adapter for call in handle.calls] == ["a"]
    await variant.refresh()
    assert variant.identity == identity(
        replica="r1", model_sha256=hashes.model_sha256, fingerprint=hashes.fingerprint
    )
    with_it, without = variant.states
    assert (with_it.state, with_it.error) == ("ready", None)
    assert (without.state, without.identity) == ("failed", None)
    assert without.error == "adapter 'a' is missing; adapters that are loaded: []"


async def test_variants_of_one_application_bound_batch_work_together() -> None:
    limit = _LESSER_AT_ONCE["batch"]
    first = client(Handle(*(["hang"] for _ in range(limit))))
    second = client(Handle(["hang"]))
    second.share_gates(first)
    work = replace(CALL, request=replace(CALL.request, priority="batch"))
    tasks = [asyncio.create_task(anext(first.call(work, stream=False))) for _ in range(limit)]
    tasks.append(asyncio.create_task(anext(second.call(work, stream=False))))
    await asyncio.sleep(0.02)
    assert first._unary.n_calls == limit
    assert second._unary.n_calls == 0
    tasks[0].cancel()
    await asyncio.sleep(0.02)
    assert second._unary.n_calls == 1
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_variant_of_the_base_is_not_ready_where_only_adapters_answer() -> None:
    handle = Handle()
    handle.states = [state("r1", serves_base=False)]
    variant = client(handle)
    await variant.refresh()
    assert [one.error for one in variant.states] == [
        "the base does not answer; adapters that are loaded: []"
    ]
    assert variant.identity is None


async def test_known_weights_stay_while_any_replica_has_them() -> None:
    handle = Handle()
    variant = client(handle)
    variant.identity = identity(fingerprint="old")
    handle.states = [state("r1", fingerprint="new"), state("r2", fingerprint="old")]
    await variant.refresh()
    assert variant.identity.fingerprint == "old"
    handle.states = [state("r1", fingerprint="new"), state("r2", fingerprint="new")]
    await variant.refresh()
    assert variant.identity.fingerprint == "new"


@pytest.mark.parametrize("silence", [[], RayServeException("updating"), TimeoutError()], ids=repr)
async def test_states_outlive_a_moment_of_silence_but_not_more(silence: Any) -> None:
    """A replica that takes a new configuration is out of reach for a moment."""
    handle = Handle()
    handle.states = [state("r1")]
    variant = client(handle)
    await variant.refresh()
    handle.states = silence
    await variant.refresh()
    assert [one.replica for one in variant.states] == ["r1"]
    variant._states_until = 0.0
    await variant.refresh()
    assert variant.states == []
