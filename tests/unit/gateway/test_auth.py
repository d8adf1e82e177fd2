"""API keys by hash; without keys, this machine only."""

import hashlib

import pytest

from serve_app.config import AuthConfig
from serve_app.errors import AuthenticationFailed, ConfigError, PermissionDenied
from serve_app.gateway.auth import authenticate, check_exposure
from tests.unit.gateway.builders import gateway_config


def keys(**tenants: str) -> AuthConfig:
    return AuthConfig.model_validate(
        {
            "keys": [
                {
                    "name": key,
                    "sha256": hashlib.sha256(key.encode()).hexdigest(),
                    "tenant": tenant,
                }
                for key, tenant in tenants.items()
            ]
        }
    )


KEYS = keys(alpha="acme", beta="other")


@pytest.mark.parametrize(("key", "tenant"), [("alpha", "acme"), ("beta", "other")])
@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_known_key_names_its_tenant(key: str, tenant: str, scheme: str) -> None:
    assert authenticate(KEYS, [f"{scheme} {key}"], "203.0.113.9")[:2] == (key, tenant)


@pytest.mark.parametrize(
    "header",
    [
        pytest.param([], id="absent"),
        pytest.param([""], id="empty"),
        pytest.param(["Bearer"], id="no key"),
        pytest.param(["Bearer "], id="empty key"),
        pytest.param(["Bearer wrong"], id="wrong key"),
        pytest.param(["Bearer alpha x"], id="two words"),
        pytest.param(["Basic alpha"], id="basic"),
        pytest.param(["alpha"], id="no scheme"),
        pytest.param(["Bearer alpha", "Bearer alpha"], id="two headers"),
        pytest.param(["Bearer ' OR pg_sleep(5)--"], id="injection"),
        pytest.param(["Bearer " + "x" * 100_000], id="long"),
        pytest.param(["Bearer \udcff"], id="no text"),
        pytest.param([f"Bearer {hashlib.sha256(b'alpha').hexdigest()}"], id="the hash itself"),
    ],
)
@pytest.mark.parametrize("host", ["127.0.0.1", "203.0.113.9", None])
def test_anything_else_is_refused_even_from_this_machine(
    header: list[str], host: str | None
) -> None:
    with pytest.raises(AuthenticationFailed) as caught:
        authenticate(KEYS, header, host)
    assert caught.value.status == 401
    assert "alpha" not in caught.value.message


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1", None])
def test_without_keys_this_machine_is_served(host: str | None) -> None:
    assert authenticate(AuthConfig(), [], host).tenant == "default"


@pytest.mark.parametrize("host", ["203.0.113.9", "10.0.0.1", "::ffff:10.0.0.1", "example.org", ""])
def test_without_keys_other_machines_are_not(host: str) -> None:
    with pytest.raises(PermissionDenied, match=r"auth\.keys"):
        authenticate(AuthConfig(), [], host)


def test_anyone_is_served_where_the_configuration_says_so() -> None:
    assert authenticate(AuthConfig(allow_anonymous=True), [], "203.0.113.9").tenant == "default"


def test_a_bound_network_address_needs_keys_whatever_the_file_says() -> None:
    check_exposure(gateway_config(), "127.0.0.1")
    with pytest.raises(ConfigError, match="no API keys"):
        check_exposure(gateway_config(), "0.0.0.0")  # noqa: S104
    check_exposure(gateway_config(auth={"allow_anonymous": True}), "0.0.0.0")  # noqa: S104
