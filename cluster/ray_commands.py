"""Ray's own commands `serve` and `ray`, told how to reach the cluster of `carril up`.

`serve deploy serve_config.yaml` is how operators change what runs. Ray's client does not send a
token unless `RAY_AUTH_MODE=token` is in its environment, and would be refused. So `make install`
puts two small scripts over Ray's in the project's own environment; they set what is missing for the
cluster of this `CARRIL_HOME`, and hand over. With no such cluster, or another address on the
command line, they change nothing.
"""

import importlib.metadata
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from cluster.errors import CommandError
from cluster.home import carril_home
from cluster.local_cluster import ClusterRecord
from cluster.ray_environment import loopback_environment
from experiments.whole_file import write_whole

COMMANDS = ("ray", "serve")
_ADDRESS_OPTIONS = ("-a", "--address")
_SCRIPT = '''#!{python}
"""Ray's `{name}`, told how to reach the cluster of `carril up` (cluster/ray_commands.py)."""
import sys

from cluster.ray_commands import run

if __name__ == "__main__":
    sys.exit(run("{name}"))
'''


def install(bin_dir: Path, *, python: str = sys.executable) -> None:
    """Write the scripts into the `bin` directory of an environment."""
    for name in COMMANDS:
        script = _SCRIPT.format(python=python, name=name)
        write_whole(bin_dir / name, script.encode(), mode=0o755)


def run(name: str) -> object:
    """Run Ray's command of that name."""
    try:
        record = ClusterRecord.load(carril_home())
    except CommandError:
        record = None
    for variable, value in additions(record, sys.argv[1:]).items():
        os.environ.setdefault(variable, value)
    # Imported after the environment is set: Ray reads it once.
    command = importlib.metadata.entry_points(group="console_scripts")
    (entry,) = (item for item in command if item.name == name and item.dist is not None)
    return entry.load()()


def additions(record: ClusterRecord | None, arguments: Sequence[str]) -> Mapping[str, str]:
    """Return the environment variables that a command lacks.

    Args:
        record: The local cluster, if one was started here.
        arguments: What the user typed after the command; the token goes to no other address.
    """
    if record is None or (arguments and arguments[0] in ("start", "stop")):
        return {}
    address = _address(arguments)
    if address is not None and address not in (record.dashboard_url, record.gcs_address):
        return {}
    token_path = Path(record.token_path) if record.token_path else None
    return {
        **loopback_environment(token_path),
        "RAY_DASHBOARD_ADDRESS": record.dashboard_url,
        "RAY_API_SERVER_ADDRESS": record.dashboard_url,
    }


def _address(arguments: Sequence[str]) -> str | None:
    for position, argument in enumerate(arguments):
        name, _, value = argument.partition("=")
        if name in _ADDRESS_OPTIONS:
            found = value or (arguments[position + 1] if arguments[position + 1 :] else "")
            return found.rstrip("/").replace("//localhost:", "//127.0.0.1:")
    return None


if __name__ == "__main__":
    install(Path(sys.executable).parent)
