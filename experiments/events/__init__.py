"""The event log: exposures before a call, outcomes and feedback after it, durable when told so."""

from experiments.events.records import (
    Event,
    Exposure,
    Feedback,
    Outcome,
    Transcript,
    decode,
    encode,
)
from experiments.events.store import EventStore

__all__ = [
    "Event",
    "EventStore",
    "Exposure",
    "Feedback",
    "Outcome",
    "Transcript",
    "decode",
    "encode",
]
