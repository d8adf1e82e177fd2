"""What the replica and its helper process say to each other about grammars."""

import struct

HEADER = struct.Struct("<I")
"""Length in bytes of the grammar that follows; the answer is one byte."""
READY = b"R"
"""Sent once, when the tokenizer is loaded."""
ACCEPTED = b"+"
REFUSED = b"-"
