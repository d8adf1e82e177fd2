"""A config file and played gateways for controllers that move a split."""

from pathlib import Path
from typing import Any

import yaml

from cluster.steering.server import Server, read_experiment

NAME = "exp"
CONFIG = """
applications:
  - name: gateway
    route_prefix: /
    import_path: serve_app.app:build_gateway
    deployments:
      - name: gateway
        user_config:
          models: {okla-chat: {experiment: exp}}
          variants: {stable: {app: okla-stable}, candidate: {app: okla-candidate}}
          experiments:
            exp:   # a comment that stays
              salt: salt-1
              control: stable
              allocation: ALLOCATION
              DECLARED
  - name: okla-stable
    import_path: serve_app.app:build_model
    deployments: [{name: model, user_config: {engine: echo}}]
  - name: okla-candidate
    import_path: serve_app.app:build_model
    deployments: [{name: model, user_config: {engine: echo}}]
"""


def config(allocation: str, declared: str) -> str:
    """Return a Serve config with one experiment."""
    return CONFIG.replace("ALLOCATION", allocation).replace("DECLARED", declared)


class Gateways(Server):
    """A server whose gateways take what is deployed at once, or fail as a test says."""

    def __init__(self, config: Path) -> None:
        self.running = config.read_bytes()
        self.failures: list[Exception] = []
        self.deployed: list[float] = []
        """Shares of the candidate."""
        super().__init__(config, _Api(self), http_url="http://gateway", timeout_s=1)  # type: ignore[arg-type]  # plays the API

    def active_config(self) -> str:
        return read_experiment(self.running, NAME)[1]

    def runs_file(self) -> bool:
        return self.text() == self.running

    @property
    def percent(self) -> float:
        """Share of the candidate that is served."""
        return percent_of(self.running)


def percent_of(text: bytes) -> float:
    """Return the candidate's share in a config."""
    return float(read_experiment(text, NAME)[0].allocation["candidate"])


class _Api:
    def __init__(self, gateways: Gateways) -> None:
        self._gateways = gateways

    def details(self) -> dict[str, Any]:
        apps = yaml.safe_load(self._gateways.running)["applications"]
        return {"applications": {app["name"]: {"deployed_app_config": app} for app in apps}}

    def deploy(self, raw: dict[str, Any]) -> None:
        if self._gateways.failures:
            raise self._gateways.failures.pop(0)
        self._gateways.running = yaml.safe_dump(raw).encode()
        self._gateways.deployed.append(self._gateways.percent)
