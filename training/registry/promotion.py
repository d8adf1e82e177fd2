"""Move an alias: promotion past the gate, rollback, retirement. One path for all of them.

Under the registry's lock: compare the alias with what the caller and the gate took for granted,
hash the model file again, deploy if that was asked for, and only then append the ledger's line. So
whoever waits for the lock sees the new state, and of two promotions that started from the same one
exactly one is made.
"""

from pathlib import Path
from typing import NamedTuple, Protocol

from experiments.registry.errors import GateRefused, RegistryError, StaleExpectation
from experiments.registry.gate_report import (
    GateReport,
    parse_gate_report,
    read_gate_report,
    require_pass,
    require_same_model,
)
from experiments.registry.profile import ServedFiles
from experiments.registry.records import (
    Alias,
    Deployed,
    Kind,
    LedgerEntry,
    ModelVersion,
    VersionRef,
)
from experiments.registry.standing import Standing
from experiments.registry.store import LOCK_TIMEOUT_S, Registry, Transaction
from experiments.whole_file import write_whole
from training.registry.registration import default_actor

NOBODY = "none"
"""What `expect` says where there must be no champion (or challenger) yet."""


class Deployment(Protocol):
    """How a promoted version comes to be served."""

    def apply(self, version: ModelVersion, files: ServedFiles, alias: Alias) -> Deployed:
        """Serve a version; return where, once every replica runs it.

        Raises:
            Exception: If it is not served; what served before goes on.
        """
        ...

    def undo(self) -> None:
        """Serve again what was served before `apply`."""
        ...


class Change(NamedTuple):
    """What was done."""

    entry: LedgerEntry
    version: ModelVersion


def promote(
    reference: str,
    *,
    registry: Registry | None = None,
    alias: Alias = Alias.CHAMPION,
    gate: Path | None = None,
    reason: str = "",
    actor: str | None = None,
    expect: str | None = None,
    deployment: Deployment | None = None,
    timeout_s: float = LOCK_TIMEOUT_S,
) -> Change:
    """Make a version champion or challenger.

    Args:
        reference: A version, as `Registry.resolve` takes it.
        registry: None is the one under `CARRIL_HOME`.
        alias: What it becomes. A challenger is deployed at 0 % of the traffic.
        gate: Gate report of this very file; None takes the newest one attached to the version.
        reason: Why, for the ledger.
        actor: Who; None is the user of this process.
        expect: Version that the alias must point at now, `none` for nowhere. The champion that the
            gate compared with is expected in any case.
        deployment: How to serve it; None only records it.
        timeout_s: Longest wait for another writer.

    Raises:
        GateRefused: If the report does not say PASS about this file.
        StaleExpectation: If the alias moved meanwhile.
        AlteredFile: If the model file changed after it was registered.
        RegistryError: For anything else; the registry is as before.
    """
    registry = registry or Registry.of_home()
    if alias is Alias.CANDIDATE:
        raise RegistryError("a version is candidate by being registered; promote it further")
    version = registry.resolve(reference)
    actor = actor or default_actor()
    if gate is not None:
        report = attach_gate(reference, gate, registry=registry, actor=actor).report
    else:
        report = _newest_gate(registry, version)
    with registry.writing(timeout_s=timeout_s) as transaction:
        standing = transaction.standing(version.name)
        current = standing.aliases.get(alias)
        _check_expected(version.name, alias, current, expect)
        if current == version.ref:
            raise StaleExpectation(f"{version.label} is the {alias.value} already")
        _check_not_retired(standing, version.version)
        require_pass(report, version, standing.aliases.get(Alias.CHAMPION))
        return _move(
            registry,
            transaction,
            version,
            kind=Kind.PROMOTE,
            alias=alias,
            source=current,
            actor=actor,
            reason=reason,
            gate=report,
            deployment=deployment,
        )


def rollback(
    name: str,
    *,
    reason: str,
    registry: Registry | None = None,
    to: str | None = None,
    actor: str | None = None,
    expect: str | None = None,
    deployment: Deployment | None = None,
    timeout_s: float = LOCK_TIMEOUT_S,
) -> Change:
    """Make an earlier champion the champion again. Needs no gate, but a reason.

    Args:
        name: The model, for example `okla`.
        reason: Why; kept in the ledger.
        registry: None is the one under `CARRIL_HOME`.
        to: Version to return to, one that was champion before; None is the one before the present.
        actor: Who; None is the user of this process.
        expect: Version that must be champion now.
        deployment: How to serve it; None only records it.
        timeout_s: Longest wait for another writer.

    Raises:
        RegistryError: If there is nothing to return to, the reason is empty, or as for `promote`.
    """
    registry = registry or Registry.of_home()
    if not reason.strip():
        raise RegistryError("a rollback needs a reason", "say why: --reason '...'")
    with registry.writing(timeout_s=timeout_s) as transaction:
        standing = transaction.standing(name)
        champion = standing.aliases.get(Alias.CHAMPION)
        target = _rollback_target(standing, champion, to)
        _check_expected(name, Alias.CHAMPION, champion, expect)
        return _move(
            registry,
            transaction,
            registry.version(name, target.version),
            kind=Kind.ROLLBACK,
            alias=Alias.CHAMPION,
            source=champion,
            actor=actor or default_actor(),
            reason=reason,
            gate=None,
            deployment=deployment,
        )


