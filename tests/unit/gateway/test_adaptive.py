"""Units of an adaptive experiment keep their first variant while the split moves under them."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from experiments.events.records import Enrolment, Exposure
from experiments.events.spool import drain
from experiments.events.store import EventStore
from serve_app.config import parse_gateway_config
from serve_app.gateway.policy import Policy
from serve_app.gateway.sticky import StickyUnits
from tests.unit.gateway.builders import CHAT, RAW_CONFIG, Gateway, raw_config
from tests.unit.gateway.over_http import CHAT_PATH

NAME = "okla-v1-v2"
N_UNITS = 150


def experiments(stable: int, **adaptive: Any) -> dict[str, Any]:
    weights = {"stable": stable, "candidate": 100 - stable}
    guardrails = {"errors": {"margin": 0.02}}
    changes = {"allocation": weights, "adaptive": adaptive, "guardrails": guardrails}
    return {NAME: RAW_CONFIG["experiments"][NAME] | changes}


class Node:
    """Gateways of one node: their writer is one event file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = EventStore(folder / "events.db")

    def gateway(self, stable: int, **changes: Any) -> Gateway:
        made = Gateway(
            self.folder / "spool",
            experiments=experiments(stable),
            cache={"enabled": False},
            limits={"max_in_flight": 2000, "max_in_flight_per_tenant": 2000},
        )
        made.events._append = self.append
        if changes:
            made.events.config = made.config.events.model_copy(update=changes)
        return made

    async def append(self, events: Any) -> Any:
        await asyncio.sleep(0)
        self.store.append(events)
        return [self.store.kept(e.exposure) for e in events if isinstance(e, Enrolment)]

    def counts(self) -> dict[str, int]:
        return {one.variant: one.n_units for one in self.store.arm_counts(NAME, 1)}


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(tmp_path)
    yield made
    made.store.close()


async def ask(gateway: Gateway, units: range, **changes: Any) -> dict[str, str]:
    """Let units ask; return the variant that answered each."""
    async with gateway.client() as client:
        answers = await asyncio.gather(
            *(
                client.post(
                    CHAT_PATH,
                    json=CHAT | {"temperature": 1} | changes,
                    headers={"x-session-id": f"s{n}"},
                )
                for n in units
            )
        )
    assert {answer.status_code for answer in answers} == {200}
    return {f"s{n}": a.headers["x-carril-variant"] for n, a in zip(units, answers, strict=True)}


def counted(gateway: Gateway, result: str) -> float:
    labels = {"experiment": NAME, "result": result}
    return gateway.metrics.registry.get_sample_value("carril_sticky_total", labels) or 0.0


def move(gateway: Gateway, stable: int) -> None:
    """Put another split in force, as a deployment does."""
    config = parse_gateway_config(raw_config(experiments=experiments(stable)))
    assert gateway.active is not None
    gateway.active = replace(gateway.active, config=config, policy=Policy(config))


async def test_no_unit_ever_switches_while_the_split_goes_from_half_to_90_to_10(
    node: Node,
) -> None:
    one, other = node.gateway(50), node.gateway(50)
    seen: dict[str, set[str]] = {}
    known = 0
    for stable in (50, 90, 10):
        move(one, stable)
        move(other, stable)
        known += N_UNITS
        # Old and new units on two gateways at once, each unit on both.
        for found in await asyncio.gather(ask(one, range(known)), ask(other, range(known))):
            for unit, variant in found.items():
                seen.setdefault(unit, set()).add(variant)
    assert [unit for unit, variants in seen.items() if len(variants) != 1] == []
    await one.events.flush()
    await other.events.flush()
    counts = {v: sum(found == {v} for found in seen.values()) for v in ("stable", "candidate")}
    assert node.counts() == counts
    assert node.store.count("exposure_conflicts") == 0
    assert counted(one, "unknown") == counted(other, "unknown") == 0
    # Of the first units, 40 % were to move at the second split and 80 % at the third.
    assert counted(one, "kept") == pytest.approx(0.4 * 150 + 0.4 * 150 + 0.8 * 150, rel=0.25)
    assert counted(one, "kept") == counted(other, "kept")


