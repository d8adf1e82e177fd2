"""The file that a decision leaves behind: evidence and decision together, replayable."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pydantic import ConfigDict

from experiments.decision.codec import from_json, to_json
from experiments.decision.engine import decide
from experiments.decision.evidence import SCHEMA_VERSION, Evidence
from experiments.decision.verdict import Decision
from experiments.whole_file import write_whole


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What was known and what was decided."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    schema_version: int = SCHEMA_VERSION
    evidence: Evidence
    decision: Decision


def write(record: Record, path: Path) -> None:
    """Write a record for people and machines, atomically.

    Args:
        record: The record.
        path: Target file; its directory must exist.
    """
    write_whole(path, to_json(record, indent=2).encode())


def read(text: str | bytes) -> Record:
    """Read a record.

    Raises:
        UnreadableRecord: If it is not one, or is newer than this code.
    """
    return from_json(Record, text)


def replay(record: Record) -> Decision:
    """Decide again from the record's evidence and policy.

    The record holds what the decision says if `to_json` of both is equal, byte for byte.
    """
    return decide(record.evidence, record.decision.policy)
