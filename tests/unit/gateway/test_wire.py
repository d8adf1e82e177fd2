"""OpenAI bodies: each bad one gets a status, a code, a param, and a message that helps."""

from typing import Any

import pytest
from openai.types import completion_create_params as text_params
from openai.types.chat import completion_create_params as chat_params

from serve_app.errors import ClientError
from serve_app.gateway.wire import ChatBody, CompletionBody, parse_chat, parse_completion

CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hola"}]}
TEXT: dict[str, Any] = {"model": "m", "prompt": "hola"}


def schema(value: Any) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": value}}


BAD_CHATS = [
    pytest.param({"model": None}, "invalid_value", "model", id="model null"),
    pytest.param({"model": ""}, "invalid_value", "model", id="model empty"),
    pytest.param({"model": "x" * 257}, "invalid_value", "model", id="model long"),
    pytest.param({"model": 5}, "invalid_value", "model", id="model number"),
    pytest.param({"messages": []}, "invalid_value", "messages", id="no messages"),
    pytest.param({"messages": "hola"}, "invalid_value", "messages", id="messages text"),
    pytest.param({"messages": [5]}, "invalid_value", "messages.0", id="message number"),
    pytest.param({"messages": [{}]}, "missing_field", "messages.0.role", id="message empty"),
    pytest.param(
        {"messages": [{"role": "user"}]}, "missing_field", "messages.0.content", id="no content"
    ),
    pytest.param(
        {"messages": [{"role": "tool", "content": "x"}]},
        "invalid_value",
        "messages.0.role",
        id="role tool",
    ),
    pytest.param(
        {"messages": [{"role": "user", "content": 5}]},
        "invalid_value",
        "messages.0.content",
        id="content number",
    ),
    pytest.param(
        {"messages": [{"role": "user", "content": None}]},
        "invalid_value",
        "messages.0.content",
        id="content null",
    ),
    pytest.param(
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        "invalid_value",
        "messages.0.content.0.type",
        id="image",
    ),
    pytest.param(
        {"messages": [{"role": "user", "content": "x", "tool_calls": [{"id": "1"}]}]},
        "unsupported_parameter",
        "messages.0.tool_calls",
        id="tool calls",
    ),
    pytest.param({"temperature": -0.1}, "invalid_value", "temperature", id="temperature low"),
    pytest.param({"temperature": 2.1}, "invalid_value", "temperature", id="temperature high"),
    pytest.param({"temperature": "hot"}, "invalid_value", "temperature", id="temperature text"),
    pytest.param({"temperature": True}, "invalid_value", "temperature", id="temperature bool"),
    pytest.param({"temperature": float("nan")}, "invalid_value", "temperature", id="NaN"),
    pytest.param({"top_p": 0}, "invalid_value", "top_p", id="top_p zero"),
    pytest.param({"top_p": 1.1}, "invalid_value", "top_p", id="top_p high"),
    pytest.param({"top_k": -1}, "invalid_value", "top_k", id="top_k low"),
    pytest.param({"min_p": 2}, "invalid_value", "min_p", id="min_p high"),
    pytest.param({"frequency_penalty": 3}, "invalid_value", "frequency_penalty", id="penalty"),
    pytest.param({"presence_penalty": -3}, "invalid_value", "presence_penalty", id="penalty low"),
    pytest.param({"seed": 2**64}, "invalid_value", "seed", id="seed large"),
    pytest.param({"seed": 1.5}, "invalid_value", "seed", id="seed float"),
    pytest.param({"max_tokens": "5"}, "invalid_value", "max_tokens", id="max_tokens text"),
    pytest.param({"max_tokens": 1.5}, "invalid_value", "max_tokens", id="max_tokens float"),
    pytest.param({"max_tokens": 1e30}, "invalid_value", "max_tokens", id="max_tokens huge"),
    pytest.param({"stream": "yes"}, "invalid_value", "stream", id="stream text"),
    pytest.param({"stream": 1}, "invalid_value", "stream", id="stream number"),
    pytest.param({"stop": 5}, "invalid_value", "stop", id="stop number"),
    pytest.param({"stop": ["a", 5]}, "invalid_value", "stop.1", id="stop list of numbers"),
    pytest.param({"n": 2}, "unsupported_parameter", "n", id="n"),
    pytest.param({"tools": [{}]}, "unsupported_parameter", "tools", id="tools"),
    pytest.param(
        {"tool_choice": "required"}, "unsupported_parameter", "tool_choice", id="tool_choice"
    ),
    pytest.param({"functions": []}, "unsupported_parameter", "functions", id="functions"),
    pytest.param({"grammar": "root"}, "unsupported_parameter", "grammar", id="grammar"),
    pytest.param({"chat_template": "{{"}, "unsupported_parameter", "chat_template", id="template"),
    pytest.param({"str": 1}, "unsupported_parameter", "str", id="field named like a type"),
    pytest.param({"tuple[x": 1}, "unsupported_parameter", "tuple[x", id="field like a union"),
    pytest.param({"user": 5}, "invalid_value", "user", id="user number"),
    pytest.param({"user": "x" * 513}, "invalid_value", "user", id="user long"),
    pytest.param({"metadata": "x"}, "invalid_value", "metadata", id="metadata text"),
    pytest.param({"logprobs": 5}, "invalid_value", "logprobs", id="logprobs number"),
    pytest.param({"top_logprobs": True}, "invalid_value", "top_logprobs", id="top_logprobs bool"),
    pytest.param(
        {"response_format": {"type": "xml"}},
        "invalid_schema",
        "response_format.type",
        id="response_format type",
    ),
    pytest.param(
        {"response_format": "json"}, "invalid_schema", "response_format", id="format text"
    ),
    pytest.param(
        schema({"schema": {}}), "missing_field", "response_format.json_schema.name", id="no name"
    ),
    pytest.param(
        schema({"name": "a b", "schema": {}}),
        "invalid_schema",
        "response_format.json_schema.name",
        id="schema name",
    ),
    pytest.param(
        schema({"name": "a", "schema": []}),
        "invalid_schema",
        "response_format.json_schema.schema",
        id="schema list",
    ),
    pytest.param(
        {"stream_options": {"surprise": 1}},
        "unsupported_parameter",
        "stream_options.surprise",
        id="stream option",
    ),
]


