"""MLflow's own server, for people who want to look: bound to this machine, and quiet."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from training.registry.mlflow_adapter import default_uri, tracking_home


class ServerCommand(NamedTuple):
    """How the server is started."""

    arguments: list[str]
    environment: dict[str, str]


def server_command(
    home: Path,
    *,
    port: int,
    uri: str | None = None,
    base: Mapping[str, str] = os.environ,
) -> ServerCommand:
    """Return the command of the server, on this machine only.

    One worker: SQLite has one writer, and MLflow's default of four costs a gigabyte.

    Args:
        home: `CARRIL_HOME`, where artefacts are.
        port: Its port.
        uri: Database; None is the SQLite file under the home.
        base: Environment to start from.
    """
    own = tracking_home(home)
    arguments = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--backend-store-uri",
        uri or default_uri(home),
        "--artifacts-destination",
        str(own / "artifacts"),
        "--serve-artifacts",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    quiet = {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    return ServerCommand(arguments, {**base, **quiet})
