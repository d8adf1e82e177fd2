"""When a work folder already holds what a training would give."""

import json
from pathlib import Path

import pytest
import torch

from experiments.jobs.preflight import Check
from training.data.catalog import catalog_sha256
from training.data.dataset import DatasetManifest, SuiteInfo
from training.jobs.scratch import ScratchRecipe
from training.manifest import ModelManifest, read_manifest

ROOT = Path(__file__).resolve().parents[4]


def finished(
    folder: Path, *, catalog: str | None = None, config: str | None = None
) -> tuple[ScratchRecipe, ModelManifest]:
    recipe = ScratchRecipe(ROOT / "training" / "configs" / "tiny.yaml")
    shipped = read_manifest(ROOT / "models" / "okla" / "okla-v1.manifest.json")
    manifest = shipped.model_copy(update={"config_sha256": config or recipe.sha256})
    if catalog != "":
        dataset = DatasetManifest(
            schema_version=1,
            sha256="1" * 64,
            catalog_sha256=catalog or catalog_sha256(),
            config=recipe.config.data,
            splits={},
            suites={},
            ratings=SuiteInfo(file="ratings.jsonl", sha256="2" * 64, n_items=0),
        )
        (folder / "data").mkdir()
        (folder / "data" / "manifest.json").write_text(dataset.model_dump_json())
    return recipe, manifest


@pytest.mark.parametrize(
    ("catalog", "config", "made"),
    [
        pytest.param(None, None, True, id="nothing changed"),
        pytest.param("0" * 64, None, False, id="other phrases"),
        pytest.param(None, "0" * 64, False, id="other configuration"),
        pytest.param("", None, False, id="no dataset"),
    ],
)
def test_a_model_is_done_while_phrases_and_configuration_stay(
    tmp_path: Path, catalog: str | None, config: str | None, made: bool
) -> None:
    recipe, manifest = finished(tmp_path, catalog=catalog, config=config)
    assert recipe.made(manifest, tmp_path) is made


def test_a_network_that_was_trained_since_makes_another_model(tmp_path: Path) -> None:
    recipe, manifest = finished(tmp_path)
    metrics = {"training": {"network_sha256": "3" * 64}}
    (tmp_path / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
    for digest, made in (("3" * 64, True), ("4" * 64, False)):
        record = json.dumps({"network_sha256": digest})
        (tmp_path / "trained.json").write_text(record, encoding="utf-8")
        assert recipe.made(manifest, tmp_path) is made


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_told_before_anything_is_prepared(tmp_path: Path) -> None:
    recipe = ScratchRecipe(ROOT / "training" / "configs" / "okla-v2.yaml")

    def device() -> Check:
        return next(check for check in recipe.checks(tmp_path) if check.name == "device")

    assert not device().ok
    (tmp_path / "trained.json").write_text('{"network_sha256": "ab"}', encoding="utf-8")
    assert device().ok
