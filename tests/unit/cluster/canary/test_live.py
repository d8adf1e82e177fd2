"""Canaries on a whole gateway in this process: real requests, assignment, events and statistics."""

import asyncio
import dataclasses
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.canary.controller import Controller
from cluster.canary.split import read_declared
from cluster.steering.server import Server
from experiments.canary.journal import Journal, faults
from experiments.canary.records import Code, State, Status
from experiments.events.store import EventStore
from serve_app.config import content_hash
from serve_app.engines.echo import EchoEngine
from tests.unit.cluster.canary.test_controller import CONFIG
from tests.unit.cluster.steering.stage import NAME
from tests.unit.gateway.builders import CHAT, Gateway, model_config
from tests.unit.gateway.over_http import CHAT_PATH

HELD = "{steps: [50, 100], min_step_s: 3600}"
QUICK = (
    "{steps: [40, 100], min_step_s: 0, min_units: 50, guardrails: {errors: {margin: 0.3}, "
    "latency: {margin: 1.0, effect: relative}}}"
)


class Live(Server):
    """A gateway that takes what is deployed, with engines that outlive it."""

    def __init__(self, folder: Path, canary: str) -> None:
        config = folder / "serve_config.yaml"
        declared = "{steps: [50, 100], min_step_s: 0, min_units: 50}"
        config.write_text(CONFIG.replace(declared, canary), encoding="utf-8")
        super().__init__(config, self, http_url="http://gateway", timeout_s=5)  # type: ignore[arg-type]  # plays the API
        self._folder = folder
        self.events = folder / "events" / "events.db"
        self._store = EventStore(self.events)
        self.engines: dict[str, EchoEngine] = {}
        self.gateway = self._gateway(yaml.safe_load(config.read_text(encoding="utf-8")))
        self.journal = Journal(folder, NAME)
        self.controller = Controller(self.journal, self, self.events, tell=lambda *_: None)

    def details(self) -> dict[str, Any]:
        return {}

    def active_config(self) -> str:
        return self.gateway.config.config_hash

    def runs_file(self) -> bool:
        return read_declared(self.text(), NAME).served.config_hash == self.active_config()

    def deploy(self, text: bytes, config_hash: str) -> None:
        self.gateway = self._gateway(yaml.safe_load(text))
        assert self.active_config() == config_hash

    def turn(self, variant: str, **echo: Any) -> None:
        """Serve a variant by an engine that behaves in another way."""
        self.engines[variant] = EchoEngine(model_config(echo=echo))
        self.gateway.variants[variant].engine = self.engines[variant]

    async def ask(self, n: int) -> list[tuple[int, str]]:
        """Let n new sessions ask at once; return status and variant of each answer."""
        gateway = self.gateway
        async with gateway.client() as client:
            answers = await asyncio.gather(
                *(
                    client.post(
                        CHAT_PATH,
                        json=CHAT | {"temperature": 1},
                        headers={"x-session-id": uuid.uuid4().hex},
                    )
                    for _ in range(n)
                )
            )
        await gateway.events.flush()
        self._store.append(gateway.stored)
        gateway.stored.clear()
        return [(answer.status_code, answer.headers["x-carril-variant"]) for answer in answers]

    async def ask_until_over(self, n_at_once: int, limit: int) -> int:
        """Let sessions ask while the controller looks on; return how many it took."""
        for asked in range(0, limit, n_at_once):
            if self.state.status.over:
                return asked
            await self.ask(n_at_once)
            await asyncio.to_thread(self.controller.tick)
        raise AssertionError(f"not over after {limit} sessions: {self.state}")

    @property
    def state(self) -> State:
        return self.journal.require()

    def _gateway(self, raw: dict[str, Any]) -> Gateway:
        user_config = raw["applications"][0]["deployments"][0]["user_config"]
        gateway = Gateway(self._folder / "spool", **user_config)
        for variant in gateway.variants.values():
            runs = content_hash(model_config())[:12]
            variant.weights = dataclasses.replace(variant.weights, config_hash=runs)
        for name, engine in self.engines.items():
            gateway.variants[name].engine = engine
        return gateway


def start(folder: Path, canary: str) -> Live:
    live = Live(folder, canary)
    live.controller.begin()
    live.controller.tick()
    assert live.state.status is Status.RAMPING
    return live


async def taken_back(live: Live, n_at_once: int, limit: int, code: Code) -> None:
    started_s = time.monotonic()
    asked = await live.ask_until_over(n_at_once, limit)
    sys.stdout.write(f"{code}: {asked} sessions, {time.monotonic() - started_s:.1f} s\n")
    assert live.state.status is Status.ROLLED_BACK
    kept = live.journal.records()
    assert kept[-1].record.decision.reasons[0].code is code
    assert faults(kept) == []
    assert set(await live.ask(20)) == {(200, "stable")}
    assert read_declared(live.text(), NAME).served.percent == 0.0


async def test_a_treatment_that_begins_to_fail_is_taken_back_within_some_answers(
    tmp_path: Path,
) -> None:
    live = start(tmp_path, HELD)
    await live.ask(60)
    live.controller.tick()
    assert live.state.status is Status.RAMPING
    live.turn("candidate", fail_rate=1.0)
    await taken_back(live, 8, 80, Code.ERROR_BURST)


async def test_a_treatment_that_fails_now_and_then_is_taken_back_by_its_guardrail(
    tmp_path: Path,
) -> None:
    live = start(tmp_path, HELD)
    live.turn("candidate", fail_rate=0.2)
    await taken_back(live, 40, 1000, Code.GUARDRAIL_BREACHED)


async def test_a_treatment_that_becomes_slow_is_taken_back_by_its_guardrail(
    tmp_path: Path,
) -> None:
    live = start(tmp_path, HELD)
    for _ in range(4):
        await live.ask(65)
    live.turn("candidate", prefill_s=0.5)
    await taken_back(live, 40, 1000, Code.GUARDRAIL_BREACHED)


async def test_a_good_treatment_reaches_100_percent(tmp_path: Path) -> None:
    live = start(tmp_path, QUICK)
    await live.ask_until_over(40, 3000)
    assert live.state.status is Status.COMPLETED
    assert set(await live.ask(20)) == {(200, "candidate")}
    assert faults(live.journal.records()) == []


@pytest.mark.parametrize("seed", range(2))
async def test_one_person_who_repeats_a_poisonous_prompt_takes_nothing_back(
    tmp_path: Path, seed: int
) -> None:
    live = start(tmp_path, HELD)
    live.turn("candidate", obey_prompt=True)
    body = {"model": "okla-chat", "messages": [{"role": "user", "content": "!fail"}]}
    async with live.gateway.client() as client:
        statuses = [
            (
                await client.post(CHAT_PATH, json=body, headers={"x-session-id": f"p{seed}"})
            ).status_code
            for _ in range(12)
        ]
    await live.ask(0)
    live.controller.tick()
    assert len(set(statuses)) == 1
    assert live.state.status is Status.RAMPING
