"""Routing rules: pure, sticky, explained."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.assignment import assign
from serve_app.errors import ModelNotFound
from serve_app.gateway.policy import Policy
from serve_app.gateway.unit import Unit
from tests.unit.gateway.builders import gateway_config, raw_config


def policy(stable: int = 90) -> Policy:
    experiments = raw_config()["experiments"]["okla-v1-v2"]
    split = {"stable": stable, "candidate": 100 - stable}
    return Policy(gateway_config(experiments={"okla-v1-v2": experiments | {"allocation": split}}))


@given(st.text(min_size=1))
def test_same_unit_gets_the_same_variant_under_every_name_of_an_experiment(unit: str) -> None:
    one = policy().decide("okla-chat", Unit(unit, "user"))
    two = policy().decide("okla-chat:text", Unit(unit, "x-session-id"))
    assert one.variant == two.variant
    assert one.assignment == two.assignment
    config = gateway_config().experiments["okla-v1-v2"]
    assert one.assignment == assign(unit, config.to_allocation(), salt="okla-v1-v2")


@given(st.text(min_size=1), st.integers(10, 90))
def test_sticky_session_moves_from_control_to_treatment_only_when_weights_change(
    unit: str, stable: int
) -> None:
    before = policy(90).decide("okla-chat", Unit(unit, "user")).variant
    after = policy(stable).decide("okla-chat", Unit(unit, "user")).variant
    assert before == after or (before, after) == ("stable", "candidate")


def test_enrolled_decision_says_everything_that_the_log_needs() -> None:
    decision = policy().decide("okla-chat", Unit("u1", "user"))
    assert (decision.exposure, decision.experiment) == ("enrolled", "okla-v1-v2")
    assert (decision.version, decision.unit) == (1, "u1")
    assert decision.assignment is not None
    assert decision.assignment.probability in {0.9, 0.1}


def test_without_a_unit_control_answers_and_nothing_is_enrolled() -> None:
    decision = policy(0).decide("okla-chat", None)
    assert (decision.variant, decision.exposure) == ("stable", "none")
    assert (decision.experiment, decision.reason) == (None, "no_unit")


@pytest.mark.parametrize("variant", ["stable", "candidate"])
def test_pinned_variant_is_kept_out_of_the_experiment(variant: str) -> None:
    decision = policy().decide(f"okla-chat@{variant}", Unit("u1", "user"))
    assert (decision.variant, decision.exposure) == (variant, "pinned")
    assert (decision.experiment, decision.reason) == (None, None)


def test_pinning_a_text_model_keeps_it_a_text_model() -> None:
    decision = policy().decide("okla-chat:text@candidate", None)
    assert (decision.served_model, decision.content) == ("okla-chat:text", "text")


def test_model_with_one_variant_enrols_nobody() -> None:
    decision = policy().decide("fixed", Unit("u1", "user"))
    assert (decision.variant, decision.exposure) == ("candidate", "none")


@pytest.mark.parametrize(
    ("model", "names"),
    [
        pytest.param("gpt-4", ["'gpt-4'", "okla-chat, okla-chat:text, fixed"], id="unknown"),
        pytest.param("okla-chat@nobody", ["candidate, stable"], id="unknown variant"),
        pytest.param("okla-chat@", ["candidate, stable"], id="empty variant"),
        pytest.param("@stable", ["okla-chat"], id="no model"),
        pytest.param("OKLA-CHAT", ["okla-chat"], id="case"),
        pytest.param("x" * 256, ["..."], id="long"),
    ],
)
def test_unknown_model_names_the_known_ones(model: str, names: list[str]) -> None:
    with pytest.raises(ModelNotFound) as caught:
        policy().decide(model, None)
    assert (caught.value.status, caught.value.param) == (404, "model")
    for name in names:
        assert name in caught.value.message
    assert len(caught.value.message) < 200