async def test_the_probability_is_that_of_the_split_at_enrolment(node: Node) -> None:
    gateway = node.gateway(50)
    await ask(gateway, range(20))
    move(gateway, 90)
    await ask(gateway, range(40))
    rows = node.store._db.execute("SELECT unit, variant, probability FROM exposures").fetchall()
    assert len(rows) == 40
    for unit, variant, probability in rows:
        late = int(unit[1:]) >= 20
        assert probability == ({"stable": 0.9, "candidate": 0.1}[variant] if late else 0.5)


async def test_outcome_stream_and_batch_name_the_kept_variant(node: Node) -> None:
    gateway = node.gateway(100)
    await ask(gateway, range(3))
    move(gateway, 0)
    assert set((await ask(gateway, range(3), stream=True)).values()) == {"stable"}
    async with gateway.client() as client:
        answer = await client.post(
            "/v1/completions",
            json={"model": "okla-chat", "prompt": ["a", "b"], "temperature": 1},
            headers={"x-session-id": "s0"},
        )
    assert answer.headers["x-carril-variant"] == "stable"
    assert gateway.variants["candidate"].calls == []
    await gateway.events.flush()
    outcomes = node.store._db.execute("SELECT DISTINCT variant FROM outcomes").fetchall()
    assert outcomes == [("stable",)]


async def test_a_gateway_that_starts_anew_or_forgets_asks_the_store(node: Node) -> None:
    first = node.gateway(100)
    await ask(first, range(10))
    reborn = node.gateway(0)
    assert reborn.active is not None
    forgetful = StickyUnits(reborn.events, reborn.metrics, max_known=3)
    reborn.active = replace(reborn.active, sticky=forgetful)
    for _ in range(2):
        assert set((await ask(reborn, range(10))).values()) == {"stable"}


async def test_a_store_that_was_put_back_from_a_copy_gets_the_first_exposures_again(
    node: Node,
) -> None:
    gateway = node.gateway(50)
    before = await ask(gateway, range(30))
    await gateway.events.flush()
    columns = "SELECT unit, variant, probability, bucket, config_hash FROM exposures ORDER BY unit"
    rows = node.store._db.execute(columns).fetchall()
    node.store._db.execute("DELETE FROM exposures")
    move(gateway, 5)
    assert await ask(gateway, range(30)) == before
    await gateway.events.flush()
    assert node.store._db.execute(columns).fetchall() == rows


@pytest.mark.parametrize(("durability", "status"), [("spool", 200), ("strict", 503)])
async def test_without_the_writer_the_hash_decides_and_is_counted_or_the_request_is_refused(
    node: Node, durability: str, status: int
) -> None:
    await ask(node.gateway(100), range(5))
    cut_off = node.gateway(0, durability=durability)

    async def gone(_events: object) -> Any:
        raise OSError("no writer")

    cut_off.events._append = gone
    async with cut_off.client() as client:
        answer = await client.post(CHAT_PATH, json=CHAT, headers={"x-session-id": "s1"})
    assert answer.status_code == status
    if status == 503:
        return
    assert answer.headers["x-carril-variant"] == "candidate"
    assert counted(cut_off, "unknown") == 1
    await cut_off.events.flush()
    spooled: list[Any] = []
    drain(node.folder / "spool", spooled.extend)
    node.store.append(spooled)
    assert type(spooled[0]) is Exposure
    # Found again when the spool is collected: one unit that was in two arms.
    assert node.store.count("exposure_conflicts") == 1
    assert node.counts() == {"stable": 5}


async def test_a_variant_that_left_the_experiment_is_served_no_more_and_leaves_a_conflict(
    node: Node,
) -> None:
    gateway = node.gateway(0)
    await ask(gateway, range(4))
    changed = experiments(100)
    changed[NAME] |= {"allocation": {"stable": 50, "third": 50}}
    variants = RAW_CONFIG["variants"] | {"third": {"app": "okla-stable"}}
    config = parse_gateway_config(raw_config(experiments=changed, variants=variants))
    assert gateway.active is not None
    gateway.active = replace(gateway.active, config=config, policy=Policy(config))
    gateway.variants["third"] = gateway.variants["stable"]
    gateway.active.variants["third"] = gateway.variants["stable"]
    gateway.generator._variants = gateway.variants
    assert "candidate" not in (await ask(gateway, range(4))).values()
    await gateway.events.flush()
    assert counted(gateway, "removed") == 4
    assert node.store.count("exposure_conflicts") == 4


