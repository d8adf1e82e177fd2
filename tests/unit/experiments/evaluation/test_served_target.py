import json
import math

import httpx
import pytest

from experiments.evaluation import served_target
from experiments.evaluation.errors import TargetDenied, TargetUnavailable
from experiments.evaluation.served_target import ServedTarget
from tests.unit.experiments.evaluation.conftest import answer_text, make_item

MODELS = {"data": [{"id": "okla-chat"}]}


class Server:
    """Plays a list of responses to chat requests and keeps what was asked."""

    def __init__(self, *responses: httpx.Response, readyz: object = None) -> None:
        self.responses, self.requests, self.readyz = list(responses), [], readyz

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/models":
            return httpx.Response(200, json=MODELS)
        if request.url.path == "/readyz":
            return httpx.Response(200, json=self.readyz or {})
        self.requests.append(request)
        return self.responses.pop(0)

    @property
    def bodies(self) -> list[dict]:
        return [json.loads(request.content) for request in self.requests]


def completion(*, logprobs: bool = True, **headers: str) -> httpx.Response:
    text = answer_text()
    head, tail = text.split("saludo")
    tokens = [(head, 0.9), ("salu", 0.8), ("do", 0.5), (tail, 0.9)]
    content = [
        {"token": t, "logprob": math.log(p), "bytes": list(t.encode()), "top_logprobs": []}
        for t, p in tokens
    ]
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text},
        "finish_reason": "stop",
        "logprobs": {"content": content} if logprobs else None,
    }
    document = {"choices": [choice], "usage": {"completion_tokens": 61}}
    return httpx.Response(200, json=document, headers=headers)


def error(status: int, message: str, **headers: str) -> httpx.Response:
    return httpx.Response(status, json={"error": {"message": message}}, headers=headers)


def open_target(server, profile, *, model="okla-chat", **more) -> ServedTarget:
    transport = httpx.MockTransport(server)
    return ServedTarget("http://test", model, profile, transport=transport, **more)


@pytest.fixture
def waits(monkeypatch):
    waited = []
    monkeypatch.setattr(served_target.time, "sleep", waited.append)
    return waited


def test_an_answer_with_its_probability(profile):
    server = Server(completion())
    reply = open_target(server, profile, model="okla-chat@stable").answer(make_item())
    assert reply.text == answer_text()
    assert reply.finished
    assert reply.probability == pytest.approx(0.4)
    assert reply.completion_tokens == 61
    (body,) = server.bodies
    assert body["model"] == "okla-chat@stable"
    assert (body["temperature"], body["logprobs"]) == (0, True)
    assert [m["role"] for m in body["messages"]] == ["user"]
    assert server.requests[0].headers["cache-control"] == "no-store"


def test_items_with_inventory_bring_their_system_message(profile):
    row = {"stock_id": "OK-1", "make": "Kia", "model": "Rio", "year": 2019, "price_dop": 500_000}
    server = Server(completion())
    open_target(server, profile).answer(make_item(inventory=[row]))
    system, user = server.bodies[0]["messages"]
    assert (system["role"], user["role"]) == ("system", "user")
    assert system["content"].startswith(profile.system_prompt + "\n\nInventario:\n- OK-1 | Kia Rio")


def test_a_busy_server_is_asked_again_after_the_time_it_names(profile, waits):
    server = Server(
        error(429, "too many", **{"retry-after": "3"}), error(503, "loading"), completion()
    )
    reply = open_target(server, profile).answer(make_item())
    assert reply.error is None
    assert len(server.requests) == 3
    assert 3 <= waits[0] <= 4.5


def test_a_server_that_stays_busy_is_an_error_of_the_item(profile, waits):
    server = Server(*[error(503, "loading") for _ in range(6)])
    reply = open_target(server, profile).answer(make_item())
    assert reply.error == "HTTP 503: loading"
    assert len(waits) == 5


@pytest.mark.parametrize("status", [400, 404, 500, 502, 504])
def test_other_failures_are_not_tried_again(profile, waits, status):
    server = Server(error(status, "no"), completion())
    assert open_target(server, profile).answer(make_item()).error == f"HTTP {status}: no"
    assert len(server.requests) == 1
    assert waits == []


