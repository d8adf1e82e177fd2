"""Streamed answers from a model replica to a gateway over a socket of their own.

A streaming call of Ray Serve makes an object per piece, with its owner, its reference and a message
to the owner about it: a millisecond of two processes' time for 30 bytes of text. Here the call
itself still goes through Serve, which chooses the replica, counts it as busy and cancels it; only
the pieces take the short way.
"""

from serve_app.direct.inbox import Inbox, Incoming, ReplyTo
from serve_app.direct.outlet import Outlet, Unreachable

__all__ = ["Inbox", "Incoming", "Outlet", "ReplyTo", "Unreachable"]
