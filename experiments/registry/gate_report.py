"""The part of a gate report that a promotion rests on, and whether it allows one."""

import json
from pathlib import Path
from typing import Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from experiments.registry.canonical import canonical_sha256
from experiments.registry.errors import GateRefused, RegistryError, StaleExpectation, brief
from experiments.registry.records import GateRef, ModelVersion, Sha256, Verdict, VersionRef

_SCHEMA_VERSION = 1


class _Open(BaseModel):
    """A report has many more fields; they are the gate's business and covered by its hash."""

    model_config = ConfigDict(extra="allow", frozen=True)


class JudgedModel(_Open):
    """A model that the gate measured."""

    name: str
    version: str | None = None
    """None where a file was judged that has no manifest."""
    sha256: Sha256


class GateReport(_Open):
    """What the registry reads of a gate report."""

    schema_version: Annotated[int, Field(ge=1, le=_SCHEMA_VERSION)]
    verdict: Verdict
    candidate: JudgedModel
    champion: JudgedModel | None
    suite_sha256: str
    created_at: AwareDatetime
    report_sha256: Sha256
    """Of the canonical JSON of everything else in the file."""

    @property
    def ref(self) -> GateRef:
        """What the ledger keeps of it."""
        return GateRef(
            report_sha256=self.report_sha256, suite_sha256=self.suite_sha256, verdict=self.verdict
        )


def parse_gate_report(raw: bytes, *, where: str) -> GateReport:
    """Read a report and check its own hash.

    Raises:
        RegistryError: If it is no report of this contract, or was edited since it was written.
    """
    try:
        document = json.loads(raw)
        report = GateReport.model_validate(document)
    except (ValueError, ValidationError) as error:
        raise RegistryError(f"{where} is no gate report: {brief(error)}") from error
    document.pop("report_sha256")
    actual = canonical_sha256(document)
    if actual != report.report_sha256:
        raise GateRefused(
            f"{where} was edited after the gate wrote it: its content has SHA-256 {actual}, it "
            f"says {report.report_sha256}",
            "run the gate again",
        )
    return report


def read_gate_report(path: Path) -> GateReport:
    """Read a report from a file.

    Raises:
        RegistryError: If the file cannot be read or used.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise RegistryError(f"cannot read the gate report {str(path)!r}: {error}") from error
    return parse_gate_report(raw, where=str(path))


def require_same_model(report: GateReport, version: ModelVersion) -> None:
    """Make sure that the gate judged this very file. Its name is a label; the hash is the file.

    Raises:
        GateRefused: If it judged another.
    """
    judged = report.candidate
    if judged.sha256 != version.sha256:
        raise GateRefused(
            f"the gate judged {judged.name} {judged.version or ''} with SHA-256 {judged.sha256}; "
            f"{version.label} has {version.sha256}",
            "run the gate on the file that is registered",
        )


def require_pass(report: GateReport, version: ModelVersion, champion: VersionRef | None) -> None:
    """Make sure that a report allows the promotion of a version over the present champion.

    Args:
        report: The report.
        version: The version to be promoted.
        champion: The present champion; the gate must have compared with it.

    Raises:
        GateRefused: If the verdict is not PASS or is about another file.
        StaleExpectation: If the gate compared with another champion.
    """
    require_same_model(report, version)
    if report.verdict is not Verdict.PASS:
        raise GateRefused(
            f"the gate's verdict on {version.label} is {report.verdict.value}, a promotion needs "
            "PASS",
            inconclusive=report.verdict is Verdict.INCONCLUSIVE,
        )
    if champion is None or champion.sha256 == version.sha256:
        return
    compared = report.champion
    if compared is None or compared.sha256 != champion.sha256:
        seen = "none" if compared is None else f"{compared.name} ({compared.sha256[:12]})"
        raise StaleExpectation(
            f"the gate compared with champion {seen}, the champion is {champion.version} "
            f"({champion.sha256[:12]})",
            "run the gate again, against the present champion",
        )
