"""`GET /v1/experiments`, `/v1/experiments/{name}` and `/v1/experiments/{name}/results`."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from fastapi import FastAPI, Request
from starlette.responses import Response

from serve_app.config import GatewayConfig
from serve_app.errors import ExperimentNotFound
from serve_app.events.writer import store_path
from serve_app.gateway.active import Active
from serve_app.gateway.analysis_process import AnalysisProcess, NoAnswer
from serve_app.gateway.auth import Caller
from serve_app.telemetry.logs import carril_home

Handler = Callable[[Active, Caller, Request], Awaitable[Response]]
Wrap = Callable[[Handler], Callable[[Request], Awaitable[Response]]]


def add_experiment_routes(api: FastAPI, route: Wrap) -> None:
    """Add the routes.

    Args:
        api: The gateway's application.
        route: Adds what every route needs: caller, bounded place, error bodies.
    """
    process = AnalysisProcess()

    @api.get("/v1/experiments")
    @route
    async def experiments(active: Active, _caller: Caller, _request: Request) -> Response:
        """List experiments with their splits and the sessions that they have."""
        rows = await _overview(process, active.config)
        return _json({"object": "list", "data": rows})

    @api.get("/v1/experiments/{name}")
    @route
    async def experiment(active: Active, _caller: Caller, request: Request) -> Response:
        """Describe an experiment: its declaration and the sessions that it has."""
        name = _known(request.path_params["name"], active.config)
        rows = await _overview(process, active.config)
        declared = active.config.experiments[name].model_dump(mode="json")
        state = [row for row in rows if row["experiment"] == name]
        return _json({"experiment": name, "declaration": declared, "versions": state})

    @api.get("/v1/experiments/{name}/results")
    @route
    async def results(active: Active, _caller: Caller, request: Request) -> Response:
        """Return health, verdict and metrics of an experiment as of some seconds ago."""
        name = _known(request.path_params["name"], active.config)
        arguments = ("show", name, "--json", *_sources())
        answer = await process.ask(arguments, _declared(active.config))
        if isinstance(answer, NoAnswer):
            # Not an error of the request: there is nothing to say yet, or nothing can be said.
            body = {"experiment": name, "verdict": None, "detail": answer.reason}
            return _json(body)
        return _json(answer)


async def _overview(process: AnalysisProcess, config: GatewayConfig) -> list[dict[str, Any]]:
    # The file is made by the first event; the list is one of declarations until then.
    if not await asyncio.to_thread(store_path(carril_home()).is_file):
        arguments: tuple[str, ...] = ("ls", "--json")
    else:
        arguments = ("ls", "--json", *_sources())
    answer = await process.ask(arguments, _declared(config))
    if isinstance(answer, NoAnswer):
        return []
    rows: list[dict[str, Any]] = answer["experiments"]
    return rows


def _sources() -> tuple[str, ...]:
    return ("--events", str(store_path(carril_home())))


def _declared(config: GatewayConfig) -> bytes:
    """Return the declarations in force, for the standard input of `--config -`."""
    dumped = {
        name: experiment.model_dump(mode="json") for name, experiment in config.experiments.items()
    }
    return orjson.dumps({"experiments": dumped})


def _known(name: str, config: GatewayConfig) -> str:
    if name not in config.experiments:
        shown = ", ".join(sorted(config.experiments)) or "none"
        raise ExperimentNotFound(
            f"The experiment {name[:64]!r} does not exist; configured: {shown}", "name"
        )
    return name


def _json(body: dict[str, Any]) -> Response:
    return Response(orjson.dumps(body), media_type="application/json")
