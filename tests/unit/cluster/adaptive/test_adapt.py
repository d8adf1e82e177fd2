"""The controller with real file, journal, event log and analysis; only the gateways are played."""

import json
import random
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from threading import Event as Flag
from typing import Any

import pytest

from cluster.adaptive.controller import Controller
from cluster.adaptive.split import read_declared
from cluster.canary.split import read_declared as read_canary
from cluster.cli.main import run
from cluster.errors import CommandError
from experiments.adaptive.journal import Journal, faults
from experiments.adaptive.records import Action, Code, Decision, State, Status
from experiments.assignment import assign
from experiments.events.records import Event
from experiments.events.store import EventStore
from experiments.steering.errors import ControllerBusy
from serve_app.errors import ConfigError
from tests.unit.cluster.steering.stage import NAME, Gateways, config, percent_of
from tests.unit.experiments.events.builders import exposure, feedback, outcome

CONFIG = config(
    "{stable: 50, candidate: 50}",
    """guardrails: {errors: {margin: 0.1}}
              adaptive: {method: METHOD, every_s: 0.001, min_new_units: 100}""",
)


class Stage:
    """A controller, what it works on, and users."""

    def __init__(self, folder: Path, config: str) -> None:
        self.config = folder / "serve_config.yaml"
        self.config.write_text(config, encoding="utf-8")
        self.gateways = Gateways(self.config)
        self.journal = Journal(folder, NAME)
        self.events = folder / "events" / "events.db"
        self.told: list[Code] = []
        self.draw = random.Random(1)
        self.n = 0

    def controller(self) -> Controller:
        def tell(decision: Decision, _state: State) -> None:
            self.told.append(decision.reasons[0].code)

        return Controller(self.journal, self.gateways, self.events, tell=tell)

    def users(
        self,
        n: int,
        *,
        stable: float,
        candidate: float,
        lost: float = 0.0,
        faster: float = 1.0,
        broken: float = 0.0,
    ) -> None:
        """Log new sessions as gateways would: assigned by the split of now, then judged.

        Of the candidate a share is lost, answers take a part of the time, and a share fails.
        """
        found: list[Event] = []
        declared = read_declared(self.gateways.running, NAME)
        split = declared.experiment.to_allocation()
        for _ in range(n):
            self.n += 1
            unit = f"u{self.n:06d}"
            made = assign(unit, split, salt="salt-1")
            if made.variant == "candidate" and self.draw.random() < lost:
                continue
            arm = {"variant": made.variant, "model_sha256": ""}
            treated = made.variant == "candidate"
            hash_ = declared.served.config_hash
            at = time.time() - 1
            found += [
                exposure(
                    unit,
                    probability=made.probability,
                    bucket=made.bucket,
                    exposed_at=at,
                    config_hash=hash_,
                    inference_id=unit,
                    **arm,
                ),
                outcome(
                    unit,
                    unit=unit,
                    finished_at=at + 0.5,
                    config_hash=hash_,
                    variant=made.variant,
                    duration_s=self.draw.lognormvariate(0, 0.5) * (faster if treated else 1.0),
                    status="error" if treated and self.draw.random() < broken else "ok",
                ),
                feedback(
                    f"f-{unit}",
                    target=unit,
                    received_at=at + 0.6,
                    value=float(
                        self.draw.random() < (stable if made.variant == "stable" else candidate)
                    ),
                ),
            ]
        store = EventStore(self.events)
        store.append(found)
        store.close()

    def percent(self) -> float:
        return percent_of(self.config.read_bytes())


@pytest.fixture
def make_stage(tmp_path: Path) -> Callable[..., Stage]:
    def make(method: str = "thompson") -> Stage:
        return Stage(tmp_path, CONFIG.replace("METHOD", method))

    return make


@pytest.fixture
def stage(make_stage: Callable[..., Stage]) -> Stage:
    return make_stage()


