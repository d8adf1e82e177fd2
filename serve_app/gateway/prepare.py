"""From a validated body to jobs: limits, defaults, decision, cache digest. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import orjson

from experiments.assignment.targeting import Given
from serve_app.config import GatewayConfig, LimitsConfig
from serve_app.engines.protocol import GenerationRequest, Message, Priority, SamplingParams
from serve_app.errors import InvalidField, UnsupportedParameter
from serve_app.gateway.auth import Caller
from serve_app.gateway.cache import request_digest
from serve_app.gateway.generation import Job
from serve_app.gateway.policy import Decision, Policy
from serve_app.gateway.unit import resolve_unit
from serve_app.gateway.wire import ChatBody, CompletionBody, ResponseFormat
from serve_app.telemetry.tracing import NOT_TRACED, Span

_MAX_STOP_CHARS = 256
_MAX_PROMPTS = 64
ANY_OBJECT = '{"type":"object"}'
"""Schema that `response_format: json_object` stands for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inbound:
    """What every kind of request brings along."""

    inference_id: str
    caller: Caller
    headers: Mapping[str, str]
    received_at: float
    """Loop time of receipt."""
    priority: Priority = "interactive"
    """Never part of a cache key: it says when an answer comes, not which."""
    span: Span = NOT_TRACED
    """The request's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A request ready to run."""

    kind: Literal["chat", "completion"]
    model: str
    decision: Decision
    jobs: tuple[Job, ...]
    """One per choice of the answer."""
    stream: bool
    include_usage: bool
    text_only: bool
    """Whether to show only the `response` of a JSON answer."""


def prepare_chat(
    body: ChatBody, inbound: Inbound, config: GatewayConfig, policy: Policy
) -> Prepared:
    """Check limits, choose the variant and build the job of a chat request.

    Raises:
        ClientError: If a limit is exceeded, a combination is not supported, or the model is
            unknown.
    """
    limits = config.limits
    decision = _decide(body, inbound, policy)
    if len(body.messages) > limits.max_messages:
        raise InvalidField(
            f"messages has {len(body.messages)} items; at most {limits.max_messages} are accepted",
            "messages",
        )
    text_only = decision.content == "text"
    schema = _schema_of(body.response_format)
    if text_only and schema is not None:
        raise UnsupportedParameter(
            f"{decision.served_model!r} answers plain text; for JSON use the model name without "
            "':text'",
            "response_format",
        )
    if text_only and body.logprobs:
        raise UnsupportedParameter(
            f"{decision.served_model!r} shows a part of the answer only, which has no logprobs",
            "logprobs",
        )
    if body.top_logprobs is not None and not body.logprobs:
        raise InvalidField("top_logprobs needs logprobs to be true", "top_logprobs")
    n_top = _bounded(body.top_logprobs or 0, 0, limits.max_top_logprobs, "top_logprobs")
    requested = body.max_completion_tokens
    param = "max_completion_tokens"
    if requested is None:
        requested, param = body.max_tokens, "max_tokens"
    sampling = _sampling(
        body,
        config,
        decision,
        max_tokens=_max_tokens(requested, param, config, decision, least=1),
        logprobs=n_top if body.logprobs else None,
    )
    request = GenerationRequest(
        request_id=inbound.inference_id,
        messages=tuple(Message(role=m.role, content=m.text()) for m in body.messages),
        sampling=sampling,
        json_schema=schema,
        cache_salt=inbound.caller.tenant,
        timeout_s=limits.deadline_s,
        first_token_s=limits.first_token_s,
        priority=inbound.priority,
    )
    job = _job(request, inbound, config, decision, bool(body.stream))
    if _repeatable(sampling, inbound.headers):
        job = _with_digest(job, "chat", body, inbound)
    return Prepared(
        kind="chat",
        model=body.model,
        decision=decision,
        jobs=(job,),
        stream=bool(body.stream),
        include_usage=_include_usage(body),
        text_only=text_only,
    )


def prepare_completion(
    body: CompletionBody, inbound: Inbound, config: GatewayConfig, policy: Policy
) -> Prepared:
    """Check limits, choose the variant and build the jobs of a completion request.

    Raises:
        ClientError: If a limit is exceeded, a combination is not supported, or the model is
            unknown.
    """
    limits = config.limits
    decision = _decide(body, inbound, policy)
    prompts = body.prompts()
    if len(prompts) > _MAX_PROMPTS:
        raise InvalidField(
            f"prompt has {len(prompts)} items; at most {_MAX_PROMPTS} are accepted", "prompt"
        )
    if body.stream and len(prompts) > 1:
        raise UnsupportedParameter("a stream takes one prompt at a time", "prompt")
    logprobs = body.logprobs
    if logprobs is not None:
        _bounded(logprobs, 0, limits.max_top_logprobs, "logprobs")
    sampling = _sampling(
        body,
        config,
        decision,
        max_tokens=_max_tokens(
            body.max_tokens, "max_tokens", config, decision, least=0 if body.echo else 1
        ),
        logprobs=logprobs,
    )
    jobs = []
    for index, prompt in enumerate(prompts):
        request = GenerationRequest(
            request_id=inbound.inference_id if index == 0 else f"{inbound.inference_id}-{index}",
            prompt=prompt,
            sampling=sampling,
            echo=bool(body.echo),
            cache_salt=inbound.caller.tenant,
            timeout_s=limits.deadline_s,
            first_token_s=limits.first_token_s,
            priority=inbound.priority,
        )
        job = _job(request, inbound, config, decision, bool(body.stream))
        if _repeatable(sampling, inbound.headers):
            single = body.model_copy(update={"prompt": prompt})
            job = _with_digest(job, "completion", single, inbound)
        jobs.append(job)
    return Prepared(
        kind="completion",
        model=body.model,
        decision=decision,
        jobs=tuple(jobs),
        stream=bool(body.stream),
        include_usage=_include_usage(body),
        text_only=False,
    )


