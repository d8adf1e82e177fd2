"""The parts that the records of all controllers share. Each one adds what it decides on."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar, Generic, TypeVar

from pydantic import ConfigDict

SCHEMA_VERSION = 1
"""Version of the records. Readers refuse newer ones."""

CLOSED = ConfigDict(extra="forbid")

C = TypeVar("C", bound=StrEnum)
P = TypeVar("P")

# NOTE: generic ones have no slots: Python 3.11 cannot call `Served[float]` of a frozen class with.


@dataclass(frozen=True, kw_only=True)
class Reason(Generic[C]):
    """One reason."""

    __pydantic_config__: ClassVar[ConfigDict] = CLOSED

    code: C
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class Served(Generic[P]):
    """A split as it is, or is to be, served."""

    __pydantic_config__: ClassVar[ConfigDict] = CLOSED

    percent: P
    """Share of the treatment, or of each variant."""
    config_hash: str
    """Of the gateway's configuration."""
    file_sha256: str
    """Of the config file's text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Where a controller stands; survives it."""

    __pydantic_config__: ClassVar[ConfigDict] = CLOSED

    schema_version: int = SCHEMA_VERSION
    experiment: str
    version: int
    control: str
    status: Any  # one enum per controller, each with `over`
    served: Served[Any]  # a share, or one per variant
    """What was deployed or found last."""
    pending: Served[Any] | None = None
    """What is being deployed right now."""
    n_decisions: int = 0
    previous_sha256: str = ""
    """Of the last decision's record: the records are a chain."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What every decision rests on: whose split is served."""

    __pydantic_config__: ClassVar[ConfigDict] = CLOSED

    at: float
    """Seconds since the epoch."""
    active_config: str
    """Hash that all gateways report; empty where they disagree or do not answer."""
    file: Served[Any] | None
    """The config file now; None if it cannot be read as a config."""
    file_declares: bool = True
    """Whether it still declares the same experiment: version, salt, variants, control."""
    file_runs: bool = True
    """Whether every replica runs the file; only asked before a file is relied on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """What to do, and why."""

    __pydantic_config__: ClassVar[ConfigDict] = CLOSED

    action: Any  # one enum per controller
    reasons: tuple[Reason[Any], ...]
    percent: Any = None
    """The split to deploy; None leaves it alone."""


S = TypeVar("S", bound=Standing)
O = TypeVar("O", bound=Seen)  # noqa: E741 (as S, O, D: state, observation, decision)
D = TypeVar("D", bound=Decided)


@dataclass(frozen=True, kw_only=True)
class DecisionRecord(Generic[S, O, D]):
    """A decision with everything it rested on: the evidence file, written before acting."""

    __pydantic_config__: ClassVar[ConfigDict] = CLOSED

    schema_version: int = SCHEMA_VERSION
    number: int
    state: S
    """Before the decision."""
    observation: O
    decision: D
    previous_sha256: str
    """Of the record before this one."""
