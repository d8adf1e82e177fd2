"""The controller with a real file, journal and event log; only the gateways are played."""

import dataclasses
import json
import time
from collections.abc import Iterable
from pathlib import Path
from threading import Event as Flag
from typing import Any

import httpx
import pytest
import yaml

from cluster.canary.controller import Controller
from cluster.canary.split import read_declared, treatment_of
from cluster.errors import CommandError
from cluster.steering.server import Server
from cluster.validate import ServeConfig, load_serve_config
from experiments.analysis.declaration import CanaryDeclaration
from experiments.canary.journal import Journal, faults
from experiments.canary.records import Action, Decision, State, Status
from experiments.decision.codec import to_json
from experiments.events.records import Event, Outcome
from experiments.events.store import EventStore
from experiments.steering.errors import ControllerBusy
from serve_app.errors import ConfigError
from serve_app.gateway.inference_ids import InferenceIds
from tests.unit.cluster.steering.stage import NAME, Gateways, config, percent_of
from tests.unit.experiments.analysis.sessions import exposed
from tests.unit.experiments.events.builders import outcome

IDS = InferenceIds(b"s" * 32)
CONFIG = config(
    "{stable: 100, candidate: 0}", "canary: {steps: [50, 100], min_step_s: 0, min_units: 50}"
)


class Stage:
    """A controller and what it works on."""

    def __init__(self, folder: Path) -> None:
        self.config = folder / "serve_config.yaml"
        self.config.write_text(CONFIG, encoding="utf-8")
        self.gateways = Gateways(self.config)
        self.journal = Journal(folder, NAME)
        self.events = folder / "events.db"
        self.told: list[Action] = []

    def controller(self) -> Controller:
        def tell(decision: Decision, _state: State) -> None:
            self.told.append(decision.action)

        return Controller(self.journal, self.gateways, self.events, tell=tell)

    def log(self, events: Iterable[Event]) -> None:
        store = EventStore(self.events)
        store.append(events)
        store.close()

    def sessions(self, n: int) -> list[Event]:
        found: list[Event] = []
        config_hash = self.gateways.active_config()
        for number in range(n):
            exposure = exposed(
                f"u{number}", exposed_at=time.time() - 1, config_hash=config_hash, model_sha256=""
            )
            found += [exposure, answer(exposure.unit, exposure.variant, 0.5 + number % 7 / 100)]
        return found

    def on_disk(self) -> float:
        return percent_of(self.config.read_bytes())


def answer(unit: str, variant: str, duration_s: float = 0.5, **changes: Any) -> Outcome:
    return outcome(
        IDS.new("chatcmpl", "default"),
        unit=unit,
        variant=variant,
        duration_s=duration_s,
        **{"finished_at": time.time() + 0.01, **changes},
    )


def failures(n: int) -> list[Event]:
    return [
        answer(f"f{i}", "candidate", status="error", error_code="engine_failed") for i in range(n)
    ]


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


@pytest.fixture
def at_half(stage: Stage) -> Stage:
    """A canary on its first step."""
    controller = stage.controller()
    controller.begin()
    assert controller.tick().action is Action.START
    assert (stage.gateways.percent, stage.on_disk()) == (50.0, 50.0)
    return stage


def test_a_good_treatment_reaches_100_percent_and_the_file_says_so(at_half: Stage) -> None:
    at_half.log(at_half.sessions(1500))
    state = at_half.controller().run(Flag(), interval_s=0.01)
    assert state.status is Status.COMPLETED
    assert at_half.gateways.deployed == [50.0, 100.0]
    assert at_half.on_disk() == 100.0
    assert "# a comment that stays" in at_half.config.read_text(encoding="utf-8")
    kept = at_half.journal.records()
    assert [k.record.decision.action for k in kept] == [
        Action.START,
        Action.ADVANCE,
        Action.COMPLETE,
    ]
    assert faults(kept) == []
    sealed = at_half.journal.applied(2)
    assert sealed is not None
    assert sealed.record_sha256 == kept[1].sha256
    assert sealed.events_sha256 is not None


def test_an_error_burst_takes_all_traffic_back(at_half: Stage) -> None:
    at_half.log(failures(8))
    state = at_half.controller().run(Flag(), interval_s=0.01)
    assert state.status is Status.ROLLED_BACK
    assert (at_half.gateways.percent, at_half.on_disk()) == (0.0, 0.0)
    with pytest.raises(CommandError, match="is rolled_back"):
        at_half.controller().begin()


