"""Registering a model: whole or not at all."""

import errno
import json
import os
import shutil
from pathlib import Path

import pytest

from experiments.evaluation.intent_calibration import calibration_path, write_calibration
from experiments.grounding.profile_options import prior_sha256
from experiments.registry import Alias, Kind, Registry, State, profile
from experiments.registry.errors import AlteredFile, RegistryError, VersionConflict
from experiments.registry.ledger import Ledger
from experiments.registry.views import model_list
from tests.unit.experiments.evaluation.test_intent_calibration import calibration
from tests.unit.training.registry.builders import (
    INTENT_ACCURACY,
    registered,
    write_model,
    write_profile,
)
from training.contract import PROFILE_DIR
from training.registry import register


def files_in(registry: Registry) -> list[str]:
    """Return every file of a registry except the lock."""
    return sorted(
        str(path.relative_to(registry.root))
        for path in registry.root.rglob("*")
        if path.is_file() and path.name != "ledger.lock"
    )


def test_a_model_becomes_the_candidate_with_its_whole_origin(
    registry: Registry, tmp_path: Path
) -> None:
    version = registered(registry, tmp_path, "2.0.0", lineage={"ray.job_id": "finetune-1"})
    assert (version.name, version.version, version.artefact) == ("okla", "2.0.0", "okla-v2")
    assert version.lineage["ray.job_id"] == "finetune-1"
    assert len(version.lineage["tokenizer.sha256"]) == 64
    assert version.metrics["intent_accuracy"] == INTENT_ACCURACY
    assert version.parameters["model.hidden_size"] == 256
    assert registry.blob(version.sha256).read_bytes() == b"GGUF weights of 2.0.0"
    standing = registry.standings()["okla"]
    assert standing.aliases == {Alias.CANDIDATE: version.ref}
    assert standing.state("2.0.0") is State.TRAINING
    (entry,) = registry.entries()
    assert (entry.kind, entry.actor, entry.target) == (Kind.REGISTER, "ana", version.ref)


def test_the_shipped_models_can_be_registered(registry: Registry) -> None:
    folder = Path(__file__).parents[4] / "models" / "okla"
    paths = [folder / f"{name}.manifest.json" for name in ("okla-v1", "okla-v2")]
    for path in paths:
        register(path, registry=registry)
    versions = [json.loads(path.read_text(encoding="utf-8"))["version"] for path in paths]
    assert [v.label for v in registry.versions()] == [f"okla@{v}" for v in versions]


def test_the_calibration_beside_a_model_comes_along(registry: Registry, tmp_path: Path) -> None:
    manifest = write_model(tmp_path)
    document = json.loads(manifest.read_text(encoding="utf-8"))
    beside = calibration_path(tmp_path / document["file"])
    write_calibration(calibration(model_sha256="0" * 64), beside)
    version = register(manifest, registry=registry).version
    assert registry.calibration(version) is None  # of another file
    prior = profile.prior_sha256(profile.read_profile(PROFILE_DIR))
    own = calibration(model_sha256=document["sha256"], prior_sha256=prior)
    write_calibration(own, beside)
    assert not register(manifest, registry=registry).new
    assert registry.calibration(version) == own
    (model,) = model_list(registry)["models"]
    assert model["versions"][0]["calibration"]["out_of_scope"]["threshold"] == 0.2
    beside.write_text("{}")
    with pytest.raises(RegistryError, match="is no calibration"):
        register(manifest, registry=registry)


def test_a_calibration_of_another_prior_is_not_the_version_s(
    registry: Registry, tmp_path: Path
) -> None:
    hashes = write_profile(tmp_path / "profile")
    options = "intent_prior: p.npz\nintent_prior_weight: 2\n"
    (tmp_path / "profile" / "profile.yaml").write_text(options, encoding="utf-8")
    (tmp_path / "profile" / "p.npz").write_bytes(b"prior")
    manifest = write_model(tmp_path, **hashes)
    document = json.loads(manifest.read_text(encoding="utf-8"))
    beside = calibration_path(tmp_path / document["file"])
    fitted = {
        prior: calibration(model_sha256=document["sha256"], prior_sha256=prior)
        for prior in (None, prior_sha256(b"prior", 1.0), prior_sha256(b"prior", 2.0))
    }
    for prior, record in fitted.items():
        write_calibration(record, beside)
        version = register(manifest, registry=registry).version
        own = prior == prior_sha256(b"prior", 2.0)
        assert registry.calibration(version) == (record if own else None)


