"""Moving aliases: gate, expectation, integrity, deployment, rollback."""

import multiprocessing
from pathlib import Path

import pytest

from experiments.registry import Alias, Kind, ModelVersion, Registry, State
from experiments.registry.errors import (
    AlteredFile,
    GateRefused,
    RegistryError,
    StaleExpectation,
    UnknownVersion,
)
from experiments.registry.profile import ServedFiles
from experiments.registry.records import Deployed
from tests.unit.training.registry.builders import gate_report, registered
from training.registry import attach_gate, promote, retire, rollback


class Recorder:
    """A deployment that notes what it was asked for."""

    def __init__(self, error: Exception | None = None) -> None:
        self.calls: list[str] = []
        self._error = error

    def apply(self, version: ModelVersion, files: ServedFiles, alias: Alias) -> Deployed:
        assert files.model.is_file()
        self.calls.append(f"apply {alias} {version.version}")
        if self._error is not None:
            raise self._error
        return Deployed(config="serve_config.yaml", variant="stable")

    def undo(self) -> None:
        self.calls.append("undo")


@pytest.fixture
def v1(registry: Registry, tmp_path: Path) -> ModelVersion:
    """The champion."""
    version = registered(registry, tmp_path, "1.0.0")
    promote("okla@1.0.0", registry=registry, gate=gate_report(tmp_path / "g1.json", version))
    return version


@pytest.fixture
def v2(registry: Registry, tmp_path: Path, v1: ModelVersion) -> ModelVersion:
    """A candidate that passed the gate against it."""
    version = registered(registry, tmp_path, "2.0.0")
    attach_gate("okla@2.0.0", gate_report(tmp_path / "g2.json", version, v1), registry=registry)
    return version


def champion(registry: Registry) -> str | None:
    ref = registry.standings()["okla"].aliases.get(Alias.CHAMPION)
    return None if ref is None else ref.version


def test_a_promotion_is_recorded_with_who_when_why_and_gate(
    registry: Registry, v1: ModelVersion, v2: ModelVersion
) -> None:
    entry = promote("okla-v2", registry=registry, actor="ana", reason="understands more").entry
    assert (entry.kind, entry.alias, entry.actor) == (Kind.PROMOTE, Alias.CHAMPION, "ana")
    assert (entry.source, entry.target, entry.reason) == (v1.ref, v2.ref, "understands more")
    assert entry.gate is not None
    assert entry.gate.verdict == "PASS"
    standing = registry.standings()["okla"]
    assert standing.aliases == {Alias.CHAMPION: v2.ref}
    assert [standing.state(v) for v in ("1.0.0", "2.0.0")] == [State.ARCHIVED, State.PRODUCTION]
    assert registry.resolve("okla@production") == v2
    assert registry.entries()[-1] == entry


def test_a_challenger_leaves_the_champion_alone(registry: Registry, v2: ModelVersion) -> None:
    promote("okla@2.0.0", registry=registry, alias=Alias.CHALLENGER)
    standing = registry.standings()["okla"]
    assert {a: ref.version for a, ref in standing.aliases.items()} == {
        Alias.CHAMPION: "1.0.0",
        Alias.CHALLENGER: "2.0.0",
    }
    promote("okla@challenger", registry=registry)
    assert champion(registry) == "2.0.0"


def test_without_a_gate_report_nothing_is_promoted(registry: Registry, tmp_path: Path) -> None:
    registered(registry, tmp_path, "1.0.0")
    with pytest.raises(GateRefused, match=r"no gate report about okla@1.0.0"):
        promote("okla@1.0.0", registry=registry)
    assert champion(registry) is None


@pytest.mark.parametrize("verdict", ["FAIL", "INCONCLUSIVE"])
def test_only_a_pass_promotes_and_the_verdict_is_kept(
    registry: Registry, tmp_path: Path, v1: ModelVersion, verdict: str
) -> None:
    version = registered(registry, tmp_path, "2.0.0")
    report = gate_report(tmp_path / "g.json", version, v1, verdict=verdict)
    with pytest.raises(GateRefused, match=verdict) as refused:
        promote("okla@2.0.0", registry=registry, gate=report)
    assert refused.value.inconclusive is (verdict == "INCONCLUSIVE")
    assert champion(registry) == "1.0.0"
    assert registry.entries()[-1].kind is Kind.GATE


def test_a_report_about_another_file_is_refused(
    registry: Registry, tmp_path: Path, v1: ModelVersion, v2: ModelVersion
) -> None:
    third = registered(registry, tmp_path, "3.0.0")
    with pytest.raises(GateRefused, match=f"{third.sha256}"):
        promote("okla@3.0.0", registry=registry, gate=gate_report(tmp_path / "g.json", v2, v1))
    assert champion(registry) == "1.0.0"


