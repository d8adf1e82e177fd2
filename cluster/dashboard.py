"""Requests to the dashboard of one Ray cluster, and what its refusals mean."""

from typing import Self

import httpx

from cluster.errors import CommandError, ExitCode, infrastructure


class Dashboard:
    """A client of Ray's dashboard.

    Args:
        url: Its address, `http://127.0.0.1:8265`.
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

    def request(
        self, method: str, path: str, *, json: object | None = None, expect: tuple[int, ...] = ()
    ) -> httpx.Response:
        """Send a request and return its answer.

        Args:
            method: HTTP method.
            path: Path on the dashboard.
            json: Body.
            expect: Statuses of refusals that the caller deals with.

        Raises:
            CommandError: If the dashboard is not there, or refuses in another way.
        """
        try:
            response = self._client.request(method, path, json=json)
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
        if response.is_error and response.status_code not in expect:
            raise infrastructure(
                f"Ray at {self.url} answers {response.status_code}: {response.text}"
            )
        return response
