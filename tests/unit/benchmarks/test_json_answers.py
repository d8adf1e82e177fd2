import json

import pytest

from serve_app.engines.schema import subset
from tests.benchmarks.sides import Loaded
from tests.benchmarks.stream_load import Result
from tests.benchmarks.test_json_answers import (
    bounded,
    is_valid,
    okla_schema,
    planned,
    summarise,
    with_best_peer,
)

GOOD = {
    "intent": "saludo",
    "confidence": 90,
    "response": "Klk",
    "leadSignals": {
        "urgency": "low",
        "financing": False,
        "tradeIn": False,
        "testDrive": False,
        "contactProvided": False,
    },
    "handoff": False,
    "quickReplies": ["Sí"],
}


def answer(value: object, *, finish_reason: str = "stop") -> Result:
    text = value if isinstance(value, str) else json.dumps(value)
    return Result(
        label="", text=text, finish_reason=finish_reason, ttft_s=0.1, completion_tokens=40
    )


@pytest.mark.parametrize(
    ("result", "valid"),
    [
        pytest.param(answer(GOOD), True, id="good"),
        pytest.param(answer(GOOD, finish_reason="length"), False, id="cut"),
        pytest.param(answer('{"intent": "sal'), False, id="no JSON"),
        pytest.param(answer({**GOOD, "intent": "x"}), False, id="not in the enum"),
        pytest.param(answer({**GOOD, "confidence": 101}), False, id="out of range"),
        pytest.param(answer({**GOOD, "response": "x" * 41}), False, id="too long"),
        pytest.param(answer({**GOOD, "quickReplies": ["x" * 13]}), False, id="item too long"),
    ],
)
def test_only_answers_that_follow_the_schema_count(result: Result, valid: bool) -> None:
    assert is_valid(result, bounded(okla_schema())) is valid


def test_rates_count_valid_answers() -> None:
    schema = bounded(okla_schema())
    found = {
        "carril": [Loaded([answer(GOOD)] * 4, 2.0, 0.0)],
        "a": [Loaded([answer(GOOD)] * 2 + [answer("no")] * 2, 2.0, 0.0)],
        "b": [Loaded([answer(GOOD)] * 4, 2.5, 0.0)],
    }
    compared, absolutes = summarise(found, schema, "json")
    assert compared["json_vs_a"].median == 2.0
    assert with_best_peer(compared, "json_vs")["json_vs"].median == 1.25
    assert compared["json_tokens_per_s_vs_a"].median == 1.0
    assert absolutes["a_json_valid_rate"].median == 0.5
    assert absolutes["carril_json_requests_per_min"].median == 120


def test_schemas_are_within_what_carril_accepts() -> None:
    for schema in (okla_schema(), bounded(okla_schema())):
        (request,) = planned(["hola"], "Eres útil.", schema)
        wanted = request.body["response_format"]["json_schema"]["schema"]
        subset.parse_schema(json.dumps(wanted))
