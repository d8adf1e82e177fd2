"""The models in `models/okla` follow from the sources that their manifests name."""

import subprocess
import sys
from pathlib import Path

import pytest

from training.config import load_config
from training.manifest import read_manifest, verify_model

ROOT = Path(__file__).parents[2]
NAMES = ("okla-v1", "okla-v2")
MAX_BYTES = 40 * 2**20
WRITE_DATASET = """
import sys
from pathlib import Path
from training.config import load_config
from training.data.dataset import write_dataset
print(write_dataset(load_config(Path(sys.argv[1])).data, Path(sys.argv[2])).sha256)
"""


@pytest.mark.parametrize("name", NAMES)
def test_a_model_is_the_file_of_its_manifest_and_of_its_configuration(name: str) -> None:
    manifest = verify_model(ROOT / "models" / "okla" / f"{name}.manifest.json")
    config = load_config(ROOT / "training" / "configs" / f"{name}.yaml")
    assert manifest.config_sha256 == config.sha256()
    if config.base is not None:
        assert manifest.tokenizer_sha256 == config.base.tokenizer_sha256
    assert (manifest.name, manifest.version) == (config.name, config.version)
    assert manifest.size_bytes <= MAX_BYTES


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_its_dataset_can_be_made_again(name: str, tmp_path: Path) -> None:
    manifest = read_manifest(ROOT / "models" / "okla" / f"{name}.manifest.json")
    config = ROOT / "training" / "configs" / f"{name}.yaml"
    assert manifest.code_commit is not None
    # Phrases go on being written after a training: its data are those of the commit it ran at.
    sources = tmp_path / "sources"
    sources.mkdir()
    archive = tmp_path / "sources.tar"
    git = ["git", "-C", str(ROOT), "archive", "--output", str(archive), manifest.code_commit]
    subprocess.run([*git, "experiments", "training", "models/okla/profile"], check=True)
    subprocess.run(["tar", "-xf", str(archive), "-C", str(sources)], check=True)
    done = subprocess.run(
        [sys.executable, "-c", WRITE_DATASET, str(config), str(tmp_path / "data")],
        cwd=sources,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [manifest.dataset_sha256]
