"""`carril down`: end our cluster, and only ours."""

from cluster.cli.console import note, step, warn
from cluster.errors import CommandError
from cluster.home import carril_home
from cluster.local_cluster import ClusterRecord, stop_cluster
from cluster.serve_api import ServeApi

_DRAIN_TIMEOUT_S = 20.0


def run(*, now: bool) -> None:
    """Stop the server of this `CARRIL_HOME`; say so if none runs.

    Args:
        now: Do not wait for requests in flight.
    """
    home = carril_home()
    record = ClusterRecord.load(home)
    if record is None:
        note("nothing runs here")
        return
    with step("Stopping"):
        if not now and record.is_alive():
            _drain(record)
        count = stop_cluster(home, record)
    note(f"stopped ({count} processes)")


def _drain(record: ClusterRecord) -> None:
    try:
        with ServeApi(
            record.dashboard_url, token=record.token(), timeout_s=_DRAIN_TIMEOUT_S
        ) as api:
            api.shut_down()
    except CommandError as error:
        # The processes end in any case.
        warn(f"applications could not be drained: {error}")