@pytest.mark.parametrize(("changes", "code", "param"), BAD_CHATS)
def test_bad_chat_is_refused_by_name(changes: dict[str, Any], code: str, param: str) -> None:
    with pytest.raises(ClientError) as caught:
        parse_chat(CHAT | changes)
    error = caught.value
    assert (error.status, error.code, error.param) == (400, code, param)
    assert param in error.message
    assert len(error.message) < 300


@pytest.mark.parametrize("field", ["model", "messages"])
def test_missing_chat_field_is_named(field: str) -> None:
    with pytest.raises(ClientError, match=f"{field} is required") as caught:
        parse_chat({name: value for name, value in CHAT.items() if name != field})
    assert (caught.value.code, caught.value.param) == ("missing_field", field)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        pytest.param({"temperature": 2.5}, ["2.5", "less than or equal to 2"], id="range"),
        pytest.param({"top_k": -7}, ["-7", "greater than or equal to 0"], id="lower bound"),
        pytest.param({"n": 3}, ["3", "allowed: 1"], id="only value"),
        pytest.param({"top_pp": 1}, ["'top_pp'", "remove it"], id="unknown field"),
        pytest.param({"tool_choice": "required"}, ["'required'", "'auto'"], id="closed set"),
        pytest.param({"messages": "hola"}, ["'hola'", "list"], id="list expected"),
        pytest.param(
            {"messages": [{"role": "robot", "content": "x"}]}, ["'robot'", "'user'"], id="role"
        ),
    ],
)
def test_message_has_the_value_and_the_fix(changes: dict[str, Any], says: list[str]) -> None:
    with pytest.raises(ClientError) as caught:
        parse_chat(CHAT | changes)
    for part in says:
        assert part in caught.value.message


