"""OpenAI bodies as the SDK's own types read them."""

from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from serve_app.engines.protocol import Usage
from serve_app.gateway.render import ChatRenderer, CompletionRenderer, sse, usage_body
from tests.unit.gateway.builders import chunk, finished, logprob

USAGES = [Usage(prompt_tokens=3, completion_tokens=5, cached_tokens=2)] * 2


def test_chat_answer_validates_strictly() -> None:
    answer = finished("hola", logprobs=(logprob("ho"), logprob("la")))
    body = ChatRenderer("chatcmpl-1", "m", 5).complete([(answer, "hola")], "fp")
    parsed = ChatCompletion.model_validate(body, strict=True)
    assert parsed.choices[0].message.content == "hola"
    assert parsed.choices[0].logprobs is not None
    assert parsed.system_fingerprint == "fp"


def test_every_event_of_a_chat_stream_validates_strictly() -> None:
    renderer = ChatRenderer("chatcmpl-1", "m", 5)
    events = [
        renderer.opening("fp"),
        renderer.piece(chunk("ho", logprobs=(logprob("ho"),)), "ho", "fp"),
        renderer.closing("length", "fp"),
        renderer.usage(USAGES[0], "fp"),
    ]
    parsed = [ChatCompletionChunk.model_validate(event, strict=True) for event in events]
    assert parsed[2].choices[0].finish_reason == "length"
    assert parsed[3].choices == []
    assert parsed[3].usage is not None


def test_chunk_without_text_is_no_event() -> None:
    assert ChatRenderer("i", "m", 5).piece(finished(""), "", "fp") is None
    assert CompletionRenderer("i", "m", 5).piece(finished(""), "", "fp") is None


def test_completion_validates_strictly() -> None:
    answers = [(finished("a", logprobs=(logprob("a"),)), "a"), (finished("b"), "b")]
    body = CompletionRenderer("cmpl-1", "m", 5).complete(answers, "fp")
    parsed = Completion.model_validate(body, strict=True)
    assert [(c.index, c.text) for c in parsed.choices] == [(0, "a"), (1, "b")]
    assert parsed.usage is not None
    assert parsed.usage.total_tokens == 8


def test_text_offsets_go_on_through_a_stream() -> None:
    renderer = CompletionRenderer("cmpl-1", "m", 5)
    first = chunk("b", logprobs=(logprob("b"),), prompt_text="a", prompt_logprobs=(logprob("a"),))
    one = renderer.piece(first, "b", "fp")
    two = renderer.piece(chunk("cd", logprobs=(logprob("cd"),)), "cd", "fp")
    assert one is not None
    assert two is not None
    offsets = [e["choices"][0]["logprobs"]["text_offset"] for e in (one, two)]
    assert offsets == [[0, 1], [2]]


def test_usage_adds_up() -> None:
    assert usage_body(USAGES) == {
        "prompt_tokens": 6,
        "completion_tokens": 10,
        "total_tokens": 16,
        "prompt_tokens_details": {"cached_tokens": 4},
    }


def test_events_are_one_line_each() -> None:
    assert sse({"a": "x\ny\u2028"}).count(b"\n") == 2