def test_an_edited_report_is_refused(registry: Registry, tmp_path: Path, v1: ModelVersion) -> None:
    version = registered(registry, tmp_path, "2.0.0")
    report = gate_report(tmp_path / "g.json", version, v1, verdict="FAIL")
    report.write_text(report.read_text(encoding="utf-8").replace("FAIL", "PASS"), encoding="utf-8")
    with pytest.raises(GateRefused, match="edited after the gate wrote it"):
        promote("okla@2.0.0", registry=registry, gate=report)
    assert champion(registry) == "1.0.0"


def test_a_kept_report_that_was_edited_is_refused(
    registry: Registry, tmp_path: Path, v1: ModelVersion
) -> None:
    version = registered(registry, tmp_path, "2.0.0")
    report = gate_report(tmp_path / "g.json", version, v1, verdict="FAIL")
    kept = attach_gate("okla@2.0.0", report, registry=registry).path
    kept.write_bytes(gate_report(tmp_path / "forged.json", version, v1).read_bytes())
    with pytest.raises(GateRefused, match="is not the gate report that was attached"):
        promote("okla@2.0.0", registry=registry)


def test_a_report_against_an_earlier_champion_is_stale(
    registry: Registry, tmp_path: Path, v1: ModelVersion, v2: ModelVersion
) -> None:
    third = registered(registry, tmp_path, "3.0.0")
    against_v1 = gate_report(tmp_path / "g3.json", third, v1)
    promote("okla@2.0.0", registry=registry)
    with pytest.raises(StaleExpectation, match="compared with champion okla-v1 "):
        promote("okla@3.0.0", registry=registry, gate=against_v1)
    assert champion(registry) == "2.0.0"


def test_a_report_without_comparison_does_not_replace_a_champion(
    registry: Registry, tmp_path: Path, v1: ModelVersion
) -> None:
    version = registered(registry, tmp_path, "2.0.0")
    with pytest.raises(StaleExpectation, match="compared with champion none"):
        promote("okla@2.0.0", registry=registry, gate=gate_report(tmp_path / "g.json", version))


@pytest.mark.parametrize("expect", ["none", "3.0.0", "okla@2.0.0"])
def test_the_expected_champion_is_compared(
    registry: Registry, v2: ModelVersion, expect: str
) -> None:
    with pytest.raises(StaleExpectation, match=r"it is 1.0.0"):
        promote("okla@2.0.0", registry=registry, expect=expect)
    promote("okla@2.0.0", registry=registry, expect="okla@1.0.0")


def test_a_file_that_changed_after_the_gate_is_refused_by_name(
    registry: Registry, v2: ModelVersion
) -> None:
    blob = registry.blob(v2.sha256)
    blob.chmod(0o644)
    blob.write_bytes(b"GGUF weights, poisoned")
    with pytest.raises(AlteredFile, match=r"okla@2.0.0 was altered: .*" + v2.sha256):
        promote("okla@2.0.0", registry=registry)
    assert champion(registry) == "1.0.0"


def test_what_is_promoted_is_deployed_first(registry: Registry, v2: ModelVersion) -> None:
    deployment = Recorder()
    entry = promote("okla@2.0.0", registry=registry, deployment=deployment).entry
    assert deployment.calls == ["apply champion 2.0.0"]
    assert entry.deployed == Deployed(config="serve_config.yaml", variant="stable")


def test_a_failed_deployment_promotes_nothing(registry: Registry, v2: ModelVersion) -> None:
    before = registry.entries()
    with pytest.raises(RuntimeError, match="no replica"):
        promote("okla@2.0.0", registry=registry, deployment=Recorder(RuntimeError("no replica")))
    assert registry.entries() == before


def test_a_refused_promotion_deploys_nothing(registry: Registry, v2: ModelVersion) -> None:
    deployment = Recorder()
    with pytest.raises(StaleExpectation):
        promote("okla@2.0.0", registry=registry, expect="none", deployment=deployment)
    assert deployment.calls == []


