"""Lines of JSON as records, with errors that name the file and the line."""

from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from experiments.evaluation.errors import BadInput

Record = TypeVar("Record", bound=BaseModel)


def read_records(path: Path, record: type[Record]) -> Iterator[tuple[int, Record]]:
    """Yield (line number, record) of a JSONL file; empty lines are skipped.

    Raises:
        BadInput: At the first line that is not a record of this type, with its number and reason.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as err:
        raise BadInput(f"Cannot read {str(path)!r}: {err.strerror}") from err
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            yield number, record.model_validate_json(line)
        except ValidationError as err:
            raise BadInput(f"{path}:{number}: {_first_reason(err)}") from err


def to_lines(records: list[Record]) -> bytes:
    """Return the records as JSONL, fields by their wire names."""
    return b"".join(r.model_dump_json(by_alias=True).encode() + b"\n" for r in records)


def _first_reason(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_context=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    given = first["input"]
    shown = f" (given: {str(given)[:60]!r})" if first["type"] not in {"missing"} else ""
    return f"{where}: {first['msg']}{shown}" if where else f"{first['msg']}{shown}"
