"""The OpenAI request bodies that carril accepts.

Every field is one of three: it changes the answer (and is part of the cache key), it is irrelevant
to the answer (and listed in `IRRELEVANT`), or it is refused. Unknown fields are refused by name: a
client that sends one expects it to do something.
"""

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from serve_app.errors import (
    ClientError,
    InvalidField,
    InvalidSchema,
    MissingField,
    UnsupportedParameter,
)

IRRELEVANT = frozenset(
    {
        "model",  # the key names the variant's weights instead
        "stream",
        "stream_options",
        "metadata",
        "user",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "store",
        "service_tier",
        "parallel_tool_calls",
        "verbosity",
        "reasoning_effort",
        "n",
        "best_of",
        "logit_bias",
        "tools",
        "tool_choice",
        "suffix",
    }
)
"""Fields that cannot change the answer: they name the caller, choose the transport, or are accepted
only with a value that means nothing."""

Probability = Annotated[float, Field(ge=0, le=1)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
_MAX_SEED = 2**63 - 1
_MAX_SHOWN_CHARS = 80
"""Characters of a client's name or value that an error repeats at most."""
_SESSION = Annotated[str, Field(max_length=512)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class TextPart(_Body):
    """A part of a message; only text is served."""

    type: Literal["text"]
    text: str


class ChatMessage(_Body):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[tuple[TextPart, ...], Field(strict=False)]
    name: str | None = None
    # Clients send answers back as they came: these fields of them may be there, but empty.
    refusal: None = None
    audio: None = None
    function_call: None = None
    tool_calls: Annotated[tuple[Any, ...], Field(strict=False, max_length=0)] | None = None
    annotations: Annotated[tuple[Any, ...], Field(strict=False, max_length=0)] | None = None

    def text(self) -> str:
        """Return the content as one text."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content)


class StreamOptions(_Body):
    """Options of a streamed answer."""

    include_usage: bool = False
    include_obfuscation: bool | None = None


class JsonSchemaFormat(_Body):
    """A schema that the answer must follow."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    description: str | None = None
    strict: bool | None = None


class ResponseFormat(_Body):
    """What shape the answer has."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None


class _Sampling(_Body):
    model: Annotated[str, Field(min_length=1, max_length=256)]
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, le=100_000)] | None = None
    min_p: Probability | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    seed: Annotated[int, Field(ge=-_MAX_SEED, le=_MAX_SEED)] | None = None
    stop: str | Annotated[tuple[str, ...], Field(strict=False)] | None = None
    max_tokens: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Literal[1] | None = None
    logit_bias: dict[str, float] | None = None
    metadata: dict[str, Any] | None = None
    user: _SESSION | None = None
    safety_identifier: _SESSION | None = None
    prompt_cache_key: _SESSION | None = None
    prompt_cache_retention: str | None = None
    store: bool | None = None
    service_tier: str | None = None

    def stops(self) -> tuple[str, ...]:
        """Return the stop strings."""
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else self.stop


class ChatBody(_Sampling):
    """Body of POST /v1/chat/completions."""

    messages: Annotated[tuple[ChatMessage, ...], Field(strict=False, min_length=1)]
    max_completion_tokens: int | None = None
    response_format: ResponseFormat | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    parallel_tool_calls: bool | None = None
    verbosity: str | None = None
    reasoning_effort: str | None = None
    tools: Annotated[tuple[Any, ...], Field(strict=False, max_length=0)] | None = None
    tool_choice: Literal["none", "auto"] | None = None


class CompletionBody(_Sampling):
    """Body of POST /v1/completions."""

    prompt: (
        str
        | Annotated[tuple[str, ...], Field(strict=False, min_length=1)]
        | Annotated[tuple[int, ...], Field(strict=False, min_length=1)]
        | Annotated[
            tuple[Annotated[tuple[int, ...], Field(strict=False, min_length=1)], ...],
            Field(strict=False, min_length=1),
        ]
    )
    echo: bool | None = None
    logprobs: int | None = None
    best_of: Literal[1] | None = None
    suffix: Literal[""] | None = None

    def prompts(self) -> list[str | tuple[int, ...]]:
        """Return the prompts, one per choice of the answer."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if all(isinstance(item, int) for item in self.prompt):
            return [tuple(item for item in self.prompt if isinstance(item, int))]
        return [item for item in self.prompt if not isinstance(item, int)]


def parse_chat(raw: dict[str, Any]) -> ChatBody:
    """Validate the body of a chat request.

    Raises:
        ClientError: Naming the field at fault.
    """
    try:
        return ChatBody.model_validate(raw)
    except ValidationError as error:
        raise translate(error) from None


def parse_completion(raw: dict[str, Any]) -> CompletionBody:
    """Validate the body of a completion request.

    Raises:
        ClientError: Naming the field at fault.
    """
    try:
        return CompletionBody.model_validate(raw)
    except ValidationError as error:
        raise translate(error) from None


_UNION_BRANCH = re.compile(r"^(str|tuple\[.*|function-.*|list\[.*|constrained-.*)$")
_UNION_FORMS = {
    "content": "should be a text or a list of text parts",
    "prompt": "should be a text, a list of texts, a list of token ids, or a list of such lists",
    "stop": "should be a text or a list of texts",
}
_ALLOWED_VALUES = {
    "n": "1: send one request per answer",
    "best_of": "1",
    "suffix": "empty",
    "tool_choice": "'none' or 'auto'",
}


def translate(error: ValidationError) -> ClientError:
    """Turn the first fault into an OpenAI error that names the field, the value and the fix."""
    fault = _root_fault(error.errors())
    path = _path(fault)
    param = ".".join(path)
    field = path[0]
    shown = _show(fault["input"])
    match fault["type"]:
        case "missing":
            return MissingField(f"{param} is required", param)
        case "extra_forbidden":
            return UnsupportedParameter(
                f"Unrecognized request argument {param!r}; remove it", param
            )
        case "too_long" if path and path[-1] in {"tools", "tool_calls"}:
            return UnsupportedParameter(f"{param}: tools are not supported here", param)
        case "literal_error" if field in _ALLOWED_VALUES:
            return UnsupportedParameter(
                f"{param} is {shown}; allowed: {_ALLOWED_VALUES[field]}", param
            )
        case "too_short":
            return InvalidField(f"{param} is empty; it needs at least one item", param)
    kind = InvalidSchema if field == "response_format" else InvalidField
    reason = fault["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if fault["type"] in ("string_type", "tuple_type"):
        reason = _UNION_FORMS.get(path[-1], reason).replace("tuple", "list")
    return kind(f"{param} is {shown}: {reason}", param)


def _path(fault: ErrorDetails) -> list[str]:
    """Return where a fault is in the body, without the names of the union branches tried."""
    location = [str(part) for part in fault["loc"]] or ["body"]
    # The first part is a field, and the last one of an unknown field is the client's own word.
    last = len(location) - 1 if fault["type"] == "extra_forbidden" else 0
    return [
        part if len(part) <= _MAX_SHOWN_CHARS else f"{part[: _MAX_SHOWN_CHARS - 3]}..."
        for index, part in enumerate(location)
        if index in (0, last) or not _UNION_BRANCH.match(part)
    ]


def _root_fault(faults: list[ErrorDetails]) -> ErrorDetails:
    """Pick the fault to report: the one that caused the others."""

    def rank(fault: ErrorDetails) -> tuple[bool, int, int]:
        # A list whose items are all refused is also reported as too short.
        consequence = fault["type"] == "too_short" and any(
            other["loc"][: len(fault["loc"])] == fault["loc"] and other is not fault
            for other in faults
        )
        order = {"literal_error": 0, "extra_forbidden": 1, "missing": 3}.get(fault["type"], 2)
        # Of a union's branches, the one that got furthest is the one that was meant.
        return (consequence, order, -len(fault["loc"]))

    return min(faults, key=rank)


def _show(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN_CHARS else f"{text[: _MAX_SHOWN_CHARS - 3]}..."
