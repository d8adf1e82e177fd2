"""`POST /v1/feedback`."""

from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from fastapi import FastAPI, Request
from starlette.responses import Response

from serve_app.gateway.active import Active
from serve_app.gateway.auth import Caller
from serve_app.gateway.body import read_json
from serve_app.gateway.feedback_wire import FeedbackBody

Handler = Callable[[Active, Caller, Request], Awaitable[Response]]
Wrap = Callable[[Handler], Callable[[Request], Awaitable[Response]]]


def add_feedback_route(api: FastAPI, route: Wrap) -> None:
    """Add the route.

    Args:
        api: The gateway's application.
        route: Adds what every route needs: caller, bounded place, error bodies.
    """

    @api.post("/v1/feedback", openapi_extra=_docs())
    @route
    async def feedback(active: Active, caller: Caller, request: Request) -> Response:
        """Give feedback on an answer, or on a session."""
        raw = await read_json(request, active.config.limits)
        key = request.headers.get("idempotency-key")
        done = await active.feedback.accept(raw, key, caller)
        headers = {"idempotent-replayed": "true"} if done.replayed else None
        return Response(orjson.dumps(done.body), media_type="application/json", headers=headers)


def _docs() -> dict[str, Any]:
    schema = FeedbackBody.model_json_schema()
    return {
        "parameters": [
            {"name": "Idempotency-Key", "in": "header", "schema": {"type": "string"}},
        ],
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
    }