@pytest.mark.parametrize(
    "changes",
    [
        {"x" * 100_000: 1},
        {"temperature": "x" * 100_000},
        {"metadata": {"x" * 100_000: 1}, "n": 2},
        {"messages": [{"role": "user", "content": "x", "y" * 100_000: 1}]},
        {"model": "x" * 100_000},
    ],
    ids=["name", "value", "metadata", "nested name", "model"],
)
def test_error_does_not_repeat_a_long_input(changes: dict[str, Any]) -> None:
    with pytest.raises(ClientError) as caught:
        parse_chat(CHAT | changes)
    assert len(caught.value.message) < 400
    assert len(caught.value.param or "") < 200


@pytest.mark.parametrize(
    ("prompt", "param"),
    [
        pytest.param([], "prompt", id="empty list"),
        pytest.param([[]], "prompt.0", id="empty token list"),
        pytest.param(None, "prompt", id="null"),
        pytest.param({"a": 1}, "prompt", id="object"),
        pytest.param([True], "prompt.0", id="bool"),
        pytest.param([["a"]], "prompt.0.0", id="list of lists of texts"),
        pytest.param([1.5], "prompt.0", id="float token"),
    ],
)
def test_bad_prompt_is_refused(prompt: Any, param: str) -> None:
    with pytest.raises(ClientError) as caught:
        parse_completion({"model": "m", "prompt": prompt})
    assert (caught.value.status, caught.value.code) == (400, "invalid_value")
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("a", ["a"]),
        ("", [""]),
        (["a", "b"], ["a", "b"]),
        ([1, 2], [(1, 2)]),
        ([[1, 2], [3]], [(1, 2), (3,)]),
    ],
)
def test_every_form_of_prompt(prompt: Any, prompts: list[Any]) -> None:
    assert parse_completion({"model": "m", "prompt": prompt}).prompts() == prompts


@pytest.mark.parametrize("field", ["best_of", "suffix", "n"])
def test_completion_fields_with_one_allowed_value(field: str) -> None:
    with pytest.raises(ClientError) as caught:
        parse_completion(TEXT | {field: 7})
    assert (caught.value.code, caught.value.param) == ("unsupported_parameter", field)


def test_content_parts_are_joined() -> None:
    parts = [{"type": "text", "text": "Klk, "}, {"type": "text", "text": "manín"}]
    body = parse_chat(CHAT | {"messages": [{"role": "user", "content": parts}]})
    assert body.messages[0].text() == "Klk, manín"


def test_nulls_mean_absent() -> None:
    optional = [name for name, field in ChatBody.model_fields.items() if not field.is_required()]
    parse_chat(CHAT | dict.fromkeys(optional))
    optional = [n for n, field in CompletionBody.model_fields.items() if not field.is_required()]
    parse_completion(TEXT | dict.fromkeys(optional))


_KNOWN_ABSENT = {
    "audio",
    "function_call",
    "functions",
    "modalities",
    "moderation",
    "prediction",
    "prompt_cache_options",
    "web_search_options",
}
"""Fields of OpenAI's API that ask for something that carril does not do: refused by name."""


@pytest.mark.parametrize(
    ("params", "body"),
    [
        pytest.param(chat_params.CompletionCreateParamsNonStreaming, ChatBody, id="chat"),
        pytest.param(text_params.CompletionCreateParamsNonStreaming, CompletionBody, id="text"),
    ],
)
def test_every_field_of_the_openai_sdk_is_accepted_or_known_to_be_absent(
    params: Any, body: type[ChatBody] | type[CompletionBody]
) -> None:
    assert set(params.__annotations__) - set(body.model_fields) - _KNOWN_ABSENT == set()


def test_an_answer_may_be_sent_back_as_it_came() -> None:
    answer = {"role": "assistant", "content": "hola", "refusal": None, "annotations": []}
    empty = {"audio": None, "function_call": None, "tool_calls": None}
    body = parse_chat(
        {"model": "m", "messages": [answer | empty, {"role": "user", "content": "x"}]}
    )
    assert body.messages[0].text() == "hola"