def test_a_rollback_does_not_wait_for_an_edited_file_and_leaves_the_edit(at_half: Stage) -> None:
    edited = at_half.config.read_text(encoding="utf-8").replace("salt-1", "salt-2")
    at_half.config.write_text(edited, encoding="utf-8")
    at_half.log(failures(8))
    assert at_half.controller().tick().action is Action.ROLL_BACK
    assert at_half.gateways.percent == 0.0
    assert b"salt-1" in at_half.gateways.running
    assert at_half.config.read_text(encoding="utf-8") == edited


def test_somebody_elses_split_is_left_alone_even_with_harm(at_half: Stage) -> None:
    at_half.gateways.running = at_half.gateways.running.replace(b"50", b"40", 1).replace(
        b"50", b"60", 1
    )
    foreign = at_half.gateways.running
    at_half.log(failures(8))
    state = at_half.controller().run(Flag(), interval_s=0.01)
    assert (state.status, at_half.gateways.running) == (Status.CONFLICT, foreign)


def test_another_cache_with_the_same_split_is_adopted(at_half: Stage) -> None:
    text = at_half.config.read_text(encoding="utf-8")
    edited = text.replace("models: {okla", "cache: {ttl_s: 5}\n          models: {okla")
    at_half.config.write_text(edited, encoding="utf-8")
    at_half.gateways.running = edited.encode()
    controller = at_half.controller()
    assert controller.tick().action is Action.ADOPT
    assert controller.state.served.config_hash == at_half.gateways.active_config()
    at_half.log(failures(8))
    assert controller.tick().action is Action.ROLL_BACK
    assert b"ttl_s: 5" in at_half.gateways.running


def test_a_model_that_was_swapped_meanwhile_stays_swapped(at_half: Stage) -> None:
    at_half.gateways.running = at_half.gateways.running.replace(b"engine: echo", b"engine: vllm")
    at_half.log(failures(8))
    assert at_half.controller().tick().action is Action.ROLL_BACK
    assert at_half.gateways.running.count(b"engine: vllm") == 2


def test_a_rollback_that_failed_is_finished_by_the_next_controller(at_half: Stage) -> None:
    at_half.log(failures(8))
    at_half.gateways.failures = [CommandError("the head node is gone")]
    with pytest.raises(CommandError, match="head node"):
        at_half.controller().tick()
    assert (at_half.gateways.percent, at_half.on_disk()) == (50.0, 50.0)
    state = at_half.controller().run(Flag(), interval_s=0.01)
    assert state.status is Status.ROLLED_BACK
    assert (at_half.gateways.percent, at_half.on_disk()) == (0.0, 0.0)
    assert len(at_half.journal.records()) == 2


def test_a_step_up_that_failed_is_decided_again_on_what_is_known_now(at_half: Stage) -> None:
    at_half.log(at_half.sessions(1500))
    at_half.gateways.failures = [CommandError("busy")]
    with pytest.raises(CommandError, match="busy"):
        at_half.controller().tick()
    at_half.log(failures(15))
    assert at_half.controller().tick().action is Action.ROLL_BACK
    assert at_half.gateways.deployed == [50.0, 0.0]


@pytest.mark.parametrize("killed_at", ["replace_file", "keep_snapshot", "seal"])
def test_a_controller_killed_in_the_middle_of_a_step_is_recovered(
    at_half: Stage, monkeypatch: pytest.MonkeyPatch, killed_at: str
) -> None:
    at_half.log(at_half.sessions(1500))
    owner: object = at_half.gateways if killed_at == "replace_file" else at_half.journal
    with monkeypatch.context() as patch:
        patch.setattr(owner, killed_at, _killed)
        with pytest.raises(KeyboardInterrupt):
            at_half.controller().tick()
    state = at_half.controller().run(Flag(), interval_s=0.01)
    assert (state.status, state.pending) == (Status.COMPLETED, None)
    assert (at_half.gateways.percent, at_half.on_disk()) == (100.0, 100.0)
    assert at_half.gateways.deployed == [50.0, 100.0]


def _killed(*_: object) -> None:
    raise KeyboardInterrupt


def test_an_operator_takes_it_back_also_when_it_is_complete(at_half: Stage) -> None:
    at_half.log(at_half.sessions(1500))
    at_half.controller().run(Flag(), interval_s=0.01)
    assert at_half.controller().roll_back_by_hand().action is Action.ROLL_BACK
    assert (at_half.gateways.percent, at_half.on_disk()) == (0.0, 0.0)


def test_a_request_reaches_the_controller_that_runs(at_half: Stage) -> None:
    at_half.journal.ask_to_roll_back()
    assert at_half.controller().run(Flag(), interval_s=0.01).status is Status.ROLLED_BACK


def test_only_one_controller_drives_a_canary(at_half: Stage) -> None:
    with (
        at_half.journal.locked(),
        pytest.raises(ControllerBusy, match=r"a controller \(process \d+\)"),
        Journal(at_half.journal.folder.parents[1], NAME).locked(),
    ):
        pass


