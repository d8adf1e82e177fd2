"""`carril down`: end our cluster, and only ours."""

from pathlib import Path

from cluster.cli.console import note, step, warn
from cluster.errors import CommandError
from cluster.home import carril_home
from cluster.jobs.api import JobsApi
from cluster.jobs.view import keep_driver_logs
from cluster.local_cluster import ClusterRecord, stop_cluster
from cluster.serve_api import ServeApi
from experiments.jobs.record import jobs_dir

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
        if record.is_alive():
            _keep_logs_of_jobs(home, record)
            if not now:
                _drain(record)
        count = stop_cluster(home, record)
    note(f"stopped ({count} processes)")


def _keep_logs_of_jobs(home: Path, record: ClusterRecord) -> None:
    if not jobs_dir(home).is_dir():
        return
    try:
        with JobsApi(record.dashboard_url, token=record.token(), timeout_s=_DRAIN_TIMEOUT_S) as api:
            keep_driver_logs(home, api)
    except (CommandError, OSError) as error:
        warn(f"the output of jobs, as Ray has it, could not be kept: {error}")


def _drain(record: ClusterRecord) -> None:
    try:
        with ServeApi(
            record.dashboard_url, token=record.token(), timeout_s=_DRAIN_TIMEOUT_S
        ) as api:
            api.shut_down()
    except CommandError as error:
        # The processes end in any case.
        warn(f"applications could not be drained: {error}")
