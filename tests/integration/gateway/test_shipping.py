"""What the gateways record reaches the central database, without anybody starting anything."""

from collections.abc import Iterator

import httpx
import psycopg
import pytest

from experiments.events.central import CentralStore, server_url
from tests.integration.conftest import CHAT_PATH, Cluster, chat, wait_until
from tests.postgres import PostgresServer, running_server


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    with running_server() as server:
        yield server


def test_exposures_and_outcomes_arrive_across_a_crash_of_the_database(
    cluster: Cluster, server: PostgresServer
) -> None:
    database = server.new_database("carril")
    cluster.deploy(gateway={"events": {"ship_to": database}})
    central = CentralStore(server_url(database))
    central.migrate()

    def sessions(prefix: str) -> int:
        with psycopg.connect(database) as db:
            row = db.execute(
                "SELECT COUNT(*) FROM exposures AS e JOIN outcomes AS o USING (experiment, "
                "version, unit) WHERE o.request_id LIKE %s",
                (f"{prefix}-%",),
            ).fetchone()
        assert row is not None
        return int(row[0])

    def ask(prefix: str) -> None:
        for n in range(5):
            headers = {"x-session-id": f"{prefix}-{n}", "x-request-id": f"{prefix}-{n}"}
            response = httpx.post(cluster.url + CHAT_PATH, json=chat(), headers=headers)
            assert response.status_code == 200

    try:
        ask("first")
        wait_until(lambda: sessions("first") == 5, "events are in the central database")
        server.stop("immediate")
        ask("second")  # answered although the database is away
        wait_until(lambda: cluster.total("carril_events_unshipped") > 0, "the metric shows the lag")
        server.start()
        wait_until(lambda: sessions("second") == 5, "the rest has arrived")
        wait_until(lambda: cluster.total("carril_events_unshipped") == 0, "no lag is left")
    finally:
        central.close()
        cluster.deploy()
