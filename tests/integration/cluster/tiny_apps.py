"""Deployments that show what happened to them: their process, and how often they were told."""

import os
from typing import Any

from ray import serve
from ray.serve import Application

_OPTIONS: dict[str, Any] = {
    "ray_actor_options": {"num_cpus": 0},
    "graceful_shutdown_wait_loop_s": 0.1,
    "graceful_shutdown_timeout_s": 1,
    "health_check_period_s": 2,
}


class Recorder:
    """Remembers the configurations it was given."""

    def __init__(self) -> None:
        self._configs: list[object] = []

    def reconfigure(self, config: object) -> None:
        """Record a configuration."""
        self._configs.append(config)

    async def __call__(self, _request: object = None) -> dict[str, Any]:
        """Return the process and the configurations so far."""
        return {"pid": os.getpid(), "configs": self._configs}


def build(_args: dict[str, Any]) -> Application:
    """Build one deployment, `Front`."""
    return serve.deployment(name="Front", **_OPTIONS)(Recorder).bind()


def build_pair(_args: dict[str, Any]) -> Application:
    """Build `Front` with `Back` behind it."""

    class Pair(Recorder):
        def __init__(self, back: object) -> None:
            super().__init__()
            self._back = back

    back = serve.deployment(name="Back", **_OPTIONS)(Recorder).bind()
    return serve.deployment(name="Front", **_OPTIONS)(Pair).bind(back)


def build_broken(_args: dict[str, Any]) -> Application:
    """Fail, as a module with a mistake does."""
    raise RuntimeError("this application cannot be built")
