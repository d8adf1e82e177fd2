"""Where state lies, who may read it, and how the environment of Ray is made."""

import json
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cluster import home as home_module
from cluster.connection import resolve
from cluster.errors import CommandError
from cluster.local_cluster import ClusterRecord
from cluster.ray_commands import additions, install
from cluster.ray_environment import Ports, cluster_environment, start_arguments

PORTS = Ports.choose(http=8000, dashboard=8265, gcs=6379)


def record(**changes: object) -> ClusterRecord:
    values = {
        "cluster_id": "abc",
        "started_at": datetime.now(UTC),
        "http_url": "http://127.0.0.1:8000",
        "dashboard_url": "http://127.0.0.1:8265",
        "gcs_address": "127.0.0.1:6379",
        "token_path": None,
        "haproxy": True,
        "working_dir": "/w",
        "temp_dir": "/t",
    }
    return ClusterRecord.model_validate(values | changes)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_token_is_made_once_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    path = tmp_path / ".ray" / "auth_token"

    home_module.ensure_ray_token(path)
    token = path.read_text()
    home_module.ensure_ray_token(path)

    assert len(token) == 64
    assert path.read_text() == token
    assert mode(path) == 0o600


def test_directories_of_sockets_are_closed_to_others(tmp_path: Path) -> None:
    assert mode(home_module.run_dir(tmp_path)) == 0o700
    assert mode(home_module.haproxy_dir(tmp_path)) == 0o700
    assert mode(home_module.ray_temp_dir(tmp_path).parent) == 0o700


@pytest.fixture(autouse=True)
def _no_leftovers(tmp_path: Path) -> Iterator[None]:
    yield
    shutil.rmtree(home_module.ray_temp_dir(tmp_path).parent)


@pytest.fixture
def deep(tmp_path: Path) -> Iterator[Path]:
    """A home whose path is too long for sockets."""
    home = tmp_path / ("d" * 60) / ("e" * 60)
    yield home
    shutil.rmtree(home_module.ray_temp_dir(home).parent)


def test_socket_paths_fit_however_long_the_home_is(deep: Path) -> None:
    socket = home_module.haproxy_dir(deep) / ("0" * 56) / "admin.sock"
    assert len(str(socket)) <= 97
    session = "session_2026-11-21_04-17-36_057299_219140/sockets/plasma_store"
    assert len(str(home_module.ray_temp_dir(deep) / session)) <= 107


def test_two_homes_have_different_directories(deep: Path, tmp_path: Path) -> None:
    assert home_module.ray_temp_dir(deep) != home_module.ray_temp_dir(tmp_path)


def test_a_record_is_read_back(tmp_path: Path) -> None:
    written = record(processes=((1, 2.5),))
    written.save(tmp_path)

    assert ClusterRecord.load(tmp_path) == written


def test_a_broken_record_says_what_to_do(tmp_path: Path) -> None:
    home_module.record_path(tmp_path).write_text("{")

    with pytest.raises(CommandError, match="cannot be read"):
        ClusterRecord.load(tmp_path)


def test_every_port_of_a_cluster_is_another() -> None:
    ports = [getattr(PORTS, name) for name in PORTS.__slots__]

    assert len(set(ports)) == len(ports)


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return cluster_environment(
        base={"RAY_JOB_STOP_WAIT_TIME_S": "7"},
        home=tmp_path,
        cluster_id="abc",
        ports=PORTS,
        token_path=tmp_path / "token",
        haproxy=Path("/bin/haproxy"),
    )


