"""Conversations to learn from: read from JSONL, with every fault told by file and line."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from training.errors import TrainingError
from training.manifest import file_sha256

MAX_FAULTS = 20
"""Faults that one message tells; a broken export has thousands."""


class DatasetError(TrainingError):
    """The data cannot be learnt from; the message has one fault per line."""

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__(tuple(faults))
        self.faults = tuple(faults)

    def __str__(self) -> str:
        shown = "\n".join(f"  {fault}" for fault in self.faults[:MAX_FAULTS])
        rest = len(self.faults) - MAX_FAULTS
        more = f"\n  and {rest} more" if rest > 0 else ""
        return f"The dataset has {len(self.faults)} faults:\n{shown}{more}"


class Turn(BaseModel):
    """One message."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    role: Literal["system", "user", "assistant"]
    content: Annotated[str, Field(min_length=1)]


class Example(BaseModel):
    """One conversation that ends with the answer to learn; other keys of a line are not read."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    id: str | None = None
    messages: Annotated[tuple[Turn, ...], Field(min_length=2)]
    intent: str | None = None
    """Label of the answer, to measure with."""
    family: str | None = None
    """Group of look-alikes; a group in two splits is a leak."""
    register_: Annotated[str | None, Field(alias="register")] = None

    @model_validator(mode="after")
    def _roles_alternate(self) -> "Example":
        roles = [turn.role for turn in self.messages]
        turns = roles[1:] if roles[0] == "system" else roles
        if not turns or turns != (["user", "assistant"] * len(turns))[: len(turns)]:
            raise ValueError(f"roles must be user and assistant in turns, found {roles}")
        if turns[-1] != "assistant":
            raise ValueError("the last message must be the assistant's")
        return self

    @property
    def answer(self) -> str:
        """What the assistant should write."""
        return self.messages[-1].content


@dataclass(frozen=True, slots=True)
class Dataset:
    """The splits that were found."""

    train: tuple[Example, ...]
    dev: tuple[Example, ...]
    heldout: tuple[Example, ...]
    """Empty where there is no such file: then `dev` is measured."""
    hashes: dict[str, str]
    """SHA-256 by file name."""

    @property
    def sha256(self) -> str:
        """Hash over all files."""
        lines = [f"{name} {digest}" for name, digest in sorted(self.hashes.items())]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def read_dataset(folder: Path) -> Dataset:
    """Read and check `train.jsonl`, `dev.jsonl` and, where there is one, `heldout.jsonl`.

    Raises:
        DatasetError: With file and line of every fault: broken lines, ids that occur twice, an
            intent without training conversations, conversations or families in two splits.
    """
    faults: list[str] = []
    splits: dict[str, list[_Line]] = {}
    hashes = {}
    for name in ("train", "dev", "heldout"):
        path = folder / f"{name}.jsonl"
        if not path.is_file():
            if name != "heldout":
                faults.append(f"{path} is missing")
            splits[name] = []
            continue
        hashes[path.name] = file_sha256(path)
        splits[name] = list(_lines(path, faults))
        if not splits[name]:
            faults.append(f"{path.name} has no conversation")
    everything = [line for lines in splits.values() for line in lines]
    faults += _repeated_ids(everything)
    faults += _leaks(splits)
    faults += _empty_classes(splits)
    if faults:
        raise DatasetError(faults)
    train, dev, heldout = (tuple(line.example for line in lines) for lines in splits.values())
    return Dataset(train, dev, heldout, hashes)


@dataclass(frozen=True, slots=True)
class _Line:
    example: Example
    place: str
    """File and number, as in `train.jsonl:17`."""

    @property
    def asked(self) -> str:
        """What was asked, however written: the same in two splits is a leak."""
        turns = self.example.messages[:-1]
        return "\n".join(f"{t.role}: {' '.join(t.content.lower().split())}" for t in turns)


def _lines(path: Path, faults: list[str]) -> Iterator[_Line]:
    for number, raw in enumerate(path.read_bytes().split(b"\n"), start=1):
        if not raw.strip():
            continue
        place = f"{path.name}:{number}"
        try:
            record = json.loads(raw.decode("utf-8"))
            yield _Line(Example.model_validate(record), place)
        except UnicodeDecodeError as err:
            faults.append(f"{place}: no UTF-8 at byte {err.start}")
        except json.JSONDecodeError as err:
            faults.append(f"{place}: no JSON, {err.msg} at column {err.colno}")
        except ValidationError as err:
            for problem in err.errors():
                where = ".".join(map(str, problem["loc"])) or "conversation"
                faults.append(f"{place}: {where}: {problem['msg']}")


def _repeated_ids(lines: Sequence[_Line]) -> Iterator[str]:
    first: dict[str, str] = {}
    for line in lines:
        key = line.example.id
        if key is None:
            continue
        if key in first:
            yield f"{line.place}: id {key!r} is that of {first[key]}"
        first.setdefault(key, line.place)


def _leaks(splits: dict[str, list[_Line]]) -> Iterator[str]:
    families: dict[str, str] = {}
    questions: dict[str, str] = {}
    for line in splits["train"]:
        questions.setdefault(line.asked, line.place)
        if line.example.family is not None:
            families.setdefault(line.example.family, line.place)
    for name in ("dev", "heldout"):
        for line in splits[name]:
            family = line.example.family
            if family in families:
                yield f"{line.place}: family {family!r} is trained on: {families[family]}"
            elif line.asked in questions:
                yield f"{line.place}: the same question is trained on: {questions[line.asked]}"


def _empty_classes(splits: dict[str, list[_Line]]) -> Iterator[str]:
    trained = {line.example.intent for line in splits["train"]}
    wanted: dict[str, str] = defaultdict(str)
    for name in ("dev", "heldout"):
        for line in splits[name]:
            if line.example.intent is not None:
                wanted.setdefault(line.example.intent, line.place)
    for intent, place in sorted(wanted.items()):
        if intent not in trained:
            yield f"train.jsonl has no conversation of the intent {intent!r} ({place} has)"
