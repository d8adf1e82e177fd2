"""Read and change how traffic is split: the config file on one side, the gateways on the other."""

import hashlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from cluster.errors import CommandError, infrastructure
from cluster.plan_experiments import GATEWAY_IMPORT_PATH, gateway_config
from cluster.rollout import check, fetch_readyz, with_loopback
from cluster.serve_api import ServeApi
from cluster.validate import load_serve_config
from experiments.steering.records import Served
from experiments.whole_file import write_whole
from serve_app.config import ExperimentConfig, load_yaml
from serve_app.errors import ConfigError

_POLL_S = 0.1

P = TypeVar("P")


class Declared(NamedTuple, Generic[P]):
    """An experiment in a config text."""

    experiment: ExperimentConfig
    served: Served[P]


def read_experiment(text: bytes, name: str) -> tuple[ExperimentConfig, str]:
    """Return an experiment of a config text, and the hash of the gateway's configuration.

    Raises:
        ConfigError: If it is no config, or has no such experiment.
    """
    raw = load_yaml(text.decode("utf-8", "replace"))
    applications = raw.get("applications") if isinstance(raw, dict) else None
    gateways = [
        gateway
        for app in (applications if isinstance(applications, list) else [])
        if isinstance(app, dict) and (gateway := gateway_config(app)) is not None
    ]
    if len(gateways) != 1:
        raise ConfigError(f"the config has {len(gateways)} gateways; one is needed to move a split")
    experiments = gateways[0].experiments
    if name not in experiments:
        raise ConfigError(f"unknown experiment {name!r}; configured: {sorted(experiments)}")
    return experiments[name], gateways[0].config_hash


def served_of(percent: P, text: bytes, config_hash: str) -> Served[P]:
    """Return a split as a config text has it."""
    return Served(
        percent=percent, config_hash=config_hash, file_sha256=hashlib.sha256(text).hexdigest()
    )


def declares_same(ours: ExperimentConfig, theirs: ExperimentConfig) -> bool:
    """Return whether two declarations are of the same experiment: units keep their variants."""
    return ours.allocation.keys() == theirs.allocation.keys() and all(
        getattr(ours, name) == getattr(theirs, name)
        for name in ("version", "salt", "hash", "control", "unit")
    )


class Server:
    """The running gateways and the config file that they were deployed from.

    Args:
        config: The file.
        api: Ray Serve's API.
        http_url: Of the gateway.
        timeout_s: Longest wait for all gateways to take a split.
    """

    def __init__(self, config: Path, api: ServeApi, *, http_url: str, timeout_s: float) -> None:
        self.config = config.absolute()
        self._api = api
        self._http_url = http_url
        self._timeout_s = timeout_s

    def text(self) -> bytes:
        """Return the config file.

        Raises:
            ConfigError: If it cannot be read.
        """
        try:
            return self.config.read_bytes()
        except OSError as error:
            raise ConfigError(f"{self.config} cannot be read: {error.strerror}") from error

    def active_config(self) -> str:
        """Return the hash of the configuration that every gateway runs; empty if not the same."""
        body = fetch_readyz(self._http_url, timeout_s=3.0)
        return "" if body is None else str(body.get("config") or "")

    def runs_file(self) -> bool:
        """Return whether every replica runs what the file says.

        Raises:
            CommandError: If the cluster does not answer.
        """
        try:
            config = load_serve_config(self.config)
        except ConfigError:
            return False
        return check(self._api, config, http_url=self._http_url).done

    def deploy(self, text: bytes, config_hash: str) -> None:
        """Deploy the gateway's part of a config; models stay as they were deployed last.

        Somebody may have swapped a model since the text was read. Returns once every gateway runs
        it, and does not wait for models: a treatment that has crashed must not keep its traffic
        until it is up again.

        Raises:
            CommandError: If it is refused, or not in force in time.
            ConfigError: If it is not safe.
        """
        # Beside the config, as paths in it may be relative, and with its ending.
        trial = self.config.with_name(f".{self.config.stem}.split{self.config.suffix}")
        try:
            write_whole(trial, text)
            checked = load_serve_config(trial)
        except OSError as error:
            raise ConfigError(f"{trial} cannot be written: {error}") from error
        finally:
            trial.unlink(missing_ok=True)
        self._api.deploy(with_loopback(_with_live_models(checked.raw, self._api.details())))
        deadline_s = time.monotonic() + self._timeout_s
        while self.active_config() != config_hash:
            if time.monotonic() > deadline_s:
                raise infrastructure(
                    f"not every gateway runs {config_hash} after {self._timeout_s:.0f} s",
                    "look at: carril status",
                )
            time.sleep(_POLL_S)

    def replace_file(self, before_sha256: str, text: bytes) -> bool:
        """Write the config file unless somebody edited it; return whether it was written."""
        if hashlib.sha256(self.text()).hexdigest() != before_sha256:
            return False
        try:
            write_whole(self.config, text)
        except OSError as error:
            raise CommandError(f"{self.config} cannot be written: {error}") from error
        return True


def _with_live_models(raw: Mapping[str, Any], details: Mapping[str, Any]) -> dict[str, Any]:
    """Return a Serve config whose applications, except gateways, are those deployed now."""
    live = {
        name: app["deployed_app_config"]
        for name, app in (details.get("applications") or {}).items()
        if app.get("deployed_app_config")
    }
    own = [
        app if app.get("import_path") == GATEWAY_IMPORT_PATH else live.get(app["name"], app)
        for app in raw["applications"]
    ]
    names = {app["name"] for app in own}
    return {**raw, "applications": [*own, *(app for n, app in live.items() if n not in names)]}
