"""What the loop did: one line for every submitted retraining, append-only."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from experiments.retraining.errors import BadRecord

SCHEMA_VERSION = 1


class Submission(BaseModel):
    """A retraining that was handed to the cluster."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Annotated[int, Field(ge=1, le=SCHEMA_VERSION)] = SCHEMA_VERSION
    at: AwareDatetime
    by: str
    submission_id: str
    dataset: str
    """Folder name of the dataset."""
    dataset_sha256: str
    config: str


def retrain_home(home: Path) -> Path:
    """Return where the loop keeps its records, below `CARRIL_HOME`."""
    return home / "retrain"


def read_history(home: Path) -> Sequence[Submission]:
    """Return the submissions, oldest first.

    Raises:
        BadRecord: If a line cannot be used; the message has its number.
    """
    path = retrain_home(home) / "history.jsonl"
    found = []
    for number, line in enumerate(complete_lines(path), start=1):
        try:
            found.append(Submission.model_validate_json(line))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise BadRecord(f"{path}:{number}: {first['loc']}: {first['msg']}") from error
    return found


def record_submission(home: Path, submission: Submission) -> None:
    """Append a submission; it is on the disk when this returns."""
    path = retrain_home(home) / "history.jsonl"
    append_line(path, submission.model_dump_json())


def append_line(path: Path, line: str) -> None:
    """Append one line durably, over the rest of one that a crash cut off."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        file.seek(0)
        whole = file.read().rfind(b"\n") + 1
        file.truncate(whole)
        file.write(line.encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def complete_lines(path: Path) -> list[str]:
    """Return the lines of an append-only file; one that a crash cut off never counted.

    Raises:
        BadRecord: If the file cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise BadRecord(f"cannot read {str(path)!r}: {error}") from error
    return text[: text.rfind("\n") + 1].split("\n")[:-1]