def _decide(body: ChatBody | CompletionBody, inbound: Inbound, policy: Policy) -> Decision:
    fields = {
        "metadata": body.metadata,
        "prompt_cache_key": body.prompt_cache_key,
        "user": body.user,
        "safety_identifier": body.safety_identifier,
    }
    unit = resolve_unit(inbound.headers, fields, inbound.caller.tenant)
    if body.logit_bias:
        raise UnsupportedParameter("logit_bias is not supported by this server", "logit_bias")
    if body.stream_options is not None and not body.stream:
        raise InvalidField("stream_options needs stream to be true", "stream_options")
    return policy.decide(body.model, unit, Given(inbound.headers, body.metadata or {}))


def _schema_of(response_format: ResponseFormat | None) -> str | None:
    match response_format:
        case None:
            return None
        case ResponseFormat(type="text"):
            return None
        case ResponseFormat(type="json_object"):
            return ANY_OBJECT
    wanted = response_format.json_schema
    if wanted is None or wanted.schema_ is None:
        raise InvalidField(
            "response_format of type 'json_schema' needs json_schema.schema",
            "response_format.json_schema.schema",
        )
    return orjson.dumps(wanted.schema_).decode()


def _sampling(
    body: ChatBody | CompletionBody,
    config: GatewayConfig,
    decision: Decision,
    *,
    max_tokens: int,
    logprobs: int | None,
) -> SamplingParams:
    stops = body.stops()
    if len(stops) > config.limits.max_stop:
        raise InvalidField(
            f"stop has {len(stops)} items; at most {config.limits.max_stop} are accepted", "stop"
        )
    if any(not stop or len(stop) > _MAX_STOP_CHARS for stop in stops):
        raise InvalidField(f"each stop must have 1 to {_MAX_STOP_CHARS} characters", "stop")
    defaults = config.models[decision.served_model].defaults
    return SamplingParams(
        max_tokens=max_tokens,
        temperature=defaults.temperature if body.temperature is None else body.temperature,
        top_p=1.0 if body.top_p is None else body.top_p,
        top_k=body.top_k or 0,
        min_p=body.min_p or 0.0,
        frequency_penalty=body.frequency_penalty or 0.0,
        presence_penalty=body.presence_penalty or 0.0,
        seed=body.seed,
        stop=stops,
        logprobs=logprobs,
    )


def _max_tokens(
    requested: int | None, param: str, config: GatewayConfig, decision: Decision, *, least: int
) -> int:
    limits = config.limits
    if requested is None:
        default = config.models[decision.served_model].defaults.max_tokens
        return default or limits.default_max_tokens
    return _bounded(requested, least, limits.max_tokens, param)


def _bounded(value: int, low: int, high: int, param: str) -> int:
    if not low <= value <= high:
        raise InvalidField(f"{param} is {value}; allowed: {low} to {high}", param)
    return value


def _job(
    request: GenerationRequest,
    inbound: Inbound,
    config: GatewayConfig,
    decision: Decision,
    stream: bool,
) -> Job:
    limits: LimitsConfig = config.limits
    return Job(
        inference_id=inbound.inference_id,
        tenant=inbound.caller.tenant,
        decision=decision,
        request=request,
        stream=stream,
        digest=None,
        config_hash=config.config_hash,
        first_token_at=inbound.received_at + limits.first_token_s,
        deadline_at=inbound.received_at + limits.deadline_s,
        span=inbound.span,
    )


def _with_digest(job: Job, kind: str, body: ChatBody | CompletionBody, inbound: Inbound) -> Job:
    sampling = job.request.sampling
    return replace(
        job,
        digest=request_digest(
            kind,
            body,
            tenant=inbound.caller.tenant,
            temperature=sampling.temperature,
            max_tokens=sampling.max_tokens,
        ),
    )


def _repeatable(sampling: SamplingParams, headers: Mapping[str, str]) -> bool:
    """Whether the same request gives the same answer, and the client takes a stored one."""
    control = headers.get("cache-control", "").lower()
    if "no-store" in control or "no-cache" in control:
        return False
    return sampling.temperature == 0 or sampling.seed is not None


def _include_usage(body: ChatBody | CompletionBody) -> bool:
    return body.stream_options is not None and body.stream_options.include_usage
