"""Manifests of shipped models."""

import shutil
from pathlib import Path

import pytest

from training.contract import PROFILE_DIR
from training.errors import ArtefactError
from training.manifest import file_sha256, manifest_path, read_manifest, verify_model

MODELS = PROFILE_DIR.parent
SHIPPED = ["okla-v1", "okla-v2"]
MAX_BYTES = 40 * 1024 * 1024


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_model_is_the_one_its_manifest_describes(name: str) -> None:
    manifest = verify_model(MODELS / f"{name}.manifest.json")
    model = MODELS / manifest.file
    assert manifest.name == name
    assert manifest.size_bytes == model.stat().st_size < MAX_BYTES
    assert set(manifest.tensor_types) == {"F32", "Q4_K", "Q6_K"}
    assert manifest_path(model) == MODELS / f"{name}.manifest.json"


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_model_was_trained_with_the_shipped_profile(name: str) -> None:
    manifest = read_manifest(MODELS / f"{name}.manifest.json")
    assert manifest.system_prompt_sha256 == file_sha256(PROFILE_DIR / "system_prompt.txt")
    assert manifest.answer_schema_sha256 == file_sha256(PROFILE_DIR / "answer.schema.json")
    assert manifest.chat_template_sha256 == file_sha256(PROFILE_DIR / "chat_template.jinja")


def test_shipped_models_differ() -> None:
    first, second = (read_manifest(MODELS / f"{name}.manifest.json") for name in SHIPPED)
    assert first.sha256 != second.sha256
    assert first.config_sha256 != second.config_sha256


def test_a_changed_model_is_named(tmp_path: Path) -> None:
    for path in (MODELS / "okla-v1.manifest.json", MODELS / "okla-v1.Q4_K_M.gguf"):
        shutil.copyfile(path, tmp_path / path.name)
    with (tmp_path / "okla-v1.Q4_K_M.gguf").open("r+b") as file:
        file.seek(1000)
        file.write(b"x")
    with pytest.raises(ArtefactError, match=r"okla-v1.Q4_K_M.gguf has SHA-256"):
        verify_model(tmp_path / "okla-v1.manifest.json")


def test_a_newer_manifest_is_refused(tmp_path: Path) -> None:
    text = (MODELS / "okla-v1.manifest.json").read_text(encoding="utf-8")
    path = tmp_path / "a.manifest.json"
    path.write_text(text.replace('"schema_version": 1', '"schema_version": 2'), encoding="utf-8")
    with pytest.raises(ArtefactError, match="schema_version"):
        read_manifest(path)
