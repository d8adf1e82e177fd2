"""Guessing from earlier answers makes the next ones faster, and does not change what they say."""

import asyncio
import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import jsonschema
import pytest

from serve_app.engines.llama_cpp import load
from serve_app.engines.protocol import GenerationRequest, Message, SamplingParams
from serve_app.model.profile import load_profile
from tests.e2e.engines.asking import ask, chat, model_config
from tests.e2e.engines.test_tricks import OKLA, QUESTIONS, ROOT, SCHEMA

PLAIN = {"n_threads": 1, "packing": False, "prompt_lookup": False, "answer_memory": False}
REMEMBERS = PLAIN | {"answer_memory": True}


def okla_request(text, **sampling):
    profile = load_profile(str(ROOT / "models/okla/profile"))
    system = Message(role="system", content=profile.system_prompt or "")
    return GenerationRequest(
        request_id=text,
        messages=(system, Message(role="user", content=text)),
        json_schema=profile.answer_schema,
        cache_salt="ana",
        sampling=SamplingParams(**({"max_tokens": 300, "temperature": 0} | sampling)),
    )


def in_turn(path, options, requests, *, together=1):
    """Ask in groups; return the answers, and the counters after each group."""
    engine = load(model_config(n_ctx=1024, n_slots=max(2, together), llama_cpp=options), path)
    found, stats = [], [engine.stats()]

    async def everything():
        for at in range(0, len(requests), together):
            group = requests[at : at + together]
            found.extend(await asyncio.gather(*(ask(engine, request) for request in group)))
            stats.append(engine.stats())

    try:
        asyncio.run(everything())
        return found, stats
    finally:
        asyncio.run(engine.close())


def test_answers_are_the_same_and_take_a_third_of_the_steps():
    requests = [okla_request(text) for text in QUESTIONS * 3]
    plain, before = in_turn(OKLA, PLAIN, requests)
    recalled, after = in_turn(OKLA, REMEMBERS, requests)
    assert [answer.text for answer in recalled] == [answer.text for answer in plain]
    assert [a.usage.completion_tokens for a in recalled] == [
        a.usage.completion_tokens for a in plain
    ]
    n = len(QUESTIONS)
    last = [stats[-1].steps_total - stats[-1 - n].steps_total for stats in (before, after)]
    assert 3 * last[1] < last[0]
    guessed, right = after[-1].guessed_by_source, after[-1].right_by_source
    assert guessed["prompt"] == 0
    assert right["answers"] > 0.8 * guessed["answers"] > 10 * n
    assert after[-1].kv_tokens_used == 0


def test_log_probabilities_are_the_same_within_rounding():
    # How much is guessed depends on what steps cost at the time: so often that it comes to enough.
    requests = [okla_request(text, logprobs=2) for text in QUESTIONS[:3] * 9]
    plain, _ = in_turn(OKLA, PLAIN, requests)
    recalled, stats = in_turn(OKLA, REMEMBERS, requests)
    assert stats[-1].right_by_source["answers"] > 50
    for a, b in zip(plain, recalled, strict=True):
        assert [entry.token for entry in a.logprobs] == [entry.token for entry in b.logprobs]
        for x, y in zip(a.logprobs, b.logprobs, strict=True):
            assert x.logprob == pytest.approx(y.logprob, abs=0.05)


def test_drawn_answers_are_drawn_as_without_it():
    requests = [okla_request(text, temperature=0.8, seed=7) for text in QUESTIONS * 2]
    plain, _ = in_turn(OKLA, PLAIN, requests)
    recalled, stats = in_turn(OKLA, REMEMBERS, requests)
    assert [answer.text for answer in recalled] == [answer.text for answer in plain]
    assert stats[-1].right_by_source["answers"] > 0


def test_tenants_schemas_and_free_answers_are_apart():
    ana = okla_request(QUESTIONS[0])
    berta = replace(ana, cache_salt="berta")
    other = replace(ana, json_schema=SCHEMA)
    free = replace(ana, json_schema=None)
    _, stats = in_turn(OKLA, REMEMBERS, [ana, ana, berta, other, free, ana])
    guessed = [one.guessed_by_source["answers"] for one in stats]
    new = [after - before for before, after in pairwise(guessed)]
    assert new[0] == new[2] == new[3] == new[4] == 0
    assert new[1] > 0
    assert new[5] > 0


def test_answers_without_a_schema_repeat_themselves_too(nano):
    request = chat("uno dos tres", max_tokens=60)
    plain, _ = in_turn(nano, PLAIN, [request] * 4)
    recalled, stats = in_turn(nano, REMEMBERS, [request] * 4)
    # Rows in company round differently, and random weights are full of near ties.
    assert [a.text[:20] for a in recalled] == [a.text[:20] for a in plain]
    assert stats[-1].right_by_source["answers"] > 0


def test_stop_strings_end_a_guessed_answer_where_they_stand(nano):
    whole, _ = in_turn(nano, PLAIN, [chat("uno dos tres", max_tokens=40)])
    stop = whole[0].text[10:13]
    request = chat("uno dos tres", max_tokens=40, stop=(stop,))
    plain, _ = in_turn(nano, PLAIN, [request] * 3)
    recalled, _ = in_turn(nano, REMEMBERS, [request] * 3)
    assert [a.text for a in recalled] == [a.text for a in plain]
    assert {a.finish_reason for a in recalled} == {"stop"}
    assert recalled[0].usage == plain[0].usage


@pytest.mark.parametrize("jump_forward", [True, False])
def test_answers_that_leave_known_ways_stay_valid(nano, jump_forward):
    # Random weights: the same seeds go the same way twice, others leave it anywhere.
    requests = [
        chat(f"hola {i % 3}", json_schema=SCHEMA, max_tokens=120, temperature=t, seed=i % 7)
        for t in (0.0, 0.6, 1.2)
        for i in range(24)
    ]
    found, stats = in_turn(nano, REMEMBERS | {"jump_forward": jump_forward}, requests, together=4)
    for answer in found:
        assert answer.finish_reason == "stop"
        jsonschema.validate(json.loads(answer.text), json.loads(SCHEMA))
    assert stats[-1].right_by_source["answers"] > 0


def test_memory_of_few_tokens_is_still_of_use_and_stays_small():
    requests = [okla_request(text) for text in (*QUESTIONS, *[QUESTIONS[0]] * 4)]
    engine = load(
        model_config(n_ctx=1024, llama_cpp=REMEMBERS | {"answer_memory_tokens": 60}), Path(OKLA)
    )

    async def everything():
        for request in requests:
            await ask(engine, request)
            (stepper,) = engine._lanes
            assert stepper._memory.n_tokens <= 60

    try:
        asyncio.run(everything())
        assert engine.stats().right_by_source["answers"] > 0
    finally:
        asyncio.run(engine.close())


def test_answers_with_and_without_log_probabilities_remember_each_other():
    # Only the latter take forced text undrawn, so their tokens may be others for the same text.
    text = QUESTIONS[0]
    requests = [okla_request(text, logprobs=n) for n in (None, 1, None, 1, 1, None, None)]
    plain, _ = in_turn(OKLA, PLAIN, requests)
    recalled, stats = in_turn(OKLA, REMEMBERS, requests)
    assert [answer.text for answer in recalled] == [answer.text for answer in plain]
    assert [len(answer.logprobs) for answer in recalled] == [len(a.logprobs) for a in plain]
    assert stats[-1].right_by_source["answers"] > 0
