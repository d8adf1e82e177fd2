"""The command line as a shell sees it: speed, exit codes, streams."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.cli import main as cli
from cluster.errors import CommandError, ExitCode

HEAVY = ("ray", "fastapi", "numpy", "torch", "llama_cpp", "pydantic", "yaml", "httpx")


def carril(*arguments: str, home: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cluster.cli.main", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "CARRIL_HOME": str(home), **environment},
    )


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys, cluster.cli.main as m\n"
        "m.run(['--help'])\n"
        f"sys.exit([name for name in {HEAVY!r} if name in sys.modules])"
    )

    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )

    assert result.stderr == "[]\n"
    for verb in ("up", "down", "status", "doctor", "plan", "deploy", "chat", "data", "train"):
        assert verb in result.stdout


def test_help_answers_at_once() -> None:
    command = [sys.executable, "-m", "cluster.cli.main", "--help"]
    # CPU time: how long it takes beside other work on the machine proves nothing.
    before = os.times()

    subprocess.run(command, capture_output=True, check=True)

    after = os.times()
    spent = after.children_user + after.children_system
    assert spent - before.children_user - before.children_system < 0.5


def test_a_misspelt_verb_is_a_usage_error_with_a_suggestion(tmp_path: Path) -> None:
    result = carril("stauts", home=tmp_path)

    assert result.returncode == ExitCode.USAGE
    assert "Did you mean 'status'" in result.stderr


def test_an_invalid_config_is_a_failure_on_stderr(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("applications: []")

    result = carril("up", str(path), home=tmp_path)

    assert result.returncode == ExitCode.FAILED
    assert "name at least one application" in result.stderr
    assert result.stdout == ""


def test_down_with_nothing_running_is_no_error(tmp_path: Path) -> None:
    result = carril("down", home=tmp_path)

    assert result.returncode == ExitCode.OK
    assert "nothing runs here" in result.stderr


def test_status_with_nothing_running_is_readable(tmp_path: Path) -> None:
    result = carril("status", home=tmp_path, RAY_DASHBOARD_ADDRESS="http://127.0.0.1:9")

    assert result.returncode == ExitCode.OK
    assert "nothing runs; start with: carril up" in result.stderr


def test_deploy_never_guesses_a_cluster(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("applications: [{name: a, import_path: 'm:a'}]")

    result = carril("deploy", str(path), home=tmp_path, RAY_DASHBOARD_ADDRESS="")

    assert result.returncode == ExitCode.INFRASTRUCTURE
    assert "no cluster was started here" in result.stderr


def test_chat_without_a_server_says_how_to_start_one(tmp_path: Path) -> None:
    result = carril("chat", "--url", "http://127.0.0.1:9", "hola", home=tmp_path)

    assert result.returncode == ExitCode.INFRASTRUCTURE
    assert "carril up" in result.stderr


@pytest.mark.parametrize("code", [ExitCode.FAILED, ExitCode.INFRASTRUCTURE, ExitCode.AUTH])
def test_an_error_carries_its_exit_code(code: ExitCode, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: object) -> None:
        raise CommandError("no", "do this", code)

    monkeypatch.setattr("cluster.cli.down.run", fail)

    assert cli.run(["down"]) == code


def test_an_interruption_is_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(**_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("cluster.cli.down.run", interrupt)

    assert cli.run(["down"]) == ExitCode.INTERRUPTED


def test_a_bug_leaves_a_file_with_details(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def crash(**_: object) -> None:
        raise ZeroDivisionError("oh")

    monkeypatch.setenv("CARRIL_HOME", str(tmp_path))
    monkeypatch.setattr("cluster.cli.down.run", crash)

    assert cli.run(["down"]) == ExitCode.FAILED
    assert "ZeroDivisionError: oh" in (tmp_path / "logs" / "cli-error.txt").read_text()
