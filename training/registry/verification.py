"""Check a registry from end to end: chain, records, reports, model files."""

from pathlib import Path
from typing import NamedTuple

from experiments.registry.errors import RegistryError
from experiments.registry.gate_report import parse_gate_report
from experiments.registry.records import Kind, LedgerEntry, ModelVersion
from experiments.registry.store import Registry
from training.errors import ArtefactError
from training.manifest import file_sha256


class Finding(NamedTuple):
    """One thing that was checked."""

    what: str
    ok: bool
    detail: str


def verify(registry: Registry) -> list[Finding]:
    """Check everything that the ledger names; hashes every model file, about 1 s per GB."""
    try:
        entries = registry.entries()
    except RegistryError as error:
        return [Finding("ledger", False, str(error))]
    torn = registry.torn_bytes()
    unfinished = f", {torn} bytes of an unfinished line that does not count" if torn else ""
    findings = [Finding("ledger", True, f"{len(entries)} entries, chain intact{unfinished}")]
    for entry in entries:
        if entry.kind is Kind.REGISTER:
            findings.append(_version(registry, entry))
        elif entry.kind is Kind.GATE and entry.gate is not None:
            findings.append(_gate(registry, entry, entry.gate.report_sha256))
    return findings


def _version(registry: Registry, entry: LedgerEntry) -> Finding:
    label = f"{entry.model}@{entry.target.version}"
    try:
        directory = registry.directory(entry.model, entry.target.version)
        if file_sha256(directory / "version.json") != entry.record_sha256:
            return Finding(label, False, "its record was altered after the registration")
        record = registry.version(entry.model, entry.target.version)
        if file_sha256(directory / "manifest.json") != record.manifest_sha256:
            return Finding(label, False, "its manifest was altered after the registration")
        registry.verified_files(record)
    except (RegistryError, ArtefactError) as error:
        return Finding(label, False, str(error))
    return Finding(label, True, f"{_parts(record)} and file {record.sha256[:12]} unaltered")


def _parts(record: ModelVersion) -> str:
    return "record, manifest, profile" if record.has_profile else "record, manifest"


def _gate(registry: Registry, entry: LedgerEntry, report_sha256: str) -> Finding:
    what = f"gate {report_sha256[:12]} of {entry.model}@{entry.target.version}"
    directory = registry.directory(entry.model, entry.target.version)
    path: Path = directory / "gates" / f"{report_sha256}.json"
    try:
        report = parse_gate_report(path.read_bytes(), where=str(path))
    except (OSError, RegistryError) as error:
        return Finding(what, False, str(error))
    if report.ref != entry.gate:
        return Finding(what, False, "is not the report that the ledger names")
    return Finding(what, True, f"{report.verdict.value}, unaltered")
