"""The records of the registry: versions, and the ledger's entries."""

import re
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

SCHEMA_VERSION = 1

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
VERSION_PATTERN = (
    r"^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?"
    r"(\+[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?$"
)
"""Semantic versioning 2.0.0 (semver.org)."""

Name = Annotated[str, Field(pattern=NAME_PATTERN)]
SemanticVersion = Annotated[str, Field(pattern=VERSION_PATTERN)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
SchemaVersion = Annotated[int, Field(ge=1, le=SCHEMA_VERSION)]


class Alias(StrEnum):
    """A name that points at one version of a model."""

    CHAMPION = "champion"
    """Answers the users."""
    CHALLENGER = "challenger"
    """Deployed beside the champion, with the share of traffic that its experiment gives it."""
    CANDIDATE = "candidate"
    """The newest registered version that is neither."""


class State(StrEnum):
    """Where a version is in its life."""

    TRAINING = "training"
    """Registered by a training; no gate has judged it."""
    VALIDATION = "validation"
    """Judged by the gate, or deployed as challenger."""
    PRODUCTION = "production"
    """The champion."""
    ARCHIVED = "archived"
    """A former champion, or retired by hand."""

    @property
    def lifecycle(self) -> Literal["candidate", "promoted", "retired"]:
        """The same in the coarser words of the improvement loop."""
        match self:
            case State.TRAINING | State.VALIDATION:
                return "candidate"
            case State.PRODUCTION:
                return "promoted"
            case State.ARCHIVED:
                return "retired"


class Kind(StrEnum):
    """What a ledger entry records."""

    REGISTER = "register"
    GATE = "gate"
    PROMOTE = "promote"
    ROLLBACK = "rollback"
    RETIRE = "retire"


class Verdict(StrEnum):
    """What a gate said."""

    PASS = "PASS"  # noqa: S105 (a verdict)
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"


class Record(BaseModel):
    """Base of the records: no unknown keys, no later changes."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )


class VersionRef(Record):
    """One version of a model, by name and by content."""

    version: SemanticVersion
    sha256: Sha256


class GateRef(Record):
    """The gate report that an entry rests on."""

    report_sha256: Sha256
    suite_sha256: str
    verdict: Verdict


class Deployed(Record):
    """Where a promoted version was put."""

    config: str
    """Name of the config file."""
    variant: str
    """The served variant that runs it."""


class ModelVersion(Record):
    """What the registry knows about one version; written once, never changed."""

    schema_version: SchemaVersion = SCHEMA_VERSION
    name: Name
    version: SemanticVersion
    artefact: str
    """Name in the manifest, for example `okla-v2`; also accepted as a reference."""
    description: str
    sha256: Sha256
    """Of the model file, which is stored under this hash."""
    size_bytes: int = Field(gt=0)
    quantisation: str
    license: str
    dataset_sha256: Sha256
    config_sha256: Sha256
    code_commit: str | None
    manifest_sha256: Sha256
    """Of the manifest's bytes, which are kept beside this record."""
    parameters: dict[str, str | int | float | bool | None]
    metrics: dict[str, float | None]
    has_profile: bool = False
    """Whether the profile that it was trained with is kept beside this record."""
    lineage: dict[str, str]
    """Everything else that ties it to its origin: hashes, seed, run, job, parent."""
    created_at: AwareDatetime
    registered_at: AwareDatetime
    registered_by: str

    @property
    def ref(self) -> VersionRef:
        """Name it by version and content."""
        return VersionRef(version=self.version, sha256=self.sha256)

    @property
    def label(self) -> str:
        """Return `name@version`."""
        return f"{self.name}@{self.version}"


class LedgerEntry(Record):
    """One line of the ledger. `hash` covers all other fields, `prev_hash` the line before."""

    schema_version: SchemaVersion = SCHEMA_VERSION
    seq: int = Field(ge=1)
    token: int = Field(ge=1)
    """Fencing token of the lock under which it was written; grows."""
    at: AwareDatetime
    actor: str = Field(min_length=1)
    kind: Kind
    model: Name
    alias: Alias | None = None
    """The alias that moved."""
    source: VersionRef | None = None
    """Where the alias pointed before."""
    target: VersionRef
    """Where it points now; for the kinds without alias, the version that is meant."""
    reason: str
    gate: GateRef | None = None
    record_sha256: Sha256 | None = None
    """Of the bytes of the version's record, in the line that registers it."""
    deployed: Deployed | None = None
    """What was deployed with it; None if it was only recorded."""
    prev_hash: Sha256
    hash: Sha256


def family_name(artefact: str, version: str) -> str:
    """Return the model that an artefact is a version of: of `okla-v2` at 2.x it is `okla`."""
    found = re.fullmatch(r"(.+)-v(\d+)", artefact)
    if found and found[2] == version.partition(".")[0]:
        return found[1]
    return artefact


def utc_text(moment: datetime) -> str:
    """Return a time for people: UTC, to the second."""
    return moment.strftime("%Y-%m-%d %H:%M:%SZ")
