"""W3C Trace Context: what is understood, what counts as absent, and the sampling rule."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace.sampling import Decision, TraceIdRatioBased
from opentelemetry.trace import TraceState

from serve_app.telemetry.trace_context import (
    TraceContext,
    in_sample,
    new_span_id,
    new_trace_id,
    parse,
)

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"


@pytest.mark.parametrize(
    ("header", "sampled"),
    [
        pytest.param(f"00-{TRACE}-{SPAN}-01", True, id="sampled"),
        pytest.param(f"00-{TRACE}-{SPAN}-00", False, id="not sampled"),
        pytest.param(f"00-{TRACE}-{SPAN}-03", True, id="level 2 flags"),
        pytest.param(f"00-{TRACE}-{SPAN}-02", False, id="random, not sampled"),
        pytest.param(f"cc-{TRACE}-{SPAN}-01-what-the-future-brings", True, id="later version"),
        pytest.param(f" 00-{TRACE}-{SPAN}-01\t", True, id="space around it"),
    ],
)
def test_context_is_read(header: str, sampled: bool) -> None:
    assert parse(header) == TraceContext(TRACE, SPAN, sampled)


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"cc-{TRACE}-{SPAN}-01.more",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE[:-1]}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE}-{SPAN}",
        f"00_{TRACE}_{SPAN}_01",
        f"00-{TRACE}-{SPAN}-01\n00-{TRACE}-{SPAN}-01",
    ],
)
def test_what_is_malformed_counts_as_none(header: str | None) -> None:
    assert parse(header, "vendor=1") is None


@pytest.mark.parametrize(
    ("given_state", "kept"),
    [
        ("a=1", "a=1"),
        ("a=1,b=2", "a=1,b=2"),
        (" a=1 ,, b=2\t", "a=1,b=2"),
        ("tenant@system=x y", "tenant@system=x y"),
        ("a=1,a=2", ""),
        ("Upper=1", ""),
        ("a=ó", ""),
        ("no value", ""),
        ("a=" + "x" * 510, ""),
        (",".join(f"k{i}=1" for i in range(33)), ""),
        ("a=1\r\nset-cookie: x=1", ""),
    ],
)
def test_state_is_handed_on_as_it_is_or_left_out(given_state: str, kept: str) -> None:
    context = parse(f"00-{TRACE}-{SPAN}-01", given_state)
    assert context is not None
    assert context.state == kept
    if kept:
        assert TraceState.from_header([kept]).to_header() == kept


def test_what_is_handed_on_is_understood() -> None:
    for sampled in (True, False):
        context = TraceContext(new_trace_id(), new_span_id(), sampled)
        assert parse(context.traceparent) == context


@given(st.integers(1, 2**128 - 1), st.floats(0, 1))
def test_sample_is_that_of_opentelemetry(trace_id: int, ratio: float) -> None:
    theirs = TraceIdRatioBased(ratio).should_sample(None, trace_id, "x").decision
    assert in_sample(f"{trace_id:032x}", ratio) == (theirs is Decision.RECORD_AND_SAMPLE)


def test_share_of_a_sample_is_its_ratio() -> None:
    n = sum(in_sample(new_trace_id(), 0.25) for _ in range(20_000))
    assert abs(n - 5000) < 5 * (20_000 * 0.25 * 0.75) ** 0.5
