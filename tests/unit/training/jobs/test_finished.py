"""When a work folder already holds what a training would give."""

from pathlib import Path

import pytest

from training.data.catalog import catalog_sha256
from training.data.dataset import DatasetManifest, SuiteInfo
from training.jobs.scratch import ScratchRecipe
from training.manifest import read_manifest

ROOT = Path(__file__).resolve().parents[4]


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
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "manifest.json").write_text(dataset.model_dump_json())

    assert recipe.made(manifest, tmp_path) is made
