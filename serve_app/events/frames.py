"""What goes over the event writer's socket: a number, a length, and JSON.

A request is a batch of events, its reply what the log keeps of the enrolments among them, or why
nothing was stored. JSON and not pickle, as in `serve_app.direct`.
"""

import struct
from collections.abc import Sequence

import orjson

from experiments.events.records import (
    Enrolment,
    Event,
    Exposure,
    Feedback,
    Kept,
    Outcome,
    Transcript,
)

HEADER = struct.Struct("!II")
"""Number of the request, which its reply repeats, and bytes of what follows."""
MAX_FRAME_BYTES = 64 << 20

_KINDS = {"x": Exposure, "o": Outcome, "f": Feedback, "t": Transcript}
_ENROLMENT = "e"
_NAMES = {record: kind for kind, record in _KINDS.items()}


class NotStored(Exception):
    """The writer says that it could not store a batch."""


def frame(number: int, payload: bytes) -> bytes:
    """Return what is sent."""
    return HEADER.pack(number, len(payload)) + payload


def encode_events(events: Sequence[Event]) -> bytes:
    """Return a batch as it is sent.

    Raises:
        TypeError: If a text has half of a surrogate pair, or a number more than 64 bits.
    """
    return orjson.dumps(
        [
            (_ENROLMENT, event.exposure)
            if isinstance(event, Enrolment)
            else (_NAMES[type(event)], event)
            for event in events
        ]
    )


def decode_events(payload: bytes) -> list[Event]:
    """Return the batch that `encode_events` was given.

    Raises:
        ValueError: If it is none.
    """
    try:
        return [
            Enrolment(Exposure(**fields)) if kind == _ENROLMENT else _KINDS[kind](**fields)
            for kind, fields in orjson.loads(payload)
        ]
    except (KeyError, TypeError) as error:
        raise ValueError(f"no batch of events: {error}") from error


def encode_kept(kept: Sequence[Kept]) -> bytes:
    """Return the reply to a batch that is stored."""
    return orjson.dumps({"kept": [tuple(one) for one in kept]})


def encode_error(reason: str) -> bytes:
    """Return the reply to a batch that is not."""
    return orjson.dumps({"error": reason.encode(errors="replace").decode()})


def decode_reply(payload: bytes) -> Sequence[Kept]:
    """Return what the log keeps of a batch's enrolments, in their order.

    Raises:
        NotStored: If the writer could not store the batch.
        ValueError: If it is no reply.
    """
    try:
        reply = orjson.loads(payload)
        if "error" in reply:
            raise NotStored(reply["error"])
        return [Kept(*one) for one in reply["kept"]]
    except (KeyError, TypeError) as error:
        raise ValueError(f"no reply of the event writer: {error}") from error