def test_ray_asks_for_a_token_and_stays_on_loopback(
    environment: dict[str, str], tmp_path: Path
) -> None:
    assert environment["RAY_AUTH_MODE"] == "token"
    assert environment["RAY_AUTH_TOKEN_PATH"] == str(tmp_path / "token")
    assert environment["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0"
    arguments = start_arguments(home=tmp_path, ports=PORTS, num_cpus=4)
    assert "--dashboard-host=127.0.0.1" in arguments
    assert "--disable-usage-stats" in arguments


def test_the_users_own_tuning_wins(environment: dict[str, str]) -> None:
    assert environment["RAY_JOB_STOP_WAIT_TIME_S"] == "7"


def test_what_threads_have_freed_is_kept_in_two_arenas(environment: dict[str, str]) -> None:
    assert environment["MALLOC_ARENA_MAX"] == "2"


def test_without_haproxy_the_fast_profile_that_needs_it_is_off(tmp_path: Path) -> None:
    environment = cluster_environment(
        base={}, home=tmp_path, cluster_id="a", ports=PORTS, token_path=None, haproxy=None
    )

    assert environment["RAY_SERVE_ENABLE_HA_PROXY"] == "0"
    assert environment["RAY_SERVE_THROUGHPUT_OPTIMIZED"] == "0"
    assert environment["RAY_AUTH_MODE"] == "disabled"


def test_haproxy_keeps_all_but_the_api_to_this_machine_and_its_owner(tmp_path: Path) -> None:
    config = tmp_path / "haproxy.cfg"
    config.write_text(
        "    stats socket /x/admin.sock mode 666 level admin expose-fd listeners\n"
        "frontend prometheus\n    bind :9101\n"
        "frontend http_frontend\n    bind *:8000\n"
        "listen stats\n  bind *:8404\n"
    )
    wrapper = Path(home_module.__file__).with_name("haproxy_loopback.sh")

    result = subprocess.run(
        [wrapper, "-db", "-f", config, "-sf", "12"],
        env={**os.environ, "CARRIL_HAPROXY": "/bin/echo"},
        capture_output=True,
        text=True,
        check=True,
    )

    assert result.stdout.strip() == f"-db -f {config} -sf 12"
    binds = [line.strip() for line in config.read_text().splitlines() if "bind" in line]
    assert binds == [
        "bind 127.0.0.1:9101",
        "bind *:8000",
        "bind 127.0.0.1:8404",
    ]
    assert "mode 600 level admin" in config.read_text()


def test_haproxy_refuses_in_the_shape_that_openai_clients_read(tmp_path: Path) -> None:
    config = tmp_path / "haproxy.cfg"
    config.write_text(
        f"    errorfile 503 {tmp_path}/500.http\n    errorfile 504 {tmp_path}/500.http\n"
    )
    wrapper = Path(home_module.__file__).with_name("haproxy_loopback.sh")

    environment = {**os.environ, "CARRIL_HAPROXY": "/bin/true"}
    subprocess.run([wrapper, "-f", config], env=environment, check=True)

    assert config.read_text().splitlines()[2:] == [
        f"    errorfile 408 {tmp_path}/408.http",
    ]
    for name, status, code in (
        ("500", "503 Service Unavailable", "overloaded"),
        ("408", "408 Request Timeout", "request_timeout"),
    ):
        head, body = (tmp_path / f"{name}.http").read_bytes().decode().split("\r\n\r\n")
        lines = head.split("\r\n")
        assert lines[0] == f"HTTP/1.1 {status}"
        assert "Content-Type: application/json" in lines
        assert f"Content-Length: {len(body)}" in lines
        assert json.loads(body)["error"]["code"] == code


def test_rays_commands_learn_the_token_of_the_local_cluster(tmp_path: Path) -> None:
    added = additions(record(token_path=str(tmp_path)), ["deploy", "serve_config.yaml"])

    assert added["RAY_AUTH_MODE"] == "token"
    assert added["RAY_AUTH_TOKEN_PATH"] == str(tmp_path)
    assert added["RAY_DASHBOARD_ADDRESS"] == "http://127.0.0.1:8265"


@pytest.mark.parametrize(
    "arguments",
    [
        ["deploy", "-a", "http://elsewhere:8265", "c.yaml"],
        ["deploy", "--address=http://elsewhere:8265"],
        ["start", "--head"],
        ["stop"],
    ],
)
def test_the_token_goes_to_no_other_cluster(arguments: list[str]) -> None:
    assert additions(record(token_path="/t"), arguments) == {}


def test_without_a_local_cluster_rays_commands_are_as_ever() -> None:
    assert additions(None, ["deploy"]) == {}


def test_rays_commands_are_installed_as_scripts(tmp_path: Path) -> None:
    install(tmp_path, python="/usr/bin/python3")

    assert sorted(path.name for path in tmp_path.iterdir()) == ["ray", "serve"]
    assert os.access(tmp_path / "serve", os.X_OK)
    assert (tmp_path / "serve").read_text().startswith("#!/usr/bin/python3\n")


def test_a_connection_prefers_options_to_environment_to_record(tmp_path: Path) -> None:
    record(dashboard_url="http://127.0.0.1:1", http_url="http://127.0.0.1:2").save(tmp_path)
    environ = {"CARRIL_HOME": str(tmp_path), "CARRIL_URL": "http://env:3/"}

    assert resolve(environ=environ).dashboard_url == "http://127.0.0.1:1"
    assert resolve(environ=environ).http_url == "http://env:3"
    assert resolve(environ=environ, http_url="http://option:4").http_url == "http://option:4"


def test_another_address_than_the_records_is_not_the_record(tmp_path: Path) -> None:
    record(dashboard_url="http://127.0.0.1:1").save(tmp_path)
    environ = {"CARRIL_HOME": str(tmp_path)}

    assert resolve(environ=environ, dashboard_url="http://other:8265").record is None
