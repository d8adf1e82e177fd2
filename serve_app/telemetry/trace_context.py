"""W3C Trace Context: which trace a request belongs to, as its headers say it.

References:
    https://www.w3.org/TR/trace-context-2/
"""

import random
import re
from typing import NamedTuple

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_STATE_MEMBER = re.compile(
    r"[a-z0-9][a-z0-9_*/-]{0,255}(@[a-z0-9][a-z0-9_*/-]{0,13})?"
    r"=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
)
_MAX_STATE_CHARS = 512
"""What the standard asks everybody to pass on; anything longer is left out as a whole."""
_MAX_STATE_MEMBERS = 32
_SAMPLED = 0x01
_RANDOM = 0x02


class TraceContext(NamedTuple):
    """A trace, the span in it that the next one is a child of, and whether it is recorded."""

    trace_id: str
    """32 lower-case hex digits, not all zero."""
    span_id: str
    """16 lower-case hex digits, not all zero."""
    sampled: bool
    state: str = ""
    """`tracestate` as it came; handed on, never read."""

    @property
    def traceparent(self) -> str:
        """The header that hands this context on."""
        flags = (_SAMPLED if self.sampled else 0) | _RANDOM
        return f"00-{self.trace_id}-{self.span_id}-{flags:02x}"


def parse(traceparent: str | None, tracestate: str = "") -> TraceContext | None:
    """Read a context from headers; one that is malformed counts as none, as the standard demands.

    Args:
        traceparent: The header, None if there is not exactly one.
        tracestate: The header; several of them joined by commas.
    """
    if traceparent is None:
        return None
    match = _TRACEPARENT.fullmatch(traceparent.strip(" \t"))
    if match is None:
        return None
    version, trace_id, span_id, flags, more = match.groups()
    if version == "ff" or (version == "00" and more):
        return None
    if not trace_id.strip("0") or not span_id.strip("0"):
        return None
    return TraceContext(trace_id, span_id, bool(int(flags, 16) & _SAMPLED), _checked(tracestate))


def new_trace_id() -> str:
    """Return a random trace id."""
    return f"{random.getrandbits(128) or 1:032x}"


def new_span_id() -> str:
    """Return a random span id."""
    return f"{random.getrandbits(64) or 1:016x}"


def in_sample(trace_id: str, ratio: float) -> bool:
    """Return whether a trace is among a share of all, the same in every service that asks so.

    Args:
        trace_id: The trace.
        ratio: Share of traces, 0..1. The rule is that of OpenTelemetry's `TraceIdRatioBased`.
    """
    return int(trace_id[16:], 16) < round(ratio * 2**64)


def _checked(tracestate: str) -> str:
    members = [member.strip(" \t") for member in tracestate.split(",")]
    members = [member for member in members if member]
    joined = ",".join(members)
    if len(joined) > _MAX_STATE_CHARS or len(members) > _MAX_STATE_MEMBERS:
        return ""
    keys = {member.partition("=")[0] for member in members}
    if len(keys) < len(members) or not all(_STATE_MEMBER.fullmatch(m) for m in members):
        return ""
    return joined