def test_a_promotion_that_cannot_be_recorded_is_undone(
    registry: Registry, v2: ModelVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment = Recorder()

    def broken(*_: object, **__: object) -> None:
        raise OSError("disk gone")

    monkeypatch.setattr("experiments.registry.ledger.Ledger._write", broken)
    with pytest.raises(RegistryError, match=r"okla@2.0.0 was not promoted: disk gone"):
        promote("okla@2.0.0", registry=registry, deployment=deployment)
    assert deployment.calls == ["apply champion 2.0.0", "undo"]
    assert champion(registry) == "1.0.0"


def test_rollback_returns_to_the_champion_before_and_then_further_back(
    registry: Registry, tmp_path: Path, v1: ModelVersion, v2: ModelVersion
) -> None:
    promote("okla@2.0.0", registry=registry)
    third = registered(registry, tmp_path, "3.0.0")
    promote("okla@3.0.0", registry=registry, gate=gate_report(tmp_path / "g3.json", third, v2))
    entry = rollback("okla", registry=registry, reason="wrong prices").entry
    assert (entry.kind, entry.source, entry.target) == (Kind.ROLLBACK, third.ref, v2.ref)
    assert (entry.reason, entry.gate) == ("wrong prices", None)
    assert rollback("okla", registry=registry, reason="still").entry.target == v1.ref
    with pytest.raises(RegistryError, match=r"no champion before 1.0.0"):
        rollback("okla", registry=registry, reason="again")


def test_rollback_to_a_named_version_wants_a_former_champion(
    registry: Registry, tmp_path: Path, v1: ModelVersion, v2: ModelVersion
) -> None:
    registered(registry, tmp_path, "3.0.0")
    promote("okla@2.0.0", registry=registry)
    with pytest.raises(RegistryError, match=r"okla@3.0.0 was never champion"):
        rollback("okla", registry=registry, reason="x", to="3.0.0")
    assert rollback("okla", registry=registry, reason="x", to="1.0.0").version == v1


@pytest.mark.parametrize("reason", ["", "  "])
def test_rollback_needs_a_reason(registry: Registry, v1: ModelVersion, reason: str) -> None:
    with pytest.raises(RegistryError, match="needs a reason"):
        rollback("okla", registry=registry, reason=reason)


def test_a_retired_version_does_not_come_back(
    registry: Registry, v1: ModelVersion, v2: ModelVersion
) -> None:
    promote("okla@2.0.0", registry=registry)
    with pytest.raises(RegistryError, match="is the champion"):
        retire("okla@2.0.0", registry=registry, reason="x")
    retire("okla@1.0.0", registry=registry, reason="leaks a phone number")
    with pytest.raises(RegistryError, match=r"no champion before 2.0.0"):
        rollback("okla", registry=registry, reason="x")
    with pytest.raises(RegistryError, match="is retired"):
        rollback("okla", registry=registry, reason="x", to="1.0.0")
    with pytest.raises(RegistryError, match="is retired"):
        promote("okla@1.0.0", registry=registry)


def test_an_unknown_model_is_named(registry: Registry, v1: ModelVersion) -> None:
    with pytest.raises(UnknownVersion, match=r"'okla@9.9.9'|no version or alias '9.9.9'"):
        promote("okla@9.9.9", registry=registry)
    with pytest.raises(UnknownVersion, match=r"'dealer'; registered: \['okla'\]"):
        promote("dealer", registry=registry)


def _try_to_promote(root: Path, version: str, start: object, results: object) -> None:
    start.wait()  # type: ignore[attr-defined]
    try:
        promote(f"okla@{version}", registry=Registry(root), actor=version)
    except StaleExpectation:
        results.put((version, "stale"))  # type: ignore[attr-defined]
    else:
        results.put((version, "promoted"))  # type: ignore[attr-defined]


def test_of_promotions_at_once_exactly_one_wins(
    registry: Registry, tmp_path: Path, v1: ModelVersion
) -> None:
    rivals = [f"{major}.0.0" for major in range(2, 6)]
    for rival in rivals:
        version = registered(registry, tmp_path, rival)
        attach_gate(version.label, gate_report(tmp_path / "g.json", version, v1), registry=registry)
    context = multiprocessing.get_context("spawn")
    start, results = context.Barrier(len(rivals)), context.Queue()
    processes = [
        context.Process(target=_try_to_promote, args=(registry.root, rival, start, results))
        for rival in rivals
    ]
    for process in processes:
        process.start()
    outcomes = dict(results.get(timeout=120) for _ in processes)
    for process in processes:
        process.join(timeout=120)
    winners = [version for version, outcome in outcomes.items() if outcome == "promoted"]
    assert len(winners) == 1
    assert sorted(outcomes) == rivals
    assert champion(registry) == winners[0]
    promotions = [entry for entry in registry.entries() if entry.kind is Kind.PROMOTE]
    assert [entry.target.version for entry in promotions] == ["1.0.0", winners[0]]
