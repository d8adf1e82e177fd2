"""A step of load on a model that scales: what is asked, who answers, how long it takes.

Requests come at their times whether earlier ones are answered or not; a slow answer delays none, so
that waiting shows in full. Every request asks something else: nothing is cached or joined.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from cluster.autoscaling import POLICY

SERVICE_S = 0.5
SLOTS = 2
"""One replica answers `SLOTS / SERVICE_S` = 4 requests/s."""


def scaled_app(name: str, **scaling: float) -> dict[str, Any]:
    """Return a model application of one to three echo replicas, for a Serve config."""
    return {
        "name": name,
        "route_prefix": None,
        "import_path": "serve_app.app:build_model",
        "deployments": [
            {
                "name": "model",
                "max_ongoing_requests": 2 * SLOTS,
                "ray_actor_options": {"num_cpus": 0.1},
                "autoscaling_config": {
                    "min_replicas": 1,
                    "max_replicas": 3,
                    "metrics_interval_s": 0.5,
                    "look_back_period_s": 2,
                    "upscale_delay_s": 1,
                    "downscale_delay_s": 3,
                    "policy": {"policy_function": POLICY},
                },
                "user_config": {
                    "engine": "echo",
                    "n_slots": SLOTS,
                    "echo": {"prefill_s": SERVICE_S, "n_tokens": 1},
                    "warmup": False,
                    "scaling": scaling,
                },
            }
        ],
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request."""

    at_s: float
    """When it was due, since the start."""
    took_s: float
    status: int
    """0 if the connection broke."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """One look at the whole."""

    at_s: float
    rate: float
    """Requests per second that are asked for."""
    replicas: int
    in_flight: int
    latency_s: float | None
    """95th percentile of the answers of the last two seconds; None without any."""

    def __str__(self) -> str:
        latency = "     -" if self.latency_s is None else f"{self.latency_s:5.2f} s"
        return (
            f"{self.at_s:6.1f} s  {self.rate:4.1f} requests/s  {self.replicas} replicas  "
            f"{self.in_flight:3d} in flight  p95 {latency}"
        )


@dataclass(slots=True)
class LoadStep:
    """Asks at a rate that can be changed, and looks at the replicas every half second.

    Args:
        url: Address of the API.
        model: Served model.
        replicas_of: Variant whose replicas are counted.
        show: Called with each moment.
    """

    url: str
    model: str
    replicas_of: str
    show: Callable[[Moment], None]
    rate: float = 0.0
    asked: list[Asked] = field(default_factory=list)
    moments: list[Moment] = field(default_factory=list)
    _in_flight: int = 0

    async def until(self, true: Callable[[Moment], bool], what: str, seconds: float) -> None:
        """Wait for a moment; fail if it does not come."""
        deadline = time.monotonic() + seconds
        seen = len(self.moments)
        while not any(true(moment) for moment in self.moments[seen:]):
            seen = len(self.moments)
            assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
            await asyncio.sleep(0.1)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["LoadStep"]:
        """Ask and look until the block ends; then wait for the answers that are missing."""
        async with (
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http,
            asyncio.TaskGroup() as answers,
        ):
            started = time.monotonic()
            tasks = [
                asyncio.create_task(self._ask_on(http, started, answers)),
                asyncio.create_task(self._look_on(http, started)),
            ]
            try:
                yield self
            finally:
                for task in tasks:
                    task.cancel()

    async def _ask_on(
        self, http: aiohttp.ClientSession, started: float, answers: asyncio.TaskGroup
    ) -> None:
        due, number = started, 0
        while True:
            if self.rate > 0:
                answers.create_task(self._ask(http, started, due, number))
                number += 1
                due += 1 / self.rate
            else:
                due = time.monotonic() + 0.05
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    async def _ask(
        self, http: aiohttp.ClientSession, started: float, due: float, number: int
    ) -> None:
        body = {"model": self.model, "messages": [{"role": "user", "content": f"nueva {number}"}]}
        self._in_flight += 1
        status = 0
        with contextlib.suppress(aiohttp.ClientError, OSError):
            async with http.post(f"{self.url}/v1/chat/completions", json=body) as response:
                await response.read()
                status = response.status
        self._in_flight -= 1
        self.asked.append(Asked(at_s=due - started, took_s=time.monotonic() - due, status=status))

    async def _look_on(self, http: aiohttp.ClientSession, started: float) -> None:
        while True:
            async with http.get(f"{self.url}/readyz") as response:
                body = await response.json()
            replicas = body["variants"][self.replicas_of]["replicas"]
            now = time.monotonic() - started
            recent = sorted(a.took_s for a in self.asked if now - 2 < a.at_s + a.took_s)
            moment = Moment(
                at_s=now,
                rate=self.rate,
                replicas=sum(replica["state"] == "ready" for replica in replicas),
                in_flight=self._in_flight,
                latency_s=recent[int(0.95 * (len(recent) - 1))] if recent else None,
            )
            self.moments.append(moment)
            self.show(moment)
            await asyncio.sleep(0.5)
