"""`GET /models` and `GET /models/{id}/production`: the registry, read from its files."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from fastapi import FastAPI, Request
from starlette.responses import Response

from experiments.registry.errors import RegistryError, UnknownVersion
from experiments.registry.store import Registry
from experiments.registry.views import model_list, production
from serve_app.errors import InternalError, ModelNotFound
from serve_app.gateway.active import Active
from serve_app.gateway.auth import Caller
from serve_app.telemetry.logs import carril_home

logger = logging.getLogger(__name__)

Handler = Callable[[Active, Caller, Request], Awaitable[Response]]
Wrap = Callable[[Handler], Callable[[Request], Awaitable[Response]]]


def add_registry_routes(api: FastAPI, route: Wrap) -> None:
    """Add the routes.

    Args:
        api: The gateway's application.
        route: Adds what every route needs: caller, bounded place, error bodies.
    """

    @api.get("/models")
    @route
    async def registered_models(_active: Active, _caller: Caller, _request: Request) -> Response:
        """List registered models with their versions and states."""
        return await _read(model_list)

    @api.get("/models/{model_id}/production")
    @route
    async def production_model(_active: Active, _caller: Caller, request: Request) -> Response:
        """Describe the version of a model that is in production."""
        model_id = request.path_params["model_id"]
        return await _read(lambda registry: production(registry, model_id))


async def _read(view: Callable[[Registry], dict[str, Any]]) -> Response:
    """Answer with a view of the registry; it is a few small files, read off the event loop."""
    registry = Registry(carril_home() / "registry")
    try:
        body = await asyncio.to_thread(view, registry)
    except UnknownVersion as error:
        raise ModelNotFound(error.message, "model") from error
    except RegistryError as error:
        logger.exception("registry unreadable")
        raise InternalError("the model registry cannot be read") from error
    return Response(orjson.dumps(body), media_type="application/json")
