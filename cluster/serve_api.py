"""Ray Serve's REST API, as far as carril needs it: what runs, and deploy this."""

from collections.abc import Mapping
from typing import Any

from cluster.dashboard import Dashboard
from cluster.errors import CommandError

_APPLICATIONS = "/api/serve/applications/"


class ServeApi(Dashboard):
    """What the dashboard of one cluster says and does about Serve."""

    def details(self) -> dict[str, Any]:
        """Return the whole state of Serve: applications, deployments, replicas, proxies.

        Raises:
            CommandError: If the dashboard is not there, or refuses.
        """
        answer: dict[str, Any] = self.request("GET", _APPLICATIONS).json()
        return answer

    def deploy(self, config: Mapping[str, Any]) -> None:
        """Make Serve run exactly the applications of a config.

        Raises:
            CommandError: If Serve refuses the config.
        """
        response = self.request("PUT", _APPLICATIONS, json=dict(config), expect=(400,))
        if response.is_error:
            raise CommandError(f"Ray Serve refuses the config: {response.text.strip()}")

    def shut_down(self) -> None:
        """Delete all applications, letting requests in flight finish."""
        self.request("DELETE", _APPLICATIONS)
