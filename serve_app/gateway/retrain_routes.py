"""`POST /retrain/check`: whether it is time to train again, from the files of the home."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import orjson
from fastapi import FastAPI, Request
from starlette.responses import Response

from experiments.retraining.errors import RetrainingError, UnknownModel
from experiments.retraining.state import gather
from experiments.retraining.triggers import TriggerPolicy, check
from serve_app.errors import InternalError, InvalidField, ModelNotFound
from serve_app.gateway.active import Active
from serve_app.gateway.auth import Caller
from serve_app.gateway.body import read_json
from serve_app.telemetry.logs import carril_home

logger = logging.getLogger(__name__)

Handler = Callable[[Active, Caller, Request], Awaitable[Response]]
Wrap = Callable[[Handler], Callable[[Request], Awaitable[Response]]]


def add_retrain_route(api: FastAPI, route: Wrap) -> None:
    """Add the route.

    Args:
        api: The gateway's application.
        route: Adds what every route needs: caller, bounded place, error bodies.
    """

    @api.post("/retrain/check", openapi_extra=_docs())
    @route
    async def retrain_check(active: Active, _caller: Caller, request: Request) -> Response:
        """Tell whether it is time to train again, and why; starts nothing."""
        has_body = "transfer-encoding" in request.headers or request.headers.get(
            "content-length", "0"
        ) not in ("", "0")
        raw = await read_json(request, active.config.limits) if has_body else {}
        model = _model(raw)
        # A few small files and one indexed count: read off the event loop.
        document = await asyncio.to_thread(_check, model)
        return Response(orjson.dumps(document), media_type="application/json")


def _model(raw: dict[str, Any]) -> str | None:
    unknown = sorted(raw.keys() - {"model"})
    if unknown:
        raise InvalidField(f"unknown field {unknown[0]!r}; allowed: 'model'", unknown[0])
    model = raw.get("model")
    if model is not None and not isinstance(model, str):
        raise InvalidField(f"model is {model!r}; allowed: the name of a registered model", "model")
    return model


def _check(model: str | None) -> dict[str, object]:
    try:
        state = gather(carril_home(), model=model)
    except UnknownModel as error:
        raise ModelNotFound(error.message, "model") from error
    except RetrainingError as error:
        logger.exception("records of the retraining loop unreadable")
        raise InternalError("the records of the retraining loop cannot be read") from error
    return check(state, TriggerPolicy(), now=datetime.now(UTC)).to_document()


def _docs() -> dict[str, Any]:
    schema = {
        "type": "object",
        "additionalProperties": False,
        "properties": {"model": {"type": "string", "description": "Registered model."}},
    }
    return {"requestBody": {"required": False, "content": {"application/json": {"schema": schema}}}}