def retire(
    reference: str, *, reason: str, registry: Registry | None = None, actor: str | None = None
) -> Change:
    """Take a version out of the running for good; files and history stay.

    Raises:
        RegistryError: If it is the champion, or the reason is empty.
    """
    registry = registry or Registry.of_home()
    version = registry.resolve(reference)
    if not reason.strip():
        raise RegistryError("a retirement needs a reason", "say why: --reason '...'")
    with registry.writing() as transaction:
        standing = transaction.standing(version.name)
        if standing.aliases.get(Alias.CHAMPION) == version.ref:
            raise RegistryError(
                f"{version.label} is the champion and cannot be retired",
                "promote or roll back to another version first",
            )
        entry = transaction.append(
            actor=actor or default_actor(),
            kind=Kind.RETIRE,
            model=version.name,
            target=version.ref,
            reason=reason,
        )
    return Change(entry, version)


class AttachedGate(NamedTuple):
    """A gate report in the registry."""

    report: GateReport
    version: ModelVersion
    path: Path


def attach_gate(
    reference: str, report_path: Path, *, registry: Registry | None = None, actor: str | None = None
) -> AttachedGate:
    """Keep a gate report with the version that it judged, whatever its verdict.

    Raises:
        RegistryError: If it is no report, was edited, or is about another file.
    """
    registry = registry or Registry.of_home()
    version = registry.resolve(reference)
    report = read_gate_report(report_path)
    require_same_model(report, version)
    kept = _gate_path(registry, version, report.report_sha256)
    with registry.writing() as transaction:
        known = transaction.standing(version.name).gates.get(version.sha256, [])
        if report.ref not in known:
            kept.parent.mkdir(parents=True, exist_ok=True)
            write_whole(kept, report_path.read_bytes())
            transaction.append(
                actor=actor or default_actor(),
                kind=Kind.GATE,
                model=version.name,
                target=version.ref,
                reason="",
                gate=report.ref,
            )
    return AttachedGate(report, version, kept)


def _move(
    registry: Registry,
    transaction: Transaction,
    version: ModelVersion,
    *,
    kind: Kind,
    alias: Alias,
    source: VersionRef | None,
    actor: str,
    reason: str,
    gate: GateReport | None,
    deployment: Deployment | None,
) -> Change:
    files = registry.verified_files(version)
    deployed = None if deployment is None else deployment.apply(version, files, alias)
    try:
        entry = transaction.append(
            actor=actor,
            kind=kind,
            model=version.name,
            alias=alias,
            source=source,
            target=version.ref,
            reason=reason,
            gate=None if gate is None else gate.ref,
            deployed=deployed,
        )
    except BaseException as error:
        if deployment is not None:
            deployment.undo()
        if isinstance(error, OSError):
            raise RegistryError(f"{version.label} was not promoted: {error}") from error
        raise
    return Change(entry, version)


def _rollback_target(standing: Standing, champion: VersionRef | None, to: str | None) -> VersionRef:
    if champion is None:
        raise RegistryError(f"{standing.name!r} has no champion to roll back from")
    if to is None:
        if standing.previous_champion is None:
            raise RegistryError(
                f"{standing.name!r} has no champion before {champion.version}",
                "name one that was: --to VERSION",
            )
        return standing.previous_champion
    if to == champion.version:
        raise StaleExpectation(f"{standing.name}@{to} is the champion already")
    if to not in standing.was_champion:
        raise RegistryError(
            f"{standing.name}@{to} was never champion; those were: {sorted(standing.was_champion)}",
            "a version that was never champion needs the gate: carril models promote",
        )
    _check_not_retired(standing, to)
    return standing.versions[to]


def _check_not_retired(standing: Standing, version: str) -> None:
    if version in standing.retired:
        raise RegistryError(f"{standing.name}@{version} is retired; register a new version")


def _check_expected(
    name: str, alias: Alias, current: VersionRef | None, expect: str | None
) -> None:
    if expect is None:
        return
    expect = expect.removeprefix(f"{name}@")
    actual = NOBODY if current is None else current.version
    if expect != actual:
        raise StaleExpectation(
            f"expected {expect} as {alias.value} of {name}, it is {actual}",
            "look at what happened meanwhile: carril models log",
        )


def _newest_gate(registry: Registry, version: ModelVersion) -> GateReport:
    gates = registry.standings()[version.name].gates.get(version.sha256, [])
    if not gates:
        raise GateRefused(
            f"no gate report about {version.label} ({version.sha256[:12]})",
            "judge it (carril eval gate), then: carril models promote ... --gate REPORT",
        )
    path = _gate_path(registry, version, gates[-1].report_sha256)
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise GateRefused(f"the gate report {str(path)!r} cannot be read: {error}") from error
    report = parse_gate_report(raw, where=str(path))
    if report.ref != gates[-1]:
        raise GateRefused(f"{str(path)!r} is not the gate report that was attached")
    return report


def _gate_path(registry: Registry, version: ModelVersion, report_sha256: str) -> Path:
    return registry.directory(version.name, version.version) / "gates" / f"{report_sha256}.json"
