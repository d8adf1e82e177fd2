"""Records survive the spool; what cannot be understood is refused."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.events.records import SCHEMA_VERSION, Enrolment, Event, decode, encode
from tests.unit.experiments.events.builders import exposure, outcome


@given(st.text(min_size=1), st.floats(0.0001, 1), st.booleans())
def test_exposure_round_trip(unit: str, probability: float, cached: bool) -> None:
    event = exposure(unit, probability=probability, cached=cached)
    line = encode(event)
    assert "\n" not in line
    assert decode(line) == event


@pytest.mark.parametrize("event", [exposure(), outcome(), outcome(unit=None, ttft_s=None)])
def test_event_round_trip(event: Event) -> None:
    assert decode(encode(event)) == event


def test_an_enrolment_is_spooled_as_the_exposure_that_it_was() -> None:
    assert decode(encode(Enrolment(exposure()))) == exposure()


@pytest.mark.parametrize(
    "line",
    [
        "",
        "{",
        "null",
        "[]",
        '"x"',
        "{}",
        '{"kind": "other"}',
        '{"kind": "exposure", "schema_version": 1}',
        encode(exposure())[:-20],
        json.dumps(json.loads(encode(exposure())) | {"surprise": 1}),
        json.dumps(json.loads(encode(exposure())) | {"schema_version": "one"}),
    ],
)
def test_damaged_line_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match="not an event"):
        decode(line)


def test_newer_record_is_refused_by_version() -> None:
    newer = json.loads(encode(exposure())) | {"schema_version": SCHEMA_VERSION + 1, "extra": 1}
    with pytest.raises(ValueError, match=f"schema version {SCHEMA_VERSION + 1}"):
        decode(json.dumps(newer))
