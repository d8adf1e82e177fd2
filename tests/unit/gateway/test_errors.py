"""Errors cross processes and always have the OpenAI shape."""

import pickle

import pytest
from ray.exceptions import RayTaskError

from serve_app import errors
from serve_app.errors import ClientError, RequestError, ServerError, error_body


def subclasses(base: type[RequestError]) -> list[type[RequestError]]:
    return [base, *(found for child in base.__subclasses__() for found in subclasses(child))]


ALL = subclasses(RequestError)


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_pickle_round_trip_keeps_everything(kind: type[RequestError]) -> None:
    error = kind("no 'gpt-5' here", "model", 2.5)
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 (what Ray does with it)
    assert type(copy) is kind
    assert (copy.message, copy.param, copy.retry_after_s) == ("no 'gpt-5' here", "model", 2.5)
    assert str(copy) == "no 'gpt-5' here"
    assert error_body(copy, "r") == error_body(error, "r")


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_error_that_ray_wraps_still_says_its_piece(kind: type[RequestError]) -> None:
    error = kind("no 'gpt-5' here", "model", 2.5)
    wrapped = RayTaskError("f", "a traceback", error).as_instanceof_cause()
    assert isinstance(wrapped, kind)
    assert error_body(wrapped, "r") == error_body(error, "r")
    assert (wrapped.status, wrapped.retry_after_s) == (kind.status, 2.5)


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_body_has_the_five_fields(kind: type[RequestError]) -> None:
    body = error_body(kind("what", "field"), "req-1")["error"]
    assert list(body) == ["message", "type", "param", "code", "request_id"]
    assert body["request_id"] == "req-1"
    assert body["code"]


def test_classes_own_their_status() -> None:
    assert all(400 <= kind.status < 500 for kind in subclasses(ClientError))
    assert all(500 <= kind.status < 600 for kind in subclasses(ServerError))
    codes = [kind.code for kind in ALL if kind not in (RequestError, ClientError, ServerError)]
    assert len(codes) == len(set(codes))


def test_retrying_is_advised_only_where_it_can_help() -> None:
    retryable = {kind.__name__ for kind in ALL if kind.should_retry}
    assert retryable >= {"Overloaded", "RateLimited", "ReplicaLost", "ModelNotReady"}
    assert not retryable & {"DeadlineExceeded", "InternalError", "AuthenticationFailed"}
    assert errors.RateLimited.status == 429
