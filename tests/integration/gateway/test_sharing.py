"""One generation for many, across two gateways; nothing shared between variants."""

import asyncio
import uuid
from typing import Any

from tests.integration.conftest import Cluster, chat
from tests.integration.gateway.load import Answer, ask, client, failures

SLOW = {"echo": {"tag": "candidate", "prefill_s": 1.0, "token_s": 0.05}}


async def ask_together(url: str, bodies: list[dict[str, Any]]) -> list[Answer]:
    async with client(200) as http:
        return list(await asyncio.gather(*(ask(http, url, body) for body in bodies)))


def completion_tokens(cluster: Cluster, variant: str) -> float:
    return cluster.total("carril_engine_completion_tokens_total", variant=variant)


def test_a_hundred_identical_requests_over_both_gateways_make_one_generation(
    cluster: Cluster,
) -> None:
    cluster.deploy(candidate=SLOW)
    question = uuid.uuid4().hex
    body = chat(f"uno dos {question}", model="okla-chat@candidate")
    before = completion_tokens(cluster, "candidate")
    gateways = cluster.samples("okla_llm_requests_total", variant="candidate")
    answers = asyncio.run(ask_together(cluster.url, [body] * 100))
    assert failures(answers) == []
    assert {answer.content for answer in answers} == {f"candidate uno dos {question}"}
    states = [answer.cache for answer in answers]
    assert states.count("miss") == 1
    assert states.count("join") + states.count("hit") == 99
    assert completion_tokens(cluster, "candidate") - before == 4
    after = cluster.samples("okla_llm_requests_total", variant="candidate")
    asked = [after[key] - gateways.get(key, 0) for key in after]
    assert len([n for n in asked if n > 0]) == 2, "both gateways had a part in it"

    [again] = asyncio.run(ask_together(cluster.url, [body]))
    assert again.cache in ("hit", "join")
    [other] = asyncio.run(ask_together(cluster.url, [body | {"model": "okla-chat@stable"}]))
    assert other.cache == "miss"
    assert other.content == f"stable uno dos {question}"


def test_streams_that_join_late_get_the_whole_answer(cluster: Cluster) -> None:
    cluster.deploy(candidate=SLOW)
    question = uuid.uuid4().hex
    words = " ".join(str(n) for n in range(20))
    body = chat(f"{words} {question}", model="okla-chat@candidate", stream=True)
    before = completion_tokens(cluster, "candidate")

    async def late() -> list[Answer]:
        async with client() as http:
            tasks = []
            for _ in range(8):
                tasks.append(asyncio.create_task(ask(http, cluster.url, body)))
                await asyncio.sleep(0.15)
            return list(await asyncio.gather(*tasks))

    answers = asyncio.run(late())
    assert failures(answers) == []
    texts = set()
    for answer in answers:
        *chunks, done = answer.events
        assert done == "[DONE]"
        texts.add("".join(c["choices"][0]["delta"].get("content") or "" for c in chunks))
    assert texts == {f"candidate {words} {question}"}
    assert completion_tokens(cluster, "candidate") - before == 22
    assert sorted(answer.cache for answer in answers)[-1] == "miss"
    assert [answer.cache for answer in answers].count("miss") == 1