def test_a_server_without_logprobs_is_asked_without(profile):
    server = Server(
        error(400, "logprobs are not supported"),
        completion(logprobs=False),
        completion(logprobs=False),
    )
    target = open_target(server, profile)
    assert target.answer(make_item()).probability is None
    target.answer(make_item())
    assert [body.get("logprobs") for body in server.bodies] == [True, None, None]


def test_the_probabilities_of_all_intents_come_with_the_answer(profile):
    document = json.loads(completion().content)
    value = document["choices"][0]["logprobs"]["content"][1]
    value["top_logprobs"] = [
        {"token": "salu", "logprob": math.log(0.8), "bytes": list(b"salu")},
        {"token": "fuera", "logprob": math.log(0.2), "bytes": None},
    ]
    server = Server(httpx.Response(200, json=document))
    reply = open_target(server, profile).answer(make_item())
    assert reply.probabilities == pytest.approx({"saludo": 0.8, "fuera_de_dominio": 0.2})
    assert server.bodies[0]["top_logprobs"] == 20


def test_a_server_with_fewer_candidates_is_asked_without_them(profile):
    server = Server(error(422, "top_logprobs must be between 0 and 5, got 20"), completion())
    reply = open_target(server, profile).answer(make_item())
    assert (reply.probability, reply.probabilities) == (pytest.approx(0.4), None)
    assert [body.get("top_logprobs") for body in server.bodies] == [20, None]
    assert server.bodies[1]["logprobs"] is True


def test_an_answer_of_another_shape_is_an_error_of_the_item(profile):
    server = Server(httpx.Response(200, json={"choices": []}))
    assert "not an OpenAI answer" in (open_target(server, profile).answer(make_item()).error or "")


def test_the_model_is_named_by_its_full_hash(profile):
    digest = "ab" * 32
    readyz = {"variants": [{"replicas": [{"model_sha256": digest}, {"model_sha256": "c" * 64}]}]}
    server = Server(completion(**{"x-carril-model": digest[:12]}), readyz=readyz)
    target = open_target(server, profile)
    target.answer(make_item())
    assert (target.info().version, target.info().sha256) == (digest[:12], digest)


def test_the_prior_is_that_of_the_variant_that_answered(profile):
    digest = "ab" * 32
    variants = {
        name: {"replicas": [{"model_sha256": digest, "intent_prior_sha256": prior}]}
        for name, prior in (("plain", None), ("helped", "d" * 64))
    }

    def info(*answering):
        headers = {"x-carril-model": digest[:12]}
        answers = [completion(**headers, **{"x-carril-variant": name}) for name in answering]
        target = open_target(Server(*answers, readyz={"variants": variants}), profile)
        for _ in answering:
            target.answer(make_item())
        return target.info()

    assert (info("plain").sha256, info("plain").prior_sha256) == (digest, None)
    assert (info("helped").sha256, info("helped").prior_sha256) == (digest, "d" * 64)
    # The same weights with and without it: nobody can say what was measured.
    assert (info("plain", "helped").sha256, info("plain", "helped").prior_sha256) == (None, None)


def test_several_variants_have_no_one_hash(profile):
    server = Server(
        completion(**{"x-carril-model": "a" * 12}), completion(**{"x-carril-model": "b" * 12})
    )
    target = open_target(server, profile)
    target.answer(make_item())
    target.answer(make_item())
    assert target.info().sha256 is None
    assert target.info().version == f"{'a' * 12}, {'b' * 12}"


def test_an_unknown_model_is_refused_before_the_run(profile):
    with pytest.raises(TargetUnavailable, match="does not serve 'gpt'"):
        open_target(Server(), profile, model="gpt")


def test_a_refused_key_ends_the_run(profile):
    def denied(_request):
        return error(401, "no key")

    with pytest.raises(TargetDenied, match="no key"):
        open_target(denied, profile)


def test_nothing_there_is_said_at_once(profile):
    with pytest.raises(TargetUnavailable, match="Nothing answers"):
        ServedTarget("http://127.0.0.1:9", "okla-chat", profile)
