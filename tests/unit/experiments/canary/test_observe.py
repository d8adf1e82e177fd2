"""What the log says about a step, from event files like a gateway's."""

import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from experiments.analysis.log import open_log
from experiments.canary.machine import decide
from experiments.canary.observe import look_at, recent_of
from experiments.canary.records import Action, Burst, Code, Served, State
from experiments.events.records import Event
from serve_app.gateway.inference_ids import InferenceIds
from tests.unit.experiments.analysis.sessions import declaration, exposed, write
from tests.unit.experiments.canary.builders import plan, seen, state
from tests.unit.experiments.events.builders import outcome

IDS = InferenceIds(b"s" * 32)
BURST = Burst(last=20, min_errors=5, min_sessions=3, share=0.5, max_age_s=60)
SERVED = Served(percent=50.0, config_hash="0123456789ab", file_sha256="f" * 64)


def canary(**changes: object) -> State:
    return state(served=SERVED, step_at=time.time() - 1000, step=3, **changes)


def sessions(n: int, *, slower: float = 1.0, errors_every: int = 0) -> Iterator[Event]:
    """Yield n sessions with two answers each; the treatment's are slower, or fail."""
    now = time.time()
    for number in range(n):
        exposure = exposed(f"u{number:06d}", exposed_at=now - 50)
        treated = exposure.variant == "candidate"
        yield exposure
        for turn in range(2):
            fails = treated and errors_every and number % errors_every == 0
            yield outcome(
                IDS.new("chatcmpl", "default"),
                unit=exposure.unit,
                variant=exposure.variant,
                finished_at=now - 40 + number / 1000,
                status="error" if fails else "ok",
                error_code="engine_failed" if fails else None,
                duration_s=(0.5 + (number % 7) / 100 + turn / 50) * (slower if treated else 1.0),
            )


def test_equal_arms_pass_their_guardrails(tmp_path: Path) -> None:
    path = write(tmp_path / "events.db", sessions(2000))
    with open_log(path) as log:
        look = look_at(log, canary(), declaration(), alpha=0.0125, min_units=100, now=time.time())
    assert look is not None
    assert look.n_control + look.n_treatment == 2000
    assert [metric.name for metric in look.guardrails] == ["errors", "latency"]
    assert all(metric.always_valid for metric in look.guardrails)
    observation = seen(at=time.time(), active_config=SERVED.config_hash, file=SERVED, look=look)
    assert decide(canary(), observation).action is Action.ADVANCE


@pytest.mark.parametrize(("slower", "errors_every"), [(2.0, 0), (1.0, 4)], ids=["slow", "failing"])
def test_harm_beyond_the_margin_is_a_breach(
    tmp_path: Path, slower: float, errors_every: int
) -> None:
    path = write(tmp_path / "events.db", sessions(1500, slower=slower, errors_every=errors_every))
    with open_log(path) as log:
        look = look_at(log, canary(), declaration(), alpha=0.0125, min_units=100, now=time.time())
    observation = seen(at=time.time(), active_config=SERVED.config_hash, file=SERVED, look=look)
    decision = decide(canary(), observation)
    assert decision.action is Action.ROLL_BACK
    assert decision.reasons[0].code is Code.GUARDRAIL_BREACHED


def test_sessions_of_another_step_do_not_count(tmp_path: Path) -> None:
    path = write(tmp_path / "events.db", sessions(100))
    other = dataclasses.replace(SERVED, config_hash="b" * 12)
    with open_log(path) as log:
        assert (
            look_at(
                log,
                dataclasses.replace(canary(), served=other),
                declaration(),
                alpha=0.05,
                min_units=100,
                now=time.time(),
            )
            is None
        )


def test_the_latest_answers_are_found_by_the_range_of_their_ids(tmp_path: Path) -> None:
    now = time.time()
    answers = [
        outcome(
            IDS.new(prefix, "default"),
            unit=f"u{number}",
            variant=variant,
            finished_at=now - 10 + number / 100,
            status=status,
            error_code=code,
        )
        for prefix in ("chatcmpl", "cmpl")
        for number in range(15)
        for variant, status, code in (
            ("stable", "ok", None),
            ("candidate", "error", "engine_failed"),
        )
    ]
    path = write(tmp_path / "events.db", answers)
    with open_log(path) as log:
        bad = recent_of(log, canary(), "candidate", BURST, now=now)
        good = recent_of(log, canary(), "stable", BURST, now=now)
        later = recent_of(log, canary(), "candidate", BURST, now=now + 100)
    assert (bad.answers, bad.errors, bad.codes) == (20, 20, ("engine_failed",))
    assert bad.error_sessions >= 10
    assert (good.answers, good.errors) == (20, 0)
    assert later.answers == 0


def test_answers_from_before_the_step_and_from_the_cache_do_not_count(tmp_path: Path) -> None:
    now = time.time()
    path = write(
        tmp_path / "events.db",
        [
            outcome(IDS.new("chatcmpl", "t"), variant="candidate", finished_at=now - 30),
            outcome(IDS.new("chatcmpl", "t"), variant="candidate", finished_at=now, cache="hit"),
            outcome(IDS.new("chatcmpl", "t"), variant="candidate", finished_at=now),
        ],
    )
    fresh = dataclasses.replace(canary(), step_at=now - 20)
    with open_log(path) as log:
        assert recent_of(log, fresh, "candidate", BURST, now=now + 1).answers == 1


def test_the_plan_of_a_declaration_keeps_its_numbers() -> None:
    ours = plan(steps=[2, 100], burst={"last": 30})
    assert (ours.steps, ours.burst.last) == ((2.0, 100.0), 30)
