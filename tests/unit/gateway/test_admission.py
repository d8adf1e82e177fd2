"""Bounds on the work in progress, and the retry budget."""

import asyncio

import pytest

from serve_app.config import LimitsConfig, RetryConfig
from serve_app.errors import Overloaded, RateLimited
from serve_app.gateway.admission import Admission
from serve_app.gateway.retry import RetryBudget


def test_full_replica_refuses_with_503_and_a_time() -> None:
    admission = Admission(LimitsConfig(max_in_flight=2))
    releases = [admission.enter("a"), admission.enter("b")]
    with pytest.raises(Overloaded) as caught:
        admission.enter("c")
    assert (caught.value.status, caught.value.retry_after_s) == (503, 1.0)
    releases[0]()
    admission.enter("c")
    assert admission.in_flight == 2


def test_one_tenant_cannot_take_every_place() -> None:
    admission = Admission(LimitsConfig(max_in_flight=10, max_in_flight_per_tenant=2))
    admission.enter("a")
    release = admission.enter("a")
    with pytest.raises(RateLimited) as caught:
        admission.enter("a")
    assert (caught.value.status, caught.value.retry_after_s) == (429, 1.0)
    admission.enter("b")
    release()
    admission.enter("a")


def test_giving_back_twice_is_harmless() -> None:
    admission = Admission(LimitsConfig())
    first, _ = admission.enter("a"), admission.enter("a")
    first()
    first()
    assert admission.in_flight == 1


def test_new_limits_apply_to_those_already_inside() -> None:
    admission = Admission(LimitsConfig())
    releases = [admission.enter("a") for _ in range(5)]
    admission.limits = LimitsConfig(max_in_flight=3)
    with pytest.raises(Overloaded):
        admission.enter("a")
    for release in releases:
        release()
    admission.enter("a")
    assert admission.in_flight == 1


def test_tenants_that_left_are_forgotten() -> None:
    admission = Admission(LimitsConfig())
    for n in range(100):
        admission.enter(f"tenant-{n}")()
    assert admission._by_tenant == {}


def test_retries_are_a_share_of_live_requests_plus_a_few() -> None:
    budget = RetryBudget(RetryConfig(budget_rate=0.2, budget_min=3))
    for _ in range(50):
        budget.enter()
    allowed = 0
    while budget.try_begin():
        allowed += 1
    assert allowed == 3 + 10
    budget.end()
    assert budget.try_begin()
    assert not budget.try_begin()


def test_no_retries_at_all_can_be_configured() -> None:
    budget = RetryBudget(RetryConfig(budget_rate=0, budget_min=0))
    budget.enter()
    assert not budget.try_begin()


async def test_retry_waits_for_another_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    budget = RetryBudget(RetryConfig(budget_rate=0, budget_min=1))
    assert await budget.begin()
    waiting = [asyncio.create_task(budget.begin()) for _ in range(2)]
    await asyncio.sleep(0)
    assert not any(task.done() for task in waiting)
    for task in waiting:
        budget.end()
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        assert [one.done() for one in waiting].count(True) == 1 or task is waiting[1]
    assert [task.result() for task in waiting] == [True, True]
    monkeypatch.setattr("serve_app.gateway.retry._PATIENCE_S", 0.01)
    assert not await budget.begin()