@pytest.mark.parametrize(("unit", "variant"), [("s0", "stable"), ("new", "candidate")])
async def test_a_client_that_leaves_while_its_unit_is_settled_leaves_an_outcome_of_the_kept_variant(
    node: Node, unit: str, variant: str
) -> None:
    await ask(node.gateway(100), range(1))
    gateway = node.gateway(0)
    asked, answered = asyncio.Event(), asyncio.Event()

    async def slow(events: Any) -> Any:
        asked.set()
        await answered.wait()
        return await node.append(events)

    gateway.events._append = slow
    query = "SELECT unit, variant FROM outcomes WHERE status = 'aborted'"
    async with gateway.client() as client, asyncio.timeout(5):
        leaving = asyncio.create_task(
            client.post(CHAT_PATH, json=CHAT, headers={"x-session-id": unit})
        )
        await asked.wait()
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        answered.set()
        while not (rows := node.store._db.execute(query).fetchall()):
            await gateway.events.flush()
            await asyncio.sleep(0)
    assert rows == [(unit, variant)]
    active = gateway.metrics.registry.get_sample_value
    assert active("okla_llm_active_requests", {"variant": variant}) == 0


async def test_a_batch_that_finds_no_place_after_its_unit_was_settled_leaves_an_outcome(
    node: Node,
) -> None:
    gateway = node.gateway(0)
    assert gateway.active is not None
    limits = gateway.active.admission.limits
    gateway.active.admission.limits = limits.model_copy(update={"max_in_flight": 1})
    async with gateway.client() as client:
        answer = await client.post(
            "/v1/completions",
            json={"model": "okla-chat", "prompt": ["a", "b"], "temperature": 1},
            headers={"x-session-id": "s0"},
        )
    assert answer.status_code in (429, 503)
    await gateway.events.flush()
    rows = node.store._db.execute("SELECT unit, variant, status FROM outcomes").fetchall()
    assert rows == [("s0", "candidate", "error")]


async def test_other_experiments_take_the_way_they_always_took(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path / "spool")
    enrolled: list[Any] = []
    before = gateway.events._append

    async def append(events: Any) -> Any:
        enrolled.extend(event for event in events if isinstance(event, Enrolment))
        return await before(events)

    gateway.events._append = append
    await ask(gateway, range(5))
    assert enrolled == []
    assert len(gateway.exposures()) == 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"canary": {}}, "canary and adaptive would both move the split"),
        ({"hash": "growthbook_v2"}, "GrowthBook's SDKs do not know"),
        ({"adaptive": {"min_share": 50}}, "allowed: below 50 %"),
        ({"adaptive": {"method": "top_two"}}, "top_two is for three variants or more"),
        ({"adaptive": {"metric": "latency"}}, "name one of the primary metrics: thumbs"),
        (
            {"guardrails": {"latency_p95": {"effect": "relative", "margin": 0.2}}},
            "guardrails.latency_p95: a quantile of sessions from several splits",
        ),
    ],
)
def test_what_contradicts_an_adaptive_split_is_refused_at_deployment(
    changes: dict[str, Any], message: str
) -> None:
    raw = experiments(50)
    raw[NAME] |= changes
    with pytest.raises(Exception, match=message):
        parse_gateway_config(raw_config(experiments=raw))


def test_what_the_readme_declares_is_accepted() -> None:
    readme = (Path(__file__).parents[3] / "README.md").read_text(encoding="utf-8")
    block = readme.split("### Let it follow the results")[1].split("```yaml\n")[1].split("```")[0]
    config = parse_gateway_config(raw_config(**yaml.safe_load(block)))
    assert config.experiments[NAME].adaptive is not None
