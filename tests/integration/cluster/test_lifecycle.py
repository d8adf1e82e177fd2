"""`carril up`, `status`, `deploy` and `down` against a real cluster."""

import copy
import json
import subprocess
import sys
from collections.abc import Callable

import httpx
import psutil
import pytest

from cluster.ray_commands import install
from tests.integration.cluster.conftest import TINY, Sandbox, tiny_config

LOOPBACK = {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


@pytest.fixture(autouse=True)
def _deployed(sandbox: Sandbox) -> None:
    result = sandbox.carril("deploy", str(sandbox.write(tiny_config())), "--yes")
    assert result.returncode == 0, result.stderr


def test_up_on_a_running_server_says_so_and_changes_nothing(sandbox: Sandbox) -> None:
    before = {process.pid for process in sandbox.record.members()}

    result = sandbox.up(sandbox.write(tiny_config()))

    assert result.returncode == 0
    assert "already running with this config" in result.stderr
    assert {process.pid for process in sandbox.record.members()} == before


def test_status_is_one_json_document(sandbox: Sandbox) -> None:
    document = json.loads(sandbox.carril("status", "--json").stdout)

    assert document["running"]
    assert {app["name"]: app["status"] for app in document["applications"]} == {
        "single": "RUNNING",
        "pair": "RUNNING",
    }
    assert 0 < document["memory_bytes"] < 4 << 30


def test_plan_is_one_json_document(sandbox: Sandbox) -> None:
    new = tiny_config()
    new["applications"][0]["deployments"][0]["user_config"] = {"n": 9}

    result = sandbox.carril("plan", str(sandbox.write(new, "new.yaml")), "--json")

    document = json.loads(result.stdout)
    assert document["changes_anything"]
    assert document["applications"][0]["action"] == "reconfigure"


def test_a_deployment_that_disturbs_users_wants_to_be_meant(sandbox: Sandbox) -> None:
    less = tiny_config()
    less["applications"].pop()

    result = sandbox.carril("deploy", str(sandbox.write(less, "less.yaml")))

    assert result.returncode == 2
    assert "deleted of pair" in result.stderr
    assert "--yes" in result.stderr


def test_an_application_that_fails_is_reported_and_the_others_go_on(sandbox: Sandbox) -> None:
    broken = copy.deepcopy(tiny_config())
    broken["applications"][1]["import_path"] = f"{TINY}:build_broken"

    result = sandbox.carril("deploy", str(sandbox.write(broken, "broken.yaml")), "--yes")

    assert result.returncode == 1
    assert "this application cannot be built" in result.stderr
    answer = httpx.get(f"{sandbox.record.http_url}/single", trust_env=False)
    assert answer.status_code == 200


def test_rays_own_ports_ask_for_the_token(sandbox: Sandbox) -> None:
    url = sandbox.record.dashboard_url

    jobs = httpx.post(f"{url}/api/jobs/", json={"entrypoint": "id"}, trust_env=False)
    serve = httpx.get(f"{url}/api/serve/applications/", trust_env=False)

    assert jobs.status_code == 401
    assert serve.status_code == 401


def test_nothing_but_authenticated_handles_listens_beyond_loopback(sandbox: Sandbox) -> None:
    members = {process.pid: process for process in sandbox.record.members()}

    exposed = {
        members[connection.pid].name()
        for connection in psutil.net_connections(kind="tcp")
        if connection.status == psutil.CONN_LISTEN
        and connection.pid in members
        and connection.laddr[0] not in LOOPBACK
    }

    # Serve binds the gRPC port of replicas to all interfaces and offers no setting; it asks for
    # the token.
    assert all(name.startswith("ray::ServeRepli") for name in exposed), exposed


def test_serve_deploy_reaches_the_cluster_with_its_token(sandbox: Sandbox) -> None:
    scripts = sandbox.directory / "bin"
    scripts.mkdir()
    install(scripts, python=sys.executable)
    new = tiny_config()
    new["http_options"]["port"] = sandbox.ports[0]

    result = subprocess.run(
        [scripts / "serve", "deploy", sandbox.write(new)],
        env=sandbox.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("ingress", ["--no-haproxy"])
def test_a_start_that_fails_shows_the_cause_and_leaves_nothing_running(
    new_sandbox: Callable[[], Sandbox], ingress: str
) -> None:
    box = new_sandbox()
    broken = {"applications": [{"name": "broken", "import_path": f"{TINY}:build_broken"}]}

    result = box.up(box.write(broken), ingress)

    assert result.returncode == 1
    assert "this application cannot be built" in result.stderr
    assert "nothing was left running" in result.stderr
    assert not (box.directory / "var" / "run" / "cluster.json").exists()


def test_down_ends_this_cluster_and_no_other(
    sandbox: Sandbox, new_sandbox: Callable[[], Sandbox]
) -> None:
    box = new_sandbox()
    config = {"applications": [{**tiny_config()["applications"][0], "route_prefix": "/"}]}
    assert box.up(box.write(config), "--no-haproxy").returncode == 0
    members = box.record.members()

    result = box.carril("down")

    assert result.returncode == 0, result.stderr
    assert not any(process.is_running() for process in members)
    assert sandbox.record.is_alive()
    answer = httpx.get(f"{sandbox.record.http_url}/single", trust_env=False)
    assert answer.status_code == 200
    assert "nothing runs here" in box.carril("down").stderr
