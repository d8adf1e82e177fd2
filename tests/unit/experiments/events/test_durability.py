"""Writers, shippers and servers are killed; what was acknowledged is there once.

`CARRIL_DURABILITY=100000:200 pytest --slow` runs the full size, some minutes; so does
`python -m tests.durability`.
"""

import os
from pathlib import Path

import pytest

from tests.durability import run
from tests.postgres import PostgresServer

N_EVENTS, N_KILLS = map(int, os.environ.get("CARRIL_DURABILITY", "10000:40").split(":"))


def test_acknowledged_events_survive_kills_once_each(tmp_path: Path) -> None:
    report = run(tmp_path / "events.db", n_events=600, n_kills=5, seed=1)
    assert report.sound, report
    assert (report.writer_kills, report.acknowledged >= 600) == (5, True)
    assert report.resent > 0


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_acknowledged_events_reach_a_server_that_crashes_once_each(
    tmp_path: Path, postgres: PostgresServer
) -> None:
    report = run(
        tmp_path / "events.db", n_events=N_EVENTS, n_kills=N_KILLS, seed=2, server=postgres
    )
    assert report.sound, report
    assert report.writer_kills >= N_KILLS
    assert report.server_crashes >= 1
    assert report.shipper_kills >= 1
