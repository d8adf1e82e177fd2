"""What a gateway keeps of the requests that it has answered: nothing."""

import gc
import json
import logging
from pathlib import Path

import pytest

from serve_app.gateway.edge import Edge
from tests.benchmarks.gateway_cpu import REQUESTS, ask
from tests.unit.gateway.builders import Gateway

WARM_UP, REQUESTS_OF_A_KIND = 300, 300


async def test_objects_do_not_grow_with_the_number_of_requests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The test runner keeps every record of a log that another test has switched on.
    monkeypatch.setattr(logging.getLogger("serve_app"), "propagate", False)
    gateway = Gateway(tmp_path)
    api = Edge(gateway.api)

    async def objects_after(n: int, name: str) -> int:
        for number in range(n):
            for kind, body in REQUESTS.items():
                await ask(api, json.dumps(body).encode(), f"{name}-{kind}-{number}")
        gateway.stored.clear()  # what the test's own doubles keep
        for variant in gateway.variants.values():
            variant.calls.clear()
        gc.collect()
        return len(gc.get_objects())

    before = await objects_after(WARM_UP, "before")
    after = await objects_after(REQUESTS_OF_A_KIND, "after")
    assert after - before < REQUESTS_OF_A_KIND / 10
