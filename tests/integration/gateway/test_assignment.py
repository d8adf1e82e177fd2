"""Who takes part, on two gateways: layers, holdout, targeting, overrides; log, CLI and analysis."""

import asyncio
import json
import os
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from experiments.assignment.targeting import Given
from serve_app.config import parse_gateway_config
from serve_app.gateway.policy import Policy
from serve_app.gateway.unit import Unit
from tests.integration.conftest import GATEWAY, Cluster, chat, wait_until
from tests.integration.gateway.load import Answer, ask, client, failures

N_SESSIONS = 400
WEB = {"x-channel": "web"}
GIVEN = Given(WEB, {})


def declared(run: str, *, coverage: int) -> dict[str, Any]:
    """Return two experiments of one served model, that share a layer, beside a holdout."""
    split = {"control": "stable", "allocation": {"stable": 50, "candidate": 50}, "layer": "chat"}
    return {
        "models": {"okla-chat": {"experiments": [f"style-{run}", f"price-{run}"]}},
        "layers": {"chat": {"salt": f"layer-{run}"}},
        "holdout": {"percent": 10, "salt": f"holdout-{run}"},
        "attributes": {"channel": {"type": "text", "header": "X-Channel"}},
        "experiments": {
            f"style-{run}": split
            | {
                "salt": f"style-{run}",
                "slots": [0, 60],
                "coverage": coverage,
                "targeting": [{"attribute": "channel", "any_of": ["web", "app"]}],
            },
            f"price-{run}": split
            | {
                "salt": f"price-{run}",
                "slots": [60, 100],
                "hash": "growthbook_v2",
                "overrides": {f"qa-{run}": "candidate"},
            },
        },
    }


async def _ask_all(url: str, sessions: Iterable[str], given: dict[str, str]) -> list[Answer]:
    async with client(16) as http:
        calls = [ask(http, url, chat(temperature=1), session, **given) for session in sessions]
        return await asyncio.gather(*calls)


def ask_all(cluster: Cluster, sessions: Sequence[str], **given: str) -> dict[str, dict[str, str]]:
    """Ask once for each session; return what the headers say about each decision."""
    answers = asyncio.run(_ask_all(cluster.url, sessions, given))
    assert failures(answers) == []
    names = ("variant", "experiment", "exposure", "reason")
    return {
        answer.session: {name: answer.headers.get(f"x-carril-{name}", "") for name in names}
        for answer in answers
    }


def command(cluster: Cluster, *arguments: str) -> dict[str, Any]:
    """Run `carril exp ... --json` on what the gateways run."""
    done = subprocess.run(
        [sys.executable, "-m", "cluster.cli.main", "exp", *arguments, "--json"],
        capture_output=True,
        text=True,
        env=os.environ | {"CARRIL_HOME": str(cluster.home)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def test_layers_holdout_targeting_and_overrides_from_request_to_analysis(cluster: Cluster) -> None:
    run = uuid.uuid4().hex[:6]
    style, price, qa = f"style-{run}", f"price-{run}", f"qa-{run}"
    config = declared(run, coverage=50)
    cluster.deploy(gateway=config)
    sessions = [f"{run}-{number}" for number in range(N_SESSIONS)]
    found = ask_all(cluster, [*sessions, qa], **WEB)

    # Two gateways decide as the pure rules do, here in a third process.
    policy = Policy(parse_gateway_config(GATEWAY | config))
    reasons = Counter(one["reason"] for one in found.values())
    assert reasons.keys() == {"assigned", "holdout", "coverage", "override"}
    for session, one in found.items():
        row = policy.decide("okla-chat", Unit(session, "x-session-id"), GIVEN)
        assert (one["variant"], one["reason"]) == (row.variant, row.reason)
    assert found[qa] == {
        "variant": "candidate",
        "experiment": price,
        "exposure": "override",
        "reason": "override",
    }
    assert {one["variant"] for one in found.values() if one["reason"] != "assigned"} - {
        found[qa]["variant"]
    } == {"stable"}

    # The command explains what a gateway did.
    for session in (qa, sessions[0]):
        (told,) = command(cluster, "assign", "--unit", session, "--header", "x-channel: web")[
            "placements"
        ]
        assert (told["variant"], told["reason"]) == (
            found[session]["variant"],
            found[session]["reason"],
        )

    # The log has an exposure of each enrolled session, in one experiment only, and every outcome.
    enrolled = {
        name: {
            s
            for s, one in found.items()
            if (one["reason"], one["experiment"]) == ("assigned", name)
        }
        for name in (style, price)
    }

    def logged() -> bool:
        rows = cluster.query("SELECT COUNT(*) FROM outcomes WHERE unit LIKE ?", f"%{run}%")
        return bool(rows[0][0] >= N_SESSIONS + 1)

    wait_until(logged, "an outcome of every request")
    exposures = cluster.query(
        "SELECT experiment, unit FROM exposures WHERE unit LIKE ?", f"%{run}%"
    )
    assert sorted(exposures) == sorted((name, s) for name in enrolled for s in enrolled[name])
    kinds = Counter(
        kind
        for (kind,) in cluster.query("SELECT exposure FROM outcomes WHERE unit LIKE ?", f"%{run}%")
    )
    assert kinds == {
        "enrolled": reasons["assigned"],
        "holdout": reasons["holdout"],
        "override": 1,
        "none": reasons["coverage"],
    }

    # Another channel is not whom the experiment is about.
    others = ask_all(cluster, sorted(enrolled[style])[:5], **{"x-channel": "sms"})
    assert {(one["variant"], one["reason"]) for one in others.values()} == {("stable", "targeting")}

    # More coverage adds sessions and moves none.
    cluster.deploy(gateway=declared(run, coverage=100))
    after = ask_all(cluster, [*sessions, qa], **WEB)
    for session in enrolled[style] | enrolled[price]:
        assert after[session] == found[session]
    added = (
        {s for s in sessions if after[s]["reason"] == "assigned"}
        - enrolled[style]
        - enrolled[price]
    )
    assert len(added) == reasons["coverage"]

    # The analysis counts the enrolled ones, recognises both hashes, and nothing else.
    for name, units in ((style, len(enrolled[style] | added)), (price, len(enrolled[price]))):
        wait_until(
            lambda name=name, units=units: (
                cluster.query("SELECT COUNT(*) FROM exposures WHERE experiment = ?", name)
                == [(units,)]
            ),
            f"exposures of {name}",
        )
        analysis = command(cluster, "show", name)
        arms = analysis["arms"]
        assert arms["control"]["units"] + arms["treatment"]["units"] == units
        assert analysis["health"]["conflicts"] == []
