"""The short way to the routes that nearly every request takes.

FastAPI matches routes one after another, solves dependencies, opens three exit stacks and asks for
its own telemetry per request: a third of what the gateway costs. These routes need none of it: they
read and check their bodies themselves, and answer every error. So a dictionary leads to them, and
FastAPI, which describes them in its OpenAPI document all the same, gets what is left.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

Endpoint = Callable[[Request], Awaitable[Response]]


class DirectApi(FastAPI):
    """FastAPI, but for the paths in `direct`."""

    def __init__(self, **options: Any) -> None:  # those of FastAPI
        super().__init__(**options)
        self.direct: dict[str, Endpoint] = {}
        """Endpoints for POST, by their exact path."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        # Mounted below a root path, the path is not what the dictionary knows: FastAPI's matter.
        if scope["type"] == "http" and scope["method"] == "POST" and not scope.get("root_path"):
            endpoint = self.direct.get(scope["path"])
            if endpoint is not None:
                response = await endpoint(Request(scope, receive, send))
                await response(scope, receive, send)
                return
        await super().__call__(scope, receive, send)