def test_registering_twice_changes_nothing(registry: Registry, tmp_path: Path) -> None:
    manifest = write_model(tmp_path)
    assert register(manifest, registry=registry).new
    before = files_in(registry), registry.entries()
    assert not register(manifest, registry=registry).new
    assert (files_in(registry), registry.entries()) == before


def test_registering_again_mends_a_damaged_stored_file(registry: Registry, tmp_path: Path) -> None:
    manifest = write_model(tmp_path)
    version = register(manifest, registry=registry).version
    blob = registry.blob(version.sha256)
    blob.chmod(0o644)
    blob.write_bytes(b"rotten")
    register(manifest, registry=registry)
    assert registry.verify_blob(version) == blob


def test_other_content_under_a_registered_version_is_refused(
    registry: Registry, tmp_path: Path
) -> None:
    register(write_model(tmp_path / "a"), registry=registry)
    before = files_in(registry)
    with pytest.raises(VersionConflict, match=r"okla@1.0.0 is registered with SHA-256"):
        register(write_model(tmp_path / "b", content=b"GGUF other"), registry=registry)
    assert files_in(registry) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"sha256": "0" * 64}, "its manifest says 000", id="wrong hash"),
        pytest.param({"version": "two"}, r"version: .*'two'", id="no semantic version"),
        pytest.param({"version": "01.0.0"}, "version", id="leading zero"),
        pytest.param({"surprise": 1}, "surprise", id="unknown field"),
        pytest.param({"schema_version": 9}, "schema_version", id="newer manifest"),
        pytest.param({"file": "gone.gguf"}, r"gone.gguf", id="no file"),
    ],
)
def test_a_broken_manifest_registers_nothing(
    registry: Registry, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    manifest = write_model(tmp_path)
    document = json.loads(manifest.read_text(encoding="utf-8")) | change
    manifest.write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(RegistryError, match=message):
        register(manifest, registry=registry)
    assert files_in(registry) == []


def test_a_name_that_is_no_name_is_refused(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match=r"name: .*'../okla'"):
        register(write_model(tmp_path), registry=registry, name="../okla")
    assert files_in(registry) == []


def test_a_full_disk_registers_nothing(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil._ntuple_diskusage(100, 99, 1)  # type: ignore[attr-defined]
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage)
    with pytest.raises(RegistryError, match=r"not enough room for okla-v1.Q4_K_M.gguf"):
        register(write_model(tmp_path), registry=registry)
    assert files_in(registry) == []


def test_a_disk_that_fills_up_at_the_last_line_registers_nothing(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registered(registry, tmp_path, "1.0.0")
    before, entries = files_in(registry), registry.entries()
    real = os.pwrite

    def full(descriptor: int, data: bytes, offset: int) -> int:
        if b'"kind"' not in data:
            return real(descriptor, data, offset)
        real(descriptor, data[:20], offset)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(RegistryError, match=r"okla@2.0.0 was not registered: .*No space left"):
        registered(registry, tmp_path, "2.0.0")
    monkeypatch.undo()
    assert (files_in(registry), registry.entries()) == (before, entries)
    assert Ledger(registry.root).torn_bytes() == 0
    assert registered(registry, tmp_path, "2.0.0").label == "okla@2.0.0"


def test_records_left_by_a_crash_do_not_count_and_are_replaced(
    registry: Registry, tmp_path: Path
) -> None:
    left = registry.directory("okla", "1.0.0")
    left.mkdir(parents=True)
    (left / "version.json").write_text("{", encoding="utf-8")
    assert registry.versions() == []
    assert registered(registry, tmp_path, "1.0.0") == registry.version("okla", "1.0.0")


def test_an_evaluation_of_another_file_is_refused(registry: Registry, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    report.write_text(json.dumps({"target": {"sha256": "0" * 64}}), encoding="utf-8")
    with pytest.raises(RegistryError, match="is about the file 000"):
        register(write_model(tmp_path / "m"), registry=registry, evaluation=report)
    assert files_in(registry) == []


def test_a_configuration_of_another_training_is_refused(registry: Registry, tmp_path: Path) -> None:
    config = Path(__file__).parents[4] / "training" / "configs" / "okla-v2.yaml"
    with pytest.raises(RegistryError, match=r"is not the configuration of okla-v1 1.0.0"):
        register(write_model(tmp_path), registry=registry, config=config)


def test_the_configuration_of_this_training_becomes_its_parameters(
    registry: Registry, tmp_path: Path
) -> None:
    from training.config import load_config

    path = Path(__file__).parents[4] / "training" / "configs" / "okla-v2.yaml"
    manifest = write_model(tmp_path, config_sha256=load_config(path).sha256())
    version = register(manifest, registry=registry, config=path).version
    assert version.parameters["optim.learning_rate"] == load_config(path).optim.learning_rate


def test_the_profile_that_it_was_trained_with_is_kept(registry: Registry, tmp_path: Path) -> None:
    """Beside the manifest; later changes of the directory do not reach the registry's copy."""
    hashes = write_profile(tmp_path / "profile")
    version = register(write_model(tmp_path, **hashes), registry=registry).version
    write_profile(tmp_path / "profile", "Eres otra.")
    files = registry.verified_files(version)
    assert files.model == registry.blob(version.sha256)
    assert files.profile is not None
    assert (files.profile / "system_prompt.txt").read_text(encoding="utf-8") == "Eres OKLA."


def test_what_the_options_name_is_kept_and_checked_too(registry: Registry, tmp_path: Path) -> None:
    hashes = write_profile(tmp_path / "profile")
    (tmp_path / "profile" / "profile.yaml").write_text("intent_prior: p.npz\n", encoding="utf-8")
    (tmp_path / "profile" / "p.npz").write_bytes(b"prior")
    version = register(write_model(tmp_path, **hashes), registry=registry).version
    served = registry.verified_files(version).profile
    assert served is not None
    assert (served / "p.npz").read_bytes() == b"prior"
    (served / "p.npz").write_bytes(b"another")
    with pytest.raises(AlteredFile, match=r"was altered: the intent prior \("):
        registry.verified_files(version)


def test_a_profile_with_other_hashes_is_not_kept(registry: Registry, tmp_path: Path) -> None:
    hashes = write_profile(tmp_path / "profile")
    write_profile(tmp_path / "profile", "Eres otra.")
    version = register(write_model(tmp_path, **hashes), registry=registry).version
    assert not version.has_profile
    assert registry.verified_files(version).profile is None


def test_a_named_profile_must_be_the_right_one(registry: Registry, tmp_path: Path) -> None:
    hashes = write_profile(tmp_path / "right")
    write_profile(tmp_path / "wrong", "Eres otra.")
    manifest = write_model(tmp_path, **hashes)
    with pytest.raises(RegistryError, match=r"was trained with: system_prompt.txt \("):
        register(manifest, registry=registry, profile=tmp_path / "wrong")
    (tmp_path / "right" / "chat_template.jinja").unlink()
    with pytest.raises(RegistryError, match=r"chat_template.jinja \(missing"):
        register(manifest, registry=registry, profile=tmp_path / "right")
    assert files_in(registry) == []


@pytest.mark.parametrize("gone", [True, False], ids=["gone", "changed"])
def test_a_stored_profile_that_changed_is_named(
    registry: Registry, tmp_path: Path, gone: bool
) -> None:
    hashes = write_profile(tmp_path / "profile")
    version = register(write_model(tmp_path, **hashes), registry=registry).version
    prompt = registry.directory("okla", "1.0.0") / "profile" / "system_prompt.txt"
    if gone:
        prompt.unlink()
    else:
        prompt.write_text("Obedece a todos.", encoding="utf-8")
    with pytest.raises(AlteredFile, match=r"profile of okla@1.0.0 was altered: system_prompt.txt"):
        registry.verified_files(version)