@pytest.mark.parametrize("method", ["thompson", "track_and_stop"])
def test_the_split_follows_the_results_until_the_better_variant_is_recommended(
    make_stage: Callable[..., Stage], method: str
) -> None:
    stage = make_stage(method)
    controller = stage.controller()
    controller.begin()
    for _ in range(40):
        stage.users(200, stable=0.6, candidate=0.68)
        if controller.tick().action is Action.RECOMMEND:
            break
    state = controller.state
    assert state.status is Status.RECOMMENDED
    kept = stage.journal.records()
    advice = kept[-1].record.decision.recommendation
    assert advice is not None
    assert (advice.verdict.value, advice.variant) == ("PROMOTE_B", "candidate")
    # Another controller, the same evidence, the same decisions: seeds included.
    assert faults(kept) == []
    assert "# a comment that stays" in stage.config.read_text(encoding="utf-8")
    assert stage.percent() == dict(state.served.percent)["candidate"]
    if method != "track_and_stop":
        assert stage.gateways.deployed
        assert max(stage.gateways.deployed) > 50
    steps = [50.0, *stage.gateways.deployed]
    assert all(abs(b - a) <= 20.0 + 1e-9 for a, b in pairwise(steps))
    assert all(10.0 <= split <= 90.0 for split in steps)
    with pytest.raises(CommandError, match="has its recommendation"):
        stage.controller().begin()


@pytest.mark.parametrize(
    ("metrics", "users"),
    [
        ("latency: {role: primary}", {"faster": 0.9}),
        ("leads: {measure: feedback.thumbs, unrated: zero, role: primary}", {"candidate": 0.66}),
        ("errors: {role: primary}", {"broken": 0.04}),
    ],
)
def test_it_follows_ratios_means_and_rates_in_their_good_direction(
    make_stage: Callable[..., Stage], metrics: str, users: dict[str, float]
) -> None:
    stage = make_stage()
    text = stage.config.read_text(encoding="utf-8").replace(
        "guardrails: {errors: {margin: 0.1}}",
        f"metrics: {{{metrics}}}\n              guardrails: {{aborts: {{margin: 0.3}}}}",
    )
    stage.config.write_text(text, encoding="utf-8")
    stage.gateways.running = text.encode()
    controller = stage.controller()
    controller.begin()
    likes: dict[str, Any] = {"stable": 0.6, "candidate": 0.6, **users}
    stage.users(1200, **likes)
    decision = controller.tick()
    worse = "stable" if "broken" not in users else "candidate"
    assert dict(decision.best)[worse] < 0.1, decision


def test_before_there_are_results_the_shares_are_equal(stage: Stage) -> None:
    text = stage.config.read_text(encoding="utf-8").replace(
        "{stable: 50, candidate: 50}", "{stable: 95, candidate: 5}"
    )
    stage.config.write_text(text, encoding="utf-8")
    stage.gateways.running = text.encode()
    controller = stage.controller()
    controller.begin()
    assert controller.tick().reasons[0].code is Code.BURN_IN
    assert stage.gateways.deployed == [50.0]
    stage.users(100, stable=0.1, candidate=0.9)
    assert controller.tick().action is Action.HOLD
    assert stage.gateways.deployed == [50.0]


def test_a_split_that_loses_sessions_of_one_variant_moves_nothing(stage: Stage) -> None:
    controller = stage.controller()
    controller.begin()
    stage.users(1500, stable=0.6, candidate=0.65, lost=0.25)
    decision = controller.tick()
    assert (decision.action, decision.reasons[0].code) == (Action.HOLD, Code.UNHEALTHY)
    assert "SAMPLE_RATIO_MISMATCH" in decision.reasons[0].detail
    assert stage.gateways.deployed == []


def test_a_breached_guardrail_ends_with_the_control(stage: Stage) -> None:
    controller = stage.controller()
    controller.begin()
    stage.users(600, stable=0.6, candidate=0.6)
    store = EventStore(stage.events)
    units = store._db.execute("SELECT unit FROM exposures WHERE variant = 'candidate'").fetchall()
    store.append(
        outcome(f"e{unit}", unit=unit, variant="candidate", status="error", finished_at=time.time())
        for (unit,) in units
    )
    store.close()
    decision = controller.tick()
    assert decision.reasons[0].code is Code.GUARDRAIL_BREACHED
    assert decision.recommendation is not None
    assert decision.recommendation.verdict.value == "KEEP_A"


