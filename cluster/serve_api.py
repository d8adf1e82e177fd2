"""Ray Serve's REST API, as far as carril needs it: what runs, and deploy this."""

from collections.abc import Mapping
from typing import Any, Self

import httpx

from cluster.errors import CommandError, ExitCode, infrastructure

_APPLICATIONS = "/api/serve/applications/"


class ServeApi:
    """A client of the dashboard of one cluster.

    Args:
        url: Address of the dashboard, `http://127.0.0.1:8265`.
        token: Ray's authentication token, where the cluster asks for one.
        timeout_s: Longest wait for one answer.
    """

    def __init__(self, url: str, *, token: str | None = None, timeout_s: float = 60.0) -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.url = url.rstrip("/")
        self._client = httpx.Client(
            base_url=self.url, headers=headers, timeout=timeout_s, trust_env=False
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def details(self) -> dict[str, Any]:
        """Return the whole state of Serve: applications, deployments, replicas, proxies.

        Raises:
            CommandError: If the dashboard is not there, or refuses.
        """
        answer: dict[str, Any] = self._request("GET").json()
        return answer

    def deploy(self, config: Mapping[str, Any]) -> None:
        """Make Serve run exactly the applications of a config.

        Raises:
            CommandError: If Serve refuses the config.
        """
        self._request("PUT", json=dict(config))

    def shut_down(self) -> None:
        """Delete all applications, letting requests in flight finish."""
        self._request("DELETE")

    def _request(self, method: str, json: object | None = None) -> httpx.Response:
        try:
            response = self._client.request(method, _APPLICATIONS, json=json)
        except httpx.HTTPError as error:
            raise infrastructure(
                f"no Ray dashboard answers at {self.url} ({type(error).__name__})",
                "start one with: carril up",
            ) from error
        if response.status_code in (401, 403):
            raise CommandError(
                f"Ray at {self.url} refuses the token: {response.text.strip()}",
                "set RAY_AUTH_TOKEN_PATH to the file of the cluster's token",
                ExitCode.AUTH,
            )
        if response.status_code == 400:
            raise CommandError(f"Ray Serve refuses the config: {response.text.strip()}")
        if response.is_error:
            raise infrastructure(
                f"Ray at {self.url} answers {response.status_code}: {response.text}"
            )
        return response
