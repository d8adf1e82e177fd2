"""`carril models` as a shell sees it."""

import contextlib
import errno
import io
import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
import pytest

from cluster.cli.main import run
from cluster.errors import ExitCode
from experiments.registry import ModelVersion, Registry
from tests.unit.experiments.gate.runs import golden, related, write_run
from tests.unit.training.registry.builders import gate_report, registered, write_model
from training.registry.verification import verify


class Done(NamedTuple):
    """What a command printed."""

    stdout: str
    stderr: str


class Shell:
    """Runs `carril models ...` in this process."""

    def __init__(self, home: Path) -> None:
        self.registry = Registry(home / "registry")

    def __call__(self, *arguments: str, code: int = 0) -> Done:
        stdout, stderr = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
            actual = run(["models", *arguments])
        done = Done(stdout.getvalue(), stderr.getvalue())
        assert actual == code, done
        return done


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    """With a home of its own, without MLflow."""
    monkeypatch.setenv("CARRIL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("CARRIL_TRACKING", "off")
    return Shell(tmp_path / "home")


@pytest.fixture
def v1(shell: Shell, tmp_path: Path) -> ModelVersion:
    return registered(shell.registry, tmp_path, "1.0.0")


def test_the_commands_load_nothing_heavy_for_their_help() -> None:
    code = (
        "import sys, cluster.cli.models\n"
        "print([m for m in ('mlflow', 'ray', 'pydantic', 'yaml') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_from_manifest_to_rollback(shell: Shell, tmp_path: Path) -> None:
    for version in ("1.0.0", "2.0.0"):
        done = shell("register", str(write_model(tmp_path / version, version)))
        assert re.fullmatch(rf"okla@{version}  sha256 [0-9a-f]{{64}}\n", done.stdout)
        assert "not shown in MLflow: CARRIL_TRACKING=off" in done.stderr
    v1, v2 = shell.registry.versions()
    first = gate_report(tmp_path / "g1.json", v1)
    second = gate_report(tmp_path / "g2.json", v2, v1)
    assert "PASS" in shell("gate", "okla-v1", str(first)).stdout
    done = shell("promote", "okla-v1", "--reason", "first", "--actor", "ana")
    assert done.stdout == "okla@1.0.0 is champion  (before: none)\n"
    assert v1.sha256 in done.stderr  # how to serve it by hand
    entry = json.loads(
        shell("promote", "okla-v2", "--gate", str(second), "--expect", "1.0.0", "--json").stdout
    )
    assert (entry["kind"], entry["source"]["version"]) == ("promote", "1.0.0")
    rows = json.loads(shell("ls", "--json").stdout)
    assert [(row["version"], row["state"], row["aliases"]) for row in rows] == [
        ("1.0.0", "archived", []),
        ("2.0.0", "production", ["champion"]),
    ]
    assert "okla@1.0.0 is champion" in shell("rollback", "okla", "--reason", "precios").stdout
    log = shell("log").stdout.splitlines()
    assert len(log) == 7
    assert "rollback champion  okla@1.0.0 (before: 2.0.0)  precios" in log[-1]
    assert "chain intact" in shell("verify").stdout
    assert json.loads(shell("at", "2999-01-01", "--json").stdout) == {"okla": {"champion": "1.0.0"}}
    assert shell("at", "2020-01-01T00:00:00Z", "okla").stdout == ""
    assert v2.sha256 in shell("show", "okla@2.0.0").stdout
    assert json.loads(shell("show", "okla", "--json").stdout)["history"][-1]["kind"] == "rollback"
    assert shell("card", "okla").stdout.startswith("---\nlanguage:\n- es\n")
    shell("card", "okla", "--out", str(tmp_path / "cards" / "README.md"))
    assert "# okla 1.0.0" in (tmp_path / "cards" / "README.md").read_text(encoding="utf-8")
    assert "retired" in shell("retire", "okla@2.0.0", "--reason", "precios").stdout


def test_what_the_gate_writes_is_what_a_promotion_reads(
    shell: Shell, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From two evaluations through `carril eval gate` to a champion."""
    registry = shell.registry
    base = np.random.default_rng(1).random(1_500) < 0.90
    quality = {"1.0.0": base, "2.0.0": related(base, 0.05, 0.09, np.random.default_rng(2))}
    for version, right in quality.items():
        manifest = write_model(tmp_path / version, version)
        sha256 = json.loads(manifest.read_text(encoding="utf-8"))["sha256"]
        folder = write_run(tmp_path / f"run-{version}", golden(right), sha256=sha256)
        report = str(folder / "report.json")
        shell("register", str(manifest), "--evaluation", report)
    first, second = (tmp_path / f"run-{version}" for version in quality)
    # The first model has nobody to be compared with; a promotion without a gate there is none.
    gate_report(first / "gate.json", registry.resolve("okla-v1"))
    shell("promote", "okla-v1", "--gate", str(first / "gate.json"))
    arguments = ["eval", "gate", "--candidate", str(second), "--champion", str(first), "--ci"]
    assert run(arguments) == 0, capsys.readouterr()
    shell("promote", "okla-v2", "--gate", str(second / "gate.json"))
    assert registry.resolve("okla@champion").version == "2.0.0"
    assert all(finding.ok for finding in verify(registry))


@pytest.mark.parametrize(("verdict", "code"), [("PASS", 0), ("FAIL", 1), ("INCONCLUSIVE", 5)])
def test_the_verdict_is_the_exit_code(
    shell: Shell, v1: ModelVersion, tmp_path: Path, verdict: str, code: int
) -> None:
    report = gate_report(tmp_path / "g.json", v1, verdict=verdict)
    assert verdict in shell("gate", "okla", str(report), code=code).stdout
    if code:
        assert verdict in shell("promote", "okla", "--gate", str(report), code=code).stderr
    assert [entry.kind for entry in shell.registry.entries()] == ["register", "gate"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["show", "dealer"], 1, "no registered model answers to 'dealer'; registered: ['okla']"),
        (["promote", "okla"], 1, "no gate report about okla@1.0.0"),
        (["promote", "okla", "--gate", "none.json"], 1, "cannot read the gate report 'none.json'"),
        (["promote", "okla", "--to", "candidate"], 2, "--to 'candidate' is no place"),
        (["promote", "okla", "--variant", "stable"], 2, "--variant needs --deploy CONFIG"),
        (["rollback", "okla"], 2, "--reason"),
        (["rollback", "okla", "--reason", ""], 1, "a rollback needs a reason"),
        (["rollback", "okla", "--reason", "x"], 1, "'okla' has no champion to roll back from"),
        (["register", "none.manifest.json"], 1, "none.manifest.json"),
        (["register", "none.manifest.json", "--tag", "x"], 2, "--tag 'x': write KEY=VALUE"),
        (["ui"], 1, "MLflow is not used: CARRIL_TRACKING=off"),
        (["verify", "--served", "--url", "http://127.0.0.1:9"], 3, "no gateway answers"),
    ],
)
def test_what_goes_wrong_is_named(
    shell: Shell, v1: ModelVersion, arguments: list[str], code: int, message: str
) -> None:
    before = shell.registry.entries()
    done = shell(*arguments, code=code)
    assert message in " ".join(done.stderr.split())
    assert done.stdout == ""
    assert shell.registry.entries() == before


def test_what_is_no_gate_report_is_told_in_a_line(
    shell: Shell, v1: ModelVersion, tmp_path: Path
) -> None:
    (tmp_path / "gate.json").write_text("{}", encoding="utf-8")
    done = shell("gate", v1.label, str(tmp_path / "gate.json"), code=1)
    told = " ".join(done.stderr.split())
    assert "gate.json is no gate report: schema_version: Field required; verdict:" in told
    assert "pydantic" not in told


def test_a_full_disk_is_named_as_one(
    shell: Shell, v1: ModelVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "ledger.jsonl")

    before = shell.registry.entries()
    monkeypatch.setattr("experiments.registry.ledger.os.fsync", full)
    done = shell("retire", v1.label, "--reason", "x", code=ExitCode.INFRASTRUCTURE)
    assert "ledger.jsonl: No space left on device" in " ".join(done.stderr.split())
    assert "bug" not in done.stderr
    assert shell.registry.entries() == before


def test_a_promotion_that_cannot_be_deployed_is_none(
    shell: Shell, v1: ModelVersion, tmp_path: Path
) -> None:
    """No cluster runs in this home, so nothing can be deployed."""
    config = tmp_path / "serve_config.yaml"
    shipped = (Path(__file__).parents[3] / "serve_config.yaml").read_bytes()
    config.write_bytes(shipped)
    report = gate_report(tmp_path / "g.json", v1)
    arguments = ("promote", "okla", "--gate", str(report), "--deploy", str(config))
    done = shell(*arguments, code=ExitCode.INFRASTRUCTURE)
    assert "no cluster was started here" in done.stderr
    assert config.read_bytes() == shipped
    assert [entry.kind for entry in shell.registry.entries()] == ["register", "gate"]


class _Readyz(BaseHTTPRequestHandler):
    """A gateway that serves one file."""

    sha256: ClassVar[str] = ""

    def do_GET(self) -> None:
        replicas = [{"model_sha256": self.sha256}]
        body = {"status": "ready", "variants": {"stable": {"replicas": replicas}}}
        raw = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def readyz() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), _Readyz)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_champion_that_is_not_served_fails_the_check(
    shell: Shell, v1: ModelVersion, tmp_path: Path, readyz: str
) -> None:
    shell("promote", "okla", "--gate", str(gate_report(tmp_path / "g.json", v1)))
    _Readyz.sha256 = "0" * 64
    done = shell("verify", "--served", "--url", readyz, code=1)
    assert "FAIL  served: champion okla@1.0.0" in done.stdout
    assert f"variant stable serves {'0' * 64}" in done.stdout
    _Readyz.sha256 = v1.sha256
    assert json.loads(shell("verify", "--served", "--url", readyz, "--json").stdout)["ok"]


def test_the_readme_names_commands_and_options_that_there_are() -> None:
    import typer

    from cluster.cli.models import models_app

    readme = (Path(__file__).parents[3] / "README.md").read_text(encoding="utf-8")
    commands = typer.main.get_command(models_app).commands  # type: ignore[attr-defined]
    used = re.findall(r"carril models (\w+)([^\n#`]*)", readme)
    assert {"register", "promote", "rollback", "verify"} <= {name for name, _ in used}
    for name, rest in used:
        known = {option for parameter in commands[name].params for option in parameter.opts}
        assert set(re.findall(r"--[a-z-]+", rest)) <= known, name
