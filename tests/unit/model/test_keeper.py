"""What the keeper does beside loading: sleep, waking, time limits, changes in place."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from serve_app.errors import ModelNotReady, ModelWaking
from serve_app.model import keeper as module
from serve_app.model import loader
from serve_app.model.calls import ReplicaState
from serve_app.model.keeper import ModelKeeper
from serve_app.telemetry.metrics import ModelMetrics

ECHO: dict[str, Any] = {"engine": "echo", "echo": {"tag": "one"}}
SLEEPY = ECHO | {"idle": {"unload_after_s": 0.05, "wake_timeout_s": 2}}


@pytest.fixture
async def keeper() -> AsyncIterator[ModelKeeper]:
    keeper = ModelKeeper("okla-stable", "r1", ModelMetrics())
    yield keeper
    for task in (keeper._dozing, keeper._loading):
        if task is not None:
            task.cancel()


async def until(keeper: ModelKeeper, state: ReplicaState, seconds: float = 3.0) -> None:
    deadline = time.monotonic() + seconds
    while keeper.state().state != state:
        assert time.monotonic() < deadline, keeper.state()
        await asyncio.sleep(0.005)


def value(keeper: ModelKeeper, name: str) -> float:
    return keeper._metrics.registry.get_sample_value(name) or 0.0


class Gate:
    """Holds loads up until it is opened; loads run in threads."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._open = threading.Event()
        self.loads = 0
        real = loader._load

        def load(config: Any, beside: Any) -> Any:
            self.loads += 1
            assert self._open.wait(10)
            return real(config, beside)

        monkeypatch.setattr(loader, "_load", load)

    def open(self) -> None:
        self._open.set()


async def test_model_that_nobody_asks_is_unloaded_and_still_says_what_it_is(
    keeper: ModelKeeper,
) -> None:
    await keeper.want(SLEEPY)
    model = keeper.slot.current
    await until(keeper, "idle")
    assert model is not None
    assert not model.engine.health().alive
    state = keeper.state()
    assert state.error is None
    assert state.identity is not None
    assert state.identity.config_hash == state.config_hash
    assert value(keeper, "carril_model_unloads_total") == 1


async def test_requests_wake_it_once_for_all_of_them(keeper: ModelKeeper) -> None:
    await keeper.want(SLEEPY)
    await until(keeper, "idle")

    async def ask() -> str:
        async with keeper.use() as model:
            return model.identity.model_name

    assert await asyncio.gather(*(ask() for _ in range(5))) == ["echo-one"] * 5
    assert value(keeper, "carril_model_swaps_total") == 2
    assert value(keeper, "carril_model_wake_seconds_count") == 5


async def test_model_in_use_does_not_sleep(keeper: ModelKeeper) -> None:
    await keeper.want(SLEEPY)
    async with keeper.use():
        await asyncio.sleep(0.2)
        assert keeper.state().state == "ready"
    await until(keeper, "idle")


async def test_waiting_for_it_ends_with_a_time_to_come_back(
    keeper: ModelKeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    await keeper.want(ECHO | {"idle": {"unload_after_s": 0.05, "wake_timeout_s": 0.1}})
    await until(keeper, "idle")
    gate = Gate(monkeypatch)
    with pytest.raises(ModelWaking, match=r"0\.1 s") as caught:
        async with keeper.use():
            pass
    assert (caught.value.status, caught.value.retry_after_s) == (503, 1)
    assert keeper.state().state == "waking"
    with pytest.raises(ModelWaking):
        async with keeper.use():
            pass
    assert gate.loads == 1
    gate.open()
    await until(keeper, "ready")


async def test_model_that_does_not_come_back_is_reported_and_not_waited_for(
    keeper: ModelKeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    await keeper.want(SLEEPY)
    await until(keeper, "idle")

    def broken(*_: Any) -> Any:
        raise OSError("the disk is gone")

    monkeypatch.setattr(loader, "_load", broken)
    for _ in range(2):
        started = time.monotonic()
        with pytest.raises(ModelNotReady) as caught:
            async with keeper.use():
                pass
        assert time.monotonic() - started < 1
        assert caught.value.retry_after_s == module._RETRY_S
    state = keeper.state()
    assert state.state == "failed"
    assert "the disk is gone" in (state.error or "")


async def test_load_that_takes_too_long_is_reported_and_taken_when_it_comes(
    keeper: ModelKeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    monkeypatch.setattr(module, "_LOOK_S", 0.05)
    await asyncio.wait_for(keeper.want(ECHO | {"load_timeout_s": 0.1}), 2)
    state = keeper.state()
    assert state.state == "failed"
    assert "0.1 s" in (state.error or "")
    assert value(keeper, "carril_model_load_failures_total") == 1
    await asyncio.sleep(0.15)
    assert gate.loads == 1
    gate.open()
    await until(keeper, "ready")
    assert keeper.state().error is None


@pytest.mark.parametrize("asleep", [False, True])
async def test_operation_changes_in_place(keeper: ModelKeeper, asleep: bool) -> None:
    await keeper.want(SLEEPY if asleep else ECHO)
    await until(keeper, "idle" if asleep else "ready")
    before = keeper.slot.current
    swaps = value(keeper, "carril_model_swaps_total")
    await keeper.want(
        ECHO
        | {"scaling": {"target_wait_s": 1}, "load_timeout_s": 60, "idle": {"wake_timeout_s": 9}}
    )
    state = keeper.state()
    assert state.identity is not None
    assert state.identity.config_hash == state.config_hash
    assert keeper.slot.current is before
    assert value(keeper, "carril_model_swaps_total") == swaps
    assert keeper.config is not None
    assert keeper.config.scaling.target_wait_s == 1


async def test_other_model_for_a_sleeping_one_is_loaded_without_blocking(
    keeper: ModelKeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    await keeper.want(SLEEPY)
    await until(keeper, "idle")
    gate = Gate(monkeypatch)
    await asyncio.wait_for(keeper.want({"engine": "echo", "echo": {"tag": "two"}}), 1)
    assert keeper.state().state == "waking"
    gate.open()
    async with keeper.use() as model:
        assert model.identity.model_name == "echo-two"


async def test_sleep_can_be_switched_off(keeper: ModelKeeper) -> None:
    await keeper.want(SLEEPY)
    await keeper.want(ECHO)
    await asyncio.sleep(0.2)
    assert keeper.state().state == "ready"
