"""The error tree of the serving side, and its translation into OpenAI error bodies.

Handlers, routers and engines only raise; `error_body` is the one place that knows the wire format.
Errors cross process borders between the gateway and model replicas, so every class hands all its
arguments to `super().__init__` (pickle rebuilds an exception from `args`).
"""

from typing import Any, ClassVar


class CarrilError(Exception):
    """Base of everything carril raises on purpose."""


class RequestError(CarrilError):
    """An error that ends a request, with what the client is told.

    Args:
        message: What happened, the value, what is allowed. Shown to the client.
        param: Name of the request field at fault, if one is.
        retry_after_s: Seconds after which a retry makes sense; sent as `Retry-After`.
    """

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: ClassVar[str] = "internal_error"
    should_retry: ClassVar[bool] = False
    """Sent as `x-should-retry`; OpenAI clients retry 408, 409, 429 and 5xx unless told not to."""

    def __init__(
        self, message: str, param: str | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message, param, retry_after_s)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return self.message


class ClientError(RequestError):
    """The request is wrong (4xx); the message says how to mend it."""

    status = 400
    type = "invalid_request_error"
    code = "invalid_request"


class InvalidJson(ClientError):
    """The body is not a JSON object."""

    code = "invalid_json"


class InvalidField(ClientError):
    """A field has a value outside its range, or the wrong type."""

    code = "invalid_value"


class MissingField(ClientError):
    """A required field is absent."""

    code = "missing_field"


class UnsupportedParameter(ClientError):
    """A field that would change the answer and that carril does not implement."""

    code = "unsupported_parameter"


class ContextLengthExceeded(ClientError):
    """Prompt and answer do not fit into the model's context."""

    code = "context_length_exceeded"


class InvalidSchema(ClientError):
    """A JSON schema outside the supported subset, or one that does not compile."""

    code = "invalid_schema"


class AuthenticationFailed(ClientError):
    """No API key, or one that is not known."""

    status = 401
    code = "invalid_api_key"


class PermissionDenied(ClientError):
    """The caller is known but may not do this, or is not on this machine."""

    status = 403
    code = "permission_denied"


class ModelNotFound(ClientError):
    """No served model or variant of that name."""

    status = 404
    code = "model_not_found"


class RouteNotFound(ClientError):
    """No such path."""

    status = 404
    code = "not_found"


class ExperimentNotFound(ClientError):
    """No experiment of that name is configured."""

    status = 404
    code = "experiment_not_found"


class InferenceNotFound(ClientError):
    """No request with that id was answered here for this caller."""

    status = 404
    code = "inference_not_found"


class IdempotencyConflict(ClientError):
    """The Idempotency-Key was used before, with another body."""

    status = 409
    code = "idempotency_conflict"


class MethodNotAllowed(ClientError):
    """The path exists, the method does not."""

    status = 405
    code = "method_not_allowed"


class RequestTimeout(ClientError):
    """The body did not arrive in time."""

    status = 408
    type = "timeout_error"
    code = "request_timeout"
    should_retry = True


class RequestTooLarge(ClientError):
    """The body is larger than the configured limit."""

    status = 413
    code = "request_too_large"


class UnsupportedMediaType(ClientError):
    """The body is not sent as application/json."""

    status = 415
    code = "unsupported_media_type"


class RateLimited(ClientError):
    """Too many requests at once from this caller."""

    status = 429
    type = "rate_limit_exceeded"
    code = "rate_limited"
    should_retry = True


class ServerError(RequestError):
    """carril failed (5xx); the message says nothing internal."""

    should_retry = True


class InternalError(ServerError):
    """Something that should not happen; details are in the log under the request id."""

    should_retry = False


class EngineFailed(ServerError):
    """The engine reported a failure for this request only."""

    code = "engine_failed"


class Overloaded(ServerError):
    """Queues are full; nothing was started."""

    status = 503
    type = "overloaded_error"
    code = "overloaded"


class ModelNotReady(ServerError):
    """The variant has no loaded model yet (or its file was refused)."""

    status = 503
    type = "overloaded_error"
    code = "model_loading"


class ModelWaking(ServerError):
    """The variant's model was unloaded while nobody asked, and is not back in time."""

    status = 503
    type = "overloaded_error"
    code = "model_waking"


class ReplicaLost(ServerError):
    """The replica died, and the request could not be repeated elsewhere."""

    status = 502
    code = "replica_lost"


class DeadlineExceeded(ServerError):
    """No answer within the deadline."""

    status = 504
    type = "timeout_error"
    code = "timeout"
    should_retry = False


class EventsUnavailable(ServerError):
    """The event log could not store what must be: feedback, or an exposure under `strict`."""

    status = 503
    code = "events_unavailable"


class ConfigError(CarrilError):
    """A configuration that would not be safe to serve; the message names the key and the fix."""


class ModelFileError(ConfigError):
    """A model file that is missing, altered or not what it claims to be."""


def error_body(error: RequestError, request_id: str) -> dict[str, Any]:
    """Return the OpenAI-shaped JSON body of an error.

    Args:
        error: What was raised.
        request_id: Id of the request, so that a user can quote it.
    """
    return {
        "error": {
            "message": error.message,
            "type": error.type,
            "param": error.param,
            "code": error.code,
            "request_id": request_id,
        }
    }
