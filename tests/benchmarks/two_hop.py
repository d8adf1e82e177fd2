"""The yardstick: the least that two hops through Ray Serve can cost.

An ingress that reads a JSON body, calls a second application by its handle and returns JSON. No
validation, no routing, no log, no metrics.
"""

from fastapi import FastAPI, Request
from pydantic import BaseModel
from ray import serve
from ray.serve import Application
from ray.serve.schema import LoggingConfig
from starlette.responses import JSONResponse

api = FastAPI()
_QUIET = LoggingConfig(enable_access_log=False)


class NoArgs(BaseModel):
    """No arguments."""


class Echo:
    """Returns what it gets."""

    async def answer(self, text: str) -> str:
        """Return the text."""
        return text


@serve.ingress(api)
class Ingress:
    """Passes a text on."""

    def __init__(self) -> None:
        self._handle = None

    @api.post("/")
    async def post(self, request: Request) -> JSONResponse:
        """Echo `messages[-1].content` through the second application."""
        if self._handle is None:
            self._handle = serve.get_app_handle("two-hop-echo").options(method_name="answer")
        body = await request.json()
        text = await self._handle.remote(body["messages"][-1]["content"])
        return JSONResponse({"content": text})


def build_ingress(_args: NoArgs) -> Application:
    """Build the ingress with as many replicas as the gateway has."""
    return serve.deployment(
        name="ingress",
        num_replicas=2,
        max_ongoing_requests=1024,
        ray_actor_options={"num_cpus": 0.1},
        logging_config=_QUIET,
    )(Ingress).bind()


def build_echo(_args: NoArgs) -> Application:
    """Build the second hop."""
    return serve.deployment(
        name="echo",
        max_ongoing_requests=256,
        ray_actor_options={"num_cpus": 0.1},
        logging_config=_QUIET,
    )(Echo).bind()