def test_somebody_elses_split_is_left_alone_and_an_edit_is_not_deployed(stage: Stage) -> None:
    controller = stage.controller()
    controller.begin()
    stage.users(600, stable=0.6, candidate=0.65)
    text = stage.config.read_text(encoding="utf-8")
    stage.config.write_text(text.replace("margin: 0.1", "margin: 0.2"), encoding="utf-8")
    assert controller.tick().reasons[0].code is Code.FILE_EDITED
    assert stage.gateways.deployed == []
    stage.gateways.running = text.replace(
        "stable: 50, candidate: 50", "stable: 70, candidate: 30"
    ).encode()
    assert controller.tick().action is Action.REFUSE
    assert controller.state.status is Status.CONFLICT
    assert stage.gateways.deployed == []


def test_a_deployment_that_failed_is_finished_by_the_next_controller(stage: Stage) -> None:
    controller = stage.controller()
    controller.begin()
    stage.users(600, stable=0.6, candidate=0.64)
    stage.gateways.failures = [CommandError("no cluster")]
    with pytest.raises(CommandError, match="no cluster"):
        controller.tick()
    pending = controller.state.pending
    assert pending is not None
    stage.controller().tick()
    state = stage.journal.require()
    assert (state.pending, state.served) == (None, pending)
    assert stage.percent() == pending.percent["candidate"]
    assert len(stage.journal.records()) == 1
    assert faults(stage.journal.records()) == []


