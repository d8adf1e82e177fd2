"""What spans say about a generation, in the words of OpenTelemetry's conventions for generative AI.

References:
    https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/
"""

from typing import Final

from serve_app.engines.protocol import FinishReason, GenerationRequest, Usage
from serve_app.telemetry.tracing import Value

_PROVIDER: Final = "carril"


def operation(request: GenerationRequest) -> str:
    """Return `gen_ai.operation.name` of a request."""
    return "chat" if request.messages else "text_completion"


def asked(request: GenerationRequest, model: str) -> dict[str, Value]:
    """Return what was asked for, without a word of the prompt; stop strings are such words too.

    Args:
        request: The request.
        model: Name that it was sent to.
    """
    sampling = request.sampling
    return {
        "gen_ai.operation.name": operation(request),
        "gen_ai.provider.name": _PROVIDER,
        "gen_ai.request.model": model,
        "gen_ai.request.max_tokens": sampling.max_tokens,
        "gen_ai.request.temperature": float(sampling.temperature),
        "gen_ai.request.top_p": float(sampling.top_p),
        "gen_ai.request.top_k": sampling.top_k or None,
        "gen_ai.request.seed": sampling.seed,
        "gen_ai.request.frequency_penalty": float(sampling.frequency_penalty) or None,
        "gen_ai.request.presence_penalty": float(sampling.presence_penalty) or None,
        "gen_ai.output.type": "json" if request.json_schema is not None else "text",
    }


def used(usage: Usage) -> dict[str, Value]:
    """Return token counts."""
    return {
        "gen_ai.usage.input_tokens": usage.prompt_tokens,
        "gen_ai.usage.output_tokens": usage.completion_tokens,
        "gen_ai.usage.cache_read.input_tokens": usage.cached_tokens or None,
    }


def finished(reason: FinishReason | str | None) -> dict[str, Value]:
    """Return why an answer ended."""
    return {"gen_ai.response.finish_reasons": None if reason is None else [reason]}
