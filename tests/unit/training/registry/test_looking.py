"""References, verification and the card."""

import json
from pathlib import Path

import pytest
import yaml

from experiments.registry import Registry
from experiments.registry.errors import UnknownVersion
from tests.unit.training.registry.builders import INTENT_ACCURACY, gate_report, registered
from training.registry import attach_gate, model_card, promote, rollback
from training.registry.verification import verify


@pytest.fixture
def filled(registry: Registry, tmp_path: Path) -> Registry:
    """Two versions; the second one is champion."""
    first = registered(registry, tmp_path, "1.0.0")
    second = registered(registry, tmp_path, "2.0.0")
    promote("okla@1.0.0", registry=registry, gate=gate_report(tmp_path / "g1.json", first))
    promote("okla@2.0.0", registry=registry, gate=gate_report(tmp_path / "g2.json", second, first))
    return registry


@pytest.mark.parametrize(
    ("reference", "version"),
    [
        ("okla@1.0.0", "1.0.0"),
        ("okla@champion", "2.0.0"),
        ("okla@promoted", "2.0.0"),
        ("okla", "2.0.0"),
        ("okla-v1", "1.0.0"),
    ],
)
def test_a_reference_finds_its_version(filled: Registry, reference: str, version: str) -> None:
    assert filled.resolve(reference).version == version


def test_the_start_of_the_hash_finds_it_too(filled: Registry) -> None:
    version = filled.version("okla", "1.0.0")
    assert filled.resolve(version.sha256[:12]) == version
    with pytest.raises(UnknownVersion):
        filled.resolve(version.sha256[:6])


def test_a_name_shared_by_two_artefacts_is_ambiguous(filled: Registry, tmp_path: Path) -> None:
    from training.registry import register

    other = tmp_path / "1.0.0" / "okla-v1.manifest.json"
    register(other, registry=filled, name="dealer")
    with pytest.raises(UnknownVersion, match=r"ambiguous: dealer@1.0.0, okla@1.0.0"):
        filled.resolve("okla-v1")


def test_an_untouched_registry_verifies(filled: Registry) -> None:
    findings = verify(filled)
    assert [finding.what for finding in findings] == [
        "ledger",
        "okla@1.0.0",
        "okla@2.0.0",
        findings[3].what,
        findings[4].what,
    ]
    assert all(finding.ok for finding in findings), findings


@pytest.mark.parametrize(
    ("file", "detail"),
    [
        ("models/okla/2.0.0/version.json", "record"),
        ("models/okla/2.0.0/manifest.json", "manifest was altered"),
        ("blobs/*/*.gguf", "was altered"),
        ("models/okla/2.0.0/gates/*.json", "edited"),
        ("ledger.jsonl", "line 1 was altered"),
    ],
)
def test_whatever_was_altered_is_named(filled: Registry, file: str, detail: str) -> None:
    path = sorted(filled.root.glob(file))[0]
    path.chmod(0o644)
    raw = path.read_bytes()
    path.write_bytes(
        raw.replace(b"Formal", b"Casual").replace(b"jerga", b"otra").replace(b"GGUF", b"GGML", 1)
        if path.name != "ledger.jsonl"
        else raw.replace(b'"ana"', b'"eva"', 1)
    )
    assert path.read_bytes() != raw
    wrong = [finding for finding in verify(filled) if not finding.ok]
    assert len(wrong) == 1
    assert detail in wrong[0].detail


def test_a_missing_file_is_named(filled: Registry) -> None:
    filled.blob(filled.version("okla", "1.0.0").sha256).unlink()
    assert [f.what for f in verify(filled) if not f.ok] == ["okla@1.0.0"]


def test_the_card_has_metadata_of_the_hub_and_the_whole_history(filled: Registry) -> None:
    rollback("okla", registry=filled, reason="prices | wrong", actor="eva")
    card = model_card(filled, filled.version("okla", "1.0.0"))
    _, front, body = card.split("---\n", 2)
    metadata = yaml.safe_load(front)
    assert metadata["license"] == "apache-2.0"
    assert metadata["language"] == ["es"]
    (result,) = metadata["model-index"][0]["results"]  # no evaluation was registered
    version = filled.version("okla", "1.0.0")
    assert result["dataset"]["revision"] == version.dataset_sha256
    measured = {"type": "intent_accuracy", "value": INTENT_ACCURACY, "name": "intent accuracy"}
    assert measured in result["metrics"]
    assert version.sha256 in body
    assert "eva: rollback to champion (before: 2.0.0): prices | wrong" in body
    assert "production (promoted)" in body
    assert "PASS on suite" in body


def test_the_card_shows_the_evaluation_that_was_registered(
    registry: Registry, tmp_path: Path
) -> None:
    dimension = {"name": "intents", "value": 0.951, "n": 1500, "ci_lower": 0.94, "ci_upper": 0.96}
    report = tmp_path / "evaluation.json"
    report.write_text(
        json.dumps(
            {
                "suite_sha256": "5a" * 32,
                "dimensions": [
                    dimension | {"threshold": 0.7, "direction": "at_least", "passed": True},
                    {"name": "latency", "value": None, "n": 0, "threshold": 10, "passed": None},
                ],
                "metrics": {"intent_accuracy": 0.951, "ece": 0.021},
            }
        ),
        encoding="utf-8",
    )
    version = registered(registry, tmp_path, "1.0.0", evaluation=report)
    card = model_card(registry, version)
    assert "| intents | 0.951 [0.94, 0.96] | 1500 | at least 0.7 | yes |" in card
    assert "| latency | not measured | 0 | at most 10 | unknown |" in card
    assert "| ece | 0.021 |" in card
    _, result = yaml.safe_load(card.split("---\n")[1])["model-index"][0]["results"]
    assert result["dataset"]["revision"] == "5a" * 32
    assert {"type": "ece", "value": 0.021, "name": "ece"} in result["metrics"]
    attach_gate(
        "okla", gate_report(tmp_path / "g.json", version, verdict="FAIL"), registry=registry
    )
    assert "FAIL on suite" in model_card(registry, version)
