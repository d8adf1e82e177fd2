"""Users before batch work on a real llama.cpp: slots taken back, nothing lost, nobody starved."""

import asyncio
import time

import pytest

from serve_app.engines.llama_cpp import load, waiting
from serve_app.errors import DeadlineExceeded, Overloaded
from tests.e2e.engines.asking import ask, chat, model_config, until
from tests.e2e.engines.test_generation import slow_down

STEP_S = 0.01
PLAIN = {"n_threads": 1, "prompt_lookup": False, "packing": False, "answer_memory": False}
"""Every row is a token, and every token a step."""


async def first_token_s(engine, request):
    started = time.monotonic()
    stream = engine.generate(request)
    await anext(stream)
    took_s = time.monotonic() - started
    await stream.aclose()
    return took_s


async def test_user_gets_a_first_token_soon_while_batch_work_has_all_slots(nano):
    engine = load(model_config(n_slots=4), nano)
    slow_down(engine, STEP_S)
    work = [
        asyncio.create_task(
            ask(engine, chat(f"lote {i}", max_tokens=100, priority="batch", logprobs=2))
        )
        for i in range(16)
    ]
    try:
        await until(lambda: engine.stats().waiting_by_priority["batch"] == 12)
        waits = [await first_token_s(engine, chat(f"hola {i}")) for i in range(3)]
        # 16 answers of 100 steps by fours are four seconds and more for who comes last.
        assert max(waits) < 40 * STEP_S
        assert engine.stats().preempted_total >= 1
        assert not any(task.done() for task in work[8:])
        answers = await asyncio.gather(*work)
    finally:
        await engine.close()
    for answer in answers:
        assert answer.usage.completion_tokens == len(answer.logprobs)
        assert answer.finish_reason in ("length", "stop")


async def test_without_preemption_users_wait_for_a_slot_but_still_go_first(nano):
    engine = load(model_config(n_slots=2, llama_cpp={"n_threads": 1, "preemption": False}), nano)
    slow_down(engine, STEP_S)
    work = [
        asyncio.create_task(ask(engine, chat(f"lote {i}", max_tokens=50, priority="batch")))
        for i in range(6)
    ]
    try:
        await until(lambda: engine.stats().waiting_by_priority["batch"] == 4)
        await ask(engine, chat("hola", max_tokens=5))
        assert engine.stats().preempted_total == 0
        assert sum(task.done() for task in work) in (1, 2, 3)
        await asyncio.gather(*work)
    finally:
        await engine.close()


async def test_preempted_answer_equals_an_undisturbed_one_and_is_not_computed_twice(nano):
    engine = load(model_config(n_slots=1, llama_cpp=PLAIN), nano)
    request = chat("busco una yipeta", max_tokens=60, logprobs=2, priority="batch")
    try:
        alone = await ask(engine, request)
        slow_down(engine, STEP_S)
        task = asyncio.create_task(ask(engine, request))
        for _ in range(2):
            await until(lambda: engine.stats().running == 1 and engine.stats().waiting == 0)
            generated = engine.stats().completion_tokens_total
            await until(lambda n=generated: engine.stats().completion_tokens_total > n + 10)
            rows = engine.stats().step_rows_total
            await ask(engine, chat("klk", max_tokens=2))
        disturbed = await task
        rows = engine.stats().step_rows_total - rows
        assert engine.stats().preempted_total == 2
    finally:
        await engine.close()
    # The user's prompt and answer, what was left of the batch's, and one row to go on from.
    assert rows < 60 + 40
    for a, b in zip(alone.logprobs, disturbed.logprobs, strict=False):
        if a.token_bytes != b.token_bytes:
            assert a.top[0].logprob - a.top[1].logprob < 0.05
            break
        assert a.logprob == pytest.approx(b.logprob, abs=0.05)
    else:
        assert disturbed.text == alone.text


async def test_batch_work_gets_a_slot_within_its_patience_under_a_flood_of_users(nano, monkeypatch):
    monkeypatch.setitem(waiting.PATIENCE_S, "batch", 0.3)
    engine = load(model_config(n_slots=2), nano)
    slow_down(engine, STEP_S)

    async def user(i):
        while not done.is_set():
            await ask(engine, chat(f"hola {i}", max_tokens=10))

    done = asyncio.Event()
    users = [asyncio.create_task(user(i)) for i in range(6)]
    try:
        await until(lambda: engine.stats().running == 2)
        answer = await asyncio.wait_for(
            ask(engine, chat("lote", max_tokens=20, priority="batch")), timeout=10
        )
        assert answer.usage.completion_tokens > 0
    finally:
        done.set()
        await asyncio.gather(*users)
        await engine.close()


async def test_requests_that_would_be_late_are_refused_at_once_with_a_time_to_come_back(nano):
    engine = load(model_config(n_slots=1, llama_cpp=PLAIN), nano)
    slow_down(engine, STEP_S)
    took_s, refused_s = [], []

    async def timed(timeout_s):
        started = time.monotonic()
        try:
            answer = await ask(engine, chat("busco una yipeta", max_tokens=20, timeout_s=timeout_s))
        except (Overloaded, DeadlineExceeded) as error:
            refused_s.append(time.monotonic() - started)
            return error
        took_s.append(time.monotonic() - started)
        return answer

    try:
        for _ in range(10):  # how long an answer takes is learned
            await timed(60)
        timeout_s = 6 * sorted(took_s)[5]
        outcomes = await asyncio.gather(*(timed(timeout_s) for _ in range(40)))
        refused = [outcome for outcome in outcomes if isinstance(outcome, Overloaded)]
        late = [outcome for outcome in outcomes if isinstance(outcome, DeadlineExceeded)]
        assert len(refused) == engine.stats().refused_late_total > 20 > len(late)
        assert sorted(refused_s)[len(refused) // 2] < timeout_s / 2
        waits_s = [error.retry_after_s for error in refused]
        assert min(waits_s) > 0
        assert max(waits_s) > timeout_s / 2
        assert "wait for a slot" in refused[0].message
        assert len(outcomes) - len(refused) - len(late) >= 2
    finally:
        await engine.close()


async def test_deadline_of_the_first_token_ends_with_the_first_token(nano):
    engine = load(model_config(n_slots=1, llama_cpp=PLAIN), nano)
    slow_down(engine, STEP_S)
    try:
        answer = await ask(engine, chat("hola", max_tokens=60, first_token_s=0.3))
        assert answer.finish_reason
        with pytest.raises(DeadlineExceeded, match="no complete answer"):
            await ask(engine, chat("hola", max_tokens=400, timeout_s=0.1))
        first = engine.generate(chat("hola", max_tokens=400))
        await anext(first)
        with pytest.raises(DeadlineExceeded, match="no token"):
            await ask(engine, chat("tarde", first_token_s=0.03))
        await first.aclose()
    finally:
        await engine.close()
