"""The loop's configuration, its memory, and the requests it counts."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from cluster.cli import deploy as deploy_command
from cluster.cli import loop as loop_command
from cluster.cli import plan as plan_command
from cluster.errors import CommandError, ExitCode
from cluster.loop.config import TrafficPart, load_loop_config
from cluster.loop.state import LoopState, StepResult, load_state, save_state
from cluster.loop.traffic import Traffic
from cluster.plan import Running, make_plan
from cluster.plan_experiments import consequences

ROOT = Path(__file__).resolve().parents[3]
SHIPPED = ROOT / "training" / "configs" / "loop.yaml"


def test_the_shipped_loop_has_its_own_line_and_a_gate() -> None:
    config = load_loop_config(SHIPPED)

    assert config.model != "okla"
    assert config.gate.floors.intent_accuracy is not None
    assert config.gate.reason
    assert config.training.is_file()


def test_another_training_configuration_is_another_loop(tmp_path: Path) -> None:
    path, training = tmp_path / "loop.yaml", tmp_path / "model.yaml"
    path.write_text("{model: a, training: model.yaml, gate: {}}")
    training.write_text("seed: 1")
    one = load_loop_config(path).sha256()
    training.write_text("seed: 2")

    assert load_loop_config(path).sha256() != one


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param("{model: a, training: gone.yaml, gate: {}}", "gone.yaml", id="no training"),
        pytest.param("{model: A B, training: x, gate: {}}", "model: ", id="name"),
        pytest.param("{model: a, training: x}", "gate: Field required", id="no gate"),
        pytest.param("{model: a, training: x, gate: {skip: true}}", "gate.skip", id="bypass"),
        pytest.param("{", "cannot be read", id="no YAML"),
    ],
)
def test_a_loop_that_cannot_be_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "loop.yaml"
    path.write_text(text)

    with pytest.raises(CommandError) as refused:
        load_loop_config(path)

    assert problem in refused.value.message
    assert refused.value.code is ExitCode.USAGE


def test_an_interrupted_turn_goes_on_and_others_begin_anew(tmp_path: Path) -> None:
    fresh = LoopState(config_sha256="c", code_identity="1")
    done = fresh.model_copy(
        update={"steps": (StepResult(name="generate", artefact="data", took_s=1.0),)}
    )
    assert load_state(tmp_path, fresh) == fresh
    save_state(tmp_path, done)

    assert load_state(tmp_path, fresh).result("generate") is not None
    other_code = LoopState(config_sha256="c", code_identity="2")
    assert load_state(tmp_path, other_code) == other_code
    save_state(tmp_path, done.model_copy(update={"finished": True}))
    assert load_state(tmp_path, fresh) == fresh


def test_a_state_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text("{")

    with pytest.raises(CommandError, match=r"state\.json cannot be read"):
        load_state(tmp_path, LoopState(config_sha256="c", code_identity="1"))


class _Answers(BaseHTTPRequestHandler):
    """Answers twice, then is overloaded."""

    n = 0

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        type(self).n += 1
        self.send_response(200 if self.n <= 2 else 503)
        self.send_header("x-carril-variant", "stable")
        self.send_header("x-carril-model", "abc")
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    _Answers.n = 0
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Answers)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_every_request_that_fails_is_counted(url: str) -> None:
    traffic = Traffic(url, "okla-chat", TrafficPart(requests_per_s=50))
    with traffic:
        while traffic.report.n_requests < 5:
            threading.Event().wait(0.01)

    report = traffic.report
    assert report.variants == {"stable": 2}
    assert report.models == {"abc": 2}
    assert report.n_failures == report.n_requests - 2
    assert report.failures[0].startswith("503")


def test_a_server_that_is_gone_is_a_failure() -> None:
    with Traffic("http://127.0.0.1:9", "okla-chat", TrafficPart(requests_per_s=50)) as traffic:
        while traffic.report.n_requests < 2:
            threading.Event().wait(0.01)

    assert traffic.report.n_failures == traffic.report.n_requests


def test_plans_of_the_loops_deployments_leave_stdout_to_its_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = make_plan(
        Running(), {"applications": [{"name": "gateway", "import_path": "a:b", "deployments": []}]}
    )

    def run(_path: Path, *, plan_to: Console, **_options: object) -> None:
        plan_command.show(plan, consequences({}, {"applications": []}), to=plan_to)

    monkeypatch.setattr(deploy_command, "run", run)
    connection: Any = SimpleNamespace(
        record=SimpleNamespace(working_dir=str(tmp_path)), http_url="http://127.0.0.1:8000"
    )
    api: Any = None
    around = loop_command._surroundings(
        load_loop_config(SHIPPED), connection, tmp_path / "serve.yaml", api, timeout_s=1.0
    )
    around.deploy(tmp_path / "serve.yaml")
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "gateway" in printed.err
