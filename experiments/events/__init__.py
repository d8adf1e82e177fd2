"""The event log: exposures before a call, outcomes after it, durable before they count."""

from experiments.events.records import Event, Exposure, Outcome, decode, encode
from experiments.events.store import EventStore

__all__ = ["Event", "EventStore", "Exposure", "Outcome", "decode", "encode"]