def test_a_changed_evidence_file_is_found_by_the_replay(at_half: Stage) -> None:
    at_half.log(failures(8))
    at_half.controller().tick()
    path = at_half.journal.records()[1].path
    document = json.loads(path.read_text(encoding="utf-8"))
    document["observation"]["treatment"]["errors"] = 0
    path.write_text(json.dumps(document), encoding="utf-8")
    assert "the evidence gives hold" in faults(at_half.journal.records())[0]


def test_a_share_that_is_no_step_is_refused(stage: Stage) -> None:
    text = CONFIG.replace("stable: 100, candidate: 0", "stable: 90, candidate: 10")
    stage.config.write_text(text, encoding="utf-8")
    with pytest.raises(CommandError, match=r"has 10 %, which is no step of the ramp \(50, 100\)"):
        stage.controller().begin()
    assert stage.controller().begin((10.0, 50.0)).plan.steps == (10.0, 50.0)


@pytest.mark.parametrize(
    ("canary", "message"),
    [
        ("{steps: [5, 5]}", "every step must be above"),
        ("{steps: [0, 5]}", "percents above 0"),
        ("{guardrails: {latency_p95: {margin: 1}}}", "is a quantile"),
        ("{guardrails: {}}", "nothing could stop"),
        ("{guardrails: {lead: {margin: 1}}}", "unknown measure"),
        ("{burst: {last: 5, min_errors: 6}}", "above last"),
        ("{pause: 1}", "pause"),
    ],
)
def test_a_bad_declaration_is_refused_by_name(stage: Stage, canary: str, message: str) -> None:
    text = CONFIG.replace("{steps: [50, 100], min_step_s: 0, min_units: 50}", canary)
    stage.config.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        stage.controller().begin()


def test_a_treatment_that_still_gets_copies_is_not_ramped(stage: Stage) -> None:
    shadow = "shadow: {v2: {variant: candidate, of: stable, percent: 10}}"
    text = CONFIG.replace("          experiments:", f"          {shadow}\n          experiments:")
    stage.config.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"shadow\.v2\.variant: 'candidate' answers users"):
        stage.controller().begin()
    assert stage.journal.load() is None


def test_a_server_waits_until_every_gateway_has_the_split(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = ["", "old", "new"]
    deployed: list[ServeConfig] = []
    api: Any = type(
        "Api",
        (),
        {"deploy": lambda _self, raw: deployed.append(raw), "details": lambda _self: {}},
    )()

    def readyz(*_: Any, **__: Any) -> httpx.Response:
        return httpx.Response(200, json={"status": "ready", "config": answers.pop(0)})

    monkeypatch.setattr(httpx, "get", readyz)
    server = Server(stage.config, api, http_url="http://gateway", timeout_s=5)
    server.deploy(stage.config.read_bytes(), "new")
    assert (answers, len(deployed)) == ([], 1)
    answers.extend(["old"] * 100)
    with pytest.raises(CommandError, match="not every gateway runs other"):
        Server(stage.config, api, http_url="http://gateway", timeout_s=0.2).deploy(
            stage.config.read_bytes(), "other"
        )


def test_a_state_survives_its_file(at_half: Stage) -> None:
    state = at_half.journal.require()
    assert to_json(dataclasses.replace(state)) == to_json(at_half.controller().begin())


def test_the_readme_shows_the_defaults() -> None:
    text = (Path(__file__).parents[4] / "README.md").read_text(encoding="utf-8")
    block = text.split("```yaml\ncanary:", 1)[1].split("```", 1)[0]
    shown = CanaryDeclaration.model_validate(yaml.safe_load("canary:" + block)["canary"])
    ours = CanaryDeclaration()
    assert shown.model_dump(exclude={"guardrails"}) == ours.model_dump(exclude={"guardrails"})
    for name, guardrail in ours.guardrails.items():
        found = shown.guardrails[name]
        assert (found.margin, found.effect) == (guardrail.margin, guardrail.effect)


def test_the_example_can_be_deployed_and_ramped() -> None:
    example = Path(__file__).parents[4] / "cluster" / "examples" / "canary_echo.yaml"
    loaded = load_serve_config(example)
    assert list(loaded.app_names) == ["gateway", "okla-stable", "okla-candidate"]
    declared = read_declared(example.read_bytes(), "okla-v1-v2")
    assert (treatment_of(declared.experiment), declared.served.percent) == ("candidate", 0.0)
    # The edit that the README makes.
    assert "echo: {tag: candidate, prefill_s: 0.05, fail_rate: 0}" in example.read_text()
