"""Start, remember and stop the local Ray that `carril up` owns.

The record in `CARRIL_HOME/run/cluster.json` names the processes, so that `carril down` ends those
and leaves every other Ray on the machine alone.
"""

import os
import shutil
import subprocess
import sys
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

import psutil
from pydantic import BaseModel, ConfigDict, ValidationError

from cluster import process_tree
from cluster.errors import infrastructure
from cluster.home import (
    ensure_ray_token,
    haproxy_dir,
    ray_temp_dir,
    ray_token_path,
    record_path,
    run_dir,
)
from cluster.ray_environment import (
    LOOPBACK,
    Ports,
    cluster_environment,
    find_haproxy,
    start_arguments,
)
from experiments.whole_file import write_whole

_START_TIMEOUT_S = 90.0
_GRACE_S = 5.0
_SCHEMA_VERSION = 1


class ClusterRecord(BaseModel):
    """What is known about the running cluster."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: int = _SCHEMA_VERSION
    cluster_id: str
    started_at: datetime
    http_url: str
    dashboard_url: str
    gcs_address: str
    token_path: str | None
    haproxy: bool
    working_dir: str
    temp_dir: str
    processes: tuple[tuple[int, float], ...] = ()
    """(pid, creation time) of Ray's own processes."""

    @classmethod
    def load(cls, home: Path) -> Self | None:
        """Return the record, None if there is none.

        Raises:
            CommandError: If it cannot be read.
        """
        path = record_path(home)
        try:
            return cls.model_validate_json(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            raise infrastructure(
                f"{path} cannot be read: {error}", "stop the cluster by hand and remove the file"
            ) from error

    def save(self, home: Path) -> None:
        """Write the record; readers see the old or the new one, never a half."""
        write_whole(record_path(home), self.model_dump_json(indent=1).encode())

    def token(self) -> str | None:
        """Return the token that Ray's ports ask for."""
        return Path(self.token_path).read_text("ascii").strip() if self.token_path else None

    def members(self) -> list[psutil.Process]:
        """Return the cluster's live processes."""
        return process_tree.members(self.cluster_id, known_pids=self.processes)

    def is_alive(self) -> bool:
        """Return whether the head still runs."""
        return any(process.name() == "gcs_server" for process in self.members())


def start_head(
    *,
    home: Path,
    http_url: str,
    ports: Ports,
    num_cpus: int,
    authenticate: bool = True,
    haproxy: bool = True,
    http_host: str = LOOPBACK,
) -> ClusterRecord:
    """Start a Ray head and write its record.

    Args:
        home: `CARRIL_HOME`.
        http_url: Where Serve will answer.
        ports: Ports of the cluster.
        num_cpus: Logical CPUs that deployments and jobs share.
        authenticate: Ask for a token on Ray's ports.
        haproxy: Use HAProxy if there is one.
        http_host: Address that Serve will bind.

    Raises:
        CommandError: If Ray did not come up; nothing is left running then.
    """
    token_path = ray_token_path() if authenticate else None
    if token_path is not None:
        ensure_ray_token(token_path)
    binary = find_haproxy() if haproxy else None
    cluster_id = uuid.uuid4().hex
    environment = cluster_environment(
        base=os.environ,
        home=home,
        cluster_id=cluster_id,
        ports=ports,
        token_path=token_path,
        haproxy=binary,
        http_host=http_host,
    )
    arguments = start_arguments(home=home, ports=ports, num_cpus=num_cpus)
    log_path = run_dir(home) / "ray-start.log"
    record = ClusterRecord(
        cluster_id=cluster_id,
        started_at=datetime.now(UTC),
        http_url=http_url,
        dashboard_url=f"http://{LOOPBACK}:{ports.dashboard}",
        gcs_address=f"{LOOPBACK}:{ports.gcs}",
        token_path=str(token_path) if token_path else None,
        haproxy=binary is not None,
        working_dir=str(Path.cwd()),
        temp_dir=str(ray_temp_dir(home)),
    )
    # Before the start: should this process die half-way, `carril down` still finds the rest.
    record.save(home)
    try:
        returncode = _run_ray(arguments, environment, log_path)
    except BaseException:
        stop_cluster(home, record)
        raise
    if returncode != 0:
        stop_cluster(home, record)
        tail = "\n".join(log_path.read_text("utf-8", errors="replace").splitlines()[-12:])
        raise infrastructure(f"Ray did not start (exit {returncode}):\n{tail}", f"log: {log_path}")
    seen = [(process.pid, process.create_time()) for process in record.members()]
    record = record.model_copy(update={"processes": tuple(seen)})
    record.save(home)
    return record


def stop_cluster(home: Path, record: ClusterRecord) -> int:
    """End the processes of a cluster and forget it. Return how many processes ended."""
    processes = record.members()
    process_tree.terminate(processes, grace_s=_GRACE_S)
    # Workers that were being started while their parent ended.
    process_tree.terminate(record.members(), grace_s=0.0)
    # Sockets and generated configuration; Ray's logs stay.
    shutil.rmtree(haproxy_dir(home), ignore_errors=True)
    record_path(home).unlink(missing_ok=True)
    return len(processes)


def _run_ray(arguments: list[str], environment: dict[str, str], log_path: Path) -> int:
    command = [sys.executable, "-m", "ray.scripts.scripts", *arguments]
    with log_path.open("w", encoding="utf-8") as log:
        # A file, not a pipe: Ray's daemons inherit it and would hold a pipe open for ever.
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
        try:
            returncode = process.wait(timeout=_START_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise infrastructure(
                f"Ray did not start within {_START_TIMEOUT_S:.0f} s", f"log: {log_path}"
            ) from None
    return returncode
