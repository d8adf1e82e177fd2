"""The slot: swaps that drain, and nothing freed while it is in use."""

import asyncio

import pytest

from serve_app.engines.echo import EchoEngine
from serve_app.errors import ModelNotReady
from serve_app.model.profile import Profile
from serve_app.model.slot import LoadedModel, ModelSlot
from tests.unit.gateway.builders import identity, model_config


def loaded(tag: str = "") -> LoadedModel:
    engine = EchoEngine(model_config(echo={"tag": tag}))
    return LoadedModel(engine, identity(model_name=tag), Profile(), 60)


def closed(model: LoadedModel) -> bool:
    return not model.engine.health().alive


async def test_empty_slot_is_not_ready() -> None:
    with pytest.raises(ModelNotReady) as caught, ModelSlot().use():
        raise AssertionError
    assert (caught.value.status, caught.value.retry_after_s) == (503, 2.0)


async def test_swap_of_an_idle_model_frees_it() -> None:
    slot, old, new = ModelSlot(), loaded("old"), loaded("new")
    await slot.swap(old, drain_timeout_s=1)
    await slot.swap(new, drain_timeout_s=1)
    assert closed(old)
    assert not closed(new)
    assert slot.loaded == (new,)


async def test_old_requests_finish_on_the_old_model_and_new_ones_take_the_new() -> None:
    slot, old, new = ModelSlot(), loaded("old"), loaded("new")
    await slot.swap(old, drain_timeout_s=1)
    with slot.use() as first, slot.use():
        swapping = asyncio.create_task(slot.swap(new, drain_timeout_s=10))
        await asyncio.sleep(0)
        assert first is old
        assert not closed(old)
        assert set(slot.loaded) == {old, new}
        with slot.use() as second:
            assert second is new
    await asyncio.wait_for(swapping, 1)
    assert closed(old)
    assert slot.loaded == (new,)


async def test_request_that_never_ends_does_not_keep_the_old_model_for_ever() -> None:
    slot, old, new = ModelSlot(), loaded("old"), loaded("new")
    await slot.swap(old, drain_timeout_s=1)
    with slot.use():
        await slot.swap(new, drain_timeout_s=0.01)
        assert closed(old)
    assert slot.current is new


async def test_cancelled_swap_still_frees_the_old_model() -> None:
    slot, old, new = ModelSlot(), loaded("old"), loaded("new")
    await slot.swap(old, drain_timeout_s=1)
    with slot.use():
        swapping = asyncio.create_task(slot.swap(new, drain_timeout_s=10))
        await asyncio.sleep(0)
        swapping.cancel()
        await asyncio.wait([swapping])
    assert closed(old)
    assert slot.loaded == (new,)


async def test_three_models_in_a_row_drain_side_by_side() -> None:
    slot, models = ModelSlot(), [loaded(str(n)) for n in range(3)]
    await slot.swap(models[0], drain_timeout_s=1)
    with slot.use():
        one = asyncio.create_task(slot.swap(models[1], drain_timeout_s=10))
        await asyncio.sleep(0)
        with slot.use():
            two = asyncio.create_task(slot.swap(models[2], drain_timeout_s=10))
            await asyncio.sleep(0)
            assert len(slot.loaded) == 3
    await asyncio.gather(one, two)
    assert [closed(model) for model in models] == [True, True, False]


async def test_failing_request_gives_the_model_back() -> None:
    slot, old = ModelSlot(), loaded()
    await slot.swap(old, drain_timeout_s=1)
    with pytest.raises(ValueError, match="broken"), slot.use():
        raise ValueError("broken")
    await slot.swap(None, drain_timeout_s=1)
    assert closed(old)
    assert slot.current is None