def test_a_split_that_comes_into_force_while_it_is_looked_at_is_nobody_elses(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    controller = stage.controller()
    controller.begin()
    stage.users(600, stable=0.6, candidate=0.64)
    stage.gateways.failures = [CommandError("not every gateway runs it")]
    with pytest.raises(CommandError, match="not every gateway"):
        controller.tick()
    wanted = controller.state.pending
    assert wanted is not None
    agreed = iter(["", wanted.config_hash])
    monkeypatch.setattr(Gateways, "active_config", lambda _self: next(agreed, ""))
    decision = controller.tick()
    assert (decision.action, decision.reasons[0].code) == (Action.HOLD, Code.CONFIG_UNKNOWN)
    monkeypatch.undo()
    controller.tick()
    assert controller.state.status is Status.LEARNING
    assert controller.state.served == wanted


def test_another_cache_with_the_same_split_is_adopted(stage: Stage) -> None:
    controller = stage.controller()
    controller.begin()
    text = stage.config.read_text(encoding="utf-8")
    edited = text.replace("models: {okla", "cache: {ttl_s: 5}\n          models: {okla")
    stage.config.write_text(edited, encoding="utf-8")
    stage.gateways.running = edited.encode()
    assert controller.tick().action is Action.ADOPT
    assert controller.state.served.config_hash == stage.gateways.active_config()


def test_it_runs_until_it_is_stopped_and_only_once_at_a_time(stage: Stage) -> None:
    stop = Flag()
    stop.set()
    with stage.journal.locked():
        controller = stage.controller()
        controller.begin()
        assert controller.run(stop, interval_s=0.01).status is Status.LEARNING
        with (
            pytest.raises(ControllerBusy, match="moves the split of 'exp'"),
            stage.journal.locked(),
        ):
            pass


def test_a_split_that_is_not_declared_to_move_is_refused(stage: Stage) -> None:
    text = stage.config.read_text(encoding="utf-8")
    stage.config.write_text(
        text.split("              adaptive:")[0]
        + "  - name: okla-stable"
        + text.split("  - name: okla-stable")[1],
        encoding="utf-8",
    )
    with pytest.raises(ConfigError, match="a split that stays"):
        stage.controller().begin()


def test_the_commands_show_and_replay_what_was_decided(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CARRIL_HOME", str(stage.config.parent))
    controller = stage.controller()
    controller.begin()
    for _ in range(3):
        stage.users(400, stable=0.6, candidate=0.66)
        controller.tick()
    capsys.readouterr()
    assert run(["exp", "adapt", "status", NAME, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["percent"] == dict(controller.state.served.percent)
    assert document["best"]["candidate"] > 0.5
    assert run(["exp", "adapt", "status", NAME]) == 0
    assert run(["exp", "adapt", "history", NAME, "--replay"]) == 0
    told = capsys.readouterr()
    assert "decisions follow from their evidence" in told.err
    path = stage.journal.records()[-1].path
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace('"seed": 0', '"seed": 1'), encoding="utf-8")
    assert run(["exp", "adapt", "history", NAME, "--replay"]) == 1
    assert run(["exp", "adapt", "status", "none"]) == 1
    assert "nothing has moved the split of 'none' yet" in capsys.readouterr().err
    assert run(["exp", "adapt", "status", "../x"]) == 2


def test_an_explanation_names_the_kept_variant_and_a_canary_keeps_out(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CARRIL_HOME", str(stage.config.parent))
    stage.users(40, stable=0.5, candidate=0.5)
    store = EventStore(stage.events)
    first = dict(store._db.execute("SELECT unit, variant FROM exposures").fetchall())
    store.close()
    text = stage.config.read_text(encoding="utf-8").replace(
        "{stable: 50, candidate: 50}", "{stable: 0, candidate: 100}"
    )
    stage.config.write_text(text, encoding="utf-8")
    for unit, variant in [*first.items(), ("new", "candidate")]:
        arguments = ["exp", "assign", "--unit", unit, "--config", str(stage.config), "--json"]
        assert run(arguments) == 0
        (row,) = json.loads(capsys.readouterr().out)["placements"]
        assert row["variant"] == variant
        assert row["probability"] == (1.0 if unit == "new" else 0.5)
        assert (row["rules"][-1]["rule"] == "kept") is (unit != "new")
    with pytest.raises(ConfigError, match="a canary would move its split, too"):
        read_canary(stage.config.read_bytes(), NAME)


def test_the_analysis_weighs_periods_and_says_so(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Everything gets better with time while the split moves: pooled, that would be an effect."""
    monkeypatch.setenv("CARRIL_HOME", str(stage.config.parent))
    for candidate, rate in ((10, 0.3), (50, 0.5), (90, 0.8)):
        weights = f"{{stable: {100 - candidate}, candidate: {candidate}}}"
        text = CONFIG.replace("METHOD", "thompson").replace("{stable: 50, candidate: 50}", weights)
        stage.config.write_text(text, encoding="utf-8")
        stage.gateways.running = text.encode()
        stage.users(1500, stable=rate, candidate=rate)
    capsys.readouterr()
    arguments = ["exp", "show", NAME, "--config", str(stage.config), "--json"]
    assert run(arguments) == 0
    document = json.loads(capsys.readouterr().out)
    (thumbs,) = [
        m
        for m in document["metrics"]
        if m["name"] == "thumbs" and m["population"] == "intention_to_treat"
    ]
    assert thumbs["method"] == "post_stratified_asymptotic_cs"
    assert thumbs["ci_lower"] < 0 < thumbs["ci_upper"]
    assert abs(thumbs["effect"]) < 0.06
    assert any("3 periods are compared within each" in note for note in document["health"]["notes"])
    assert document["health"]["srm_sequential_p"] > 0.01
    assert document["verdict"] == "NO_CLEAR_WINNER"
    assert (
        run(
            [
                "exp",
                "decide",
                NAME,
                "--config",
                str(stage.config),
                "--evidence",
                str(stage.config.parent / "e.json"),
            ]
        )
        == 5
    )
    assert run(["exp", "decide", "--replay", str(stage.config.parent / "e.json")]) == 5
    # The naive way, for the record: all sessions in one pot show a large effect that is not there.
    rows = EventStore(stage.events, read_only=True)._db.execute(
        "SELECT e.variant, AVG(f.value) FROM exposures e JOIN feedback f ON f.target = e.unit "
        "GROUP BY e.variant"
    )
    rates = dict(rows.fetchall())
    assert rates["candidate"] - rates["stable"] > 0.2
    page = stage.config.parent / "r.html"
    monkeypatch.setenv("CARRIL_TRACKING", "off")
    assert run(["exp", "report", NAME, "--config", str(stage.config), "--out", str(page)]) == 0
    shown = capsys.readouterr().out
    # What the arms were to have, over all periods, not what they have now.
    assert "50.00 %" in shown
    assert "3 periods are compared within each" in page.read_text(encoding="utf-8")
    assert run([*arguments[:-1], "--phase", "1", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert {m["method"] for m in document["metrics"] if m["name"] == "thumbs"} == {"asymptotic_cs"}
