"""The configuration that a retraining is submitted with."""

from pathlib import Path

import pytest
import yaml

from experiments.retraining.errors import BadRecord, Blocked
from training.config import load_config
from training.retrain.prepare import PreparePolicy, RetrainManifest
from training.retrain.submission import derive_config

_OKLA = Path(__file__).parents[4] / "training" / "configs" / "okla-v2.yaml"


def _manifest(*, all_original: bool) -> RetrainManifest:
    return RetrainManifest(
        sha256="d" * 64,
        base_sha256="e" * 64,
        n_original=210,
        n_new=90,
        policy=PreparePolicy(all_original=all_original),
        parts={},
        item_ids=(),
        left_out={},
        protected={},
    )


def test_a_training_from_scratch_gets_dataset_and_next_minor_version(tmp_path: Path) -> None:
    dataset = tmp_path / "set"
    path = derive_config(_OKLA, dataset, _manifest(all_original=True), tmp_path, version=None)
    before, after = load_config(_OKLA), load_config(path)
    major, minor, _ = before.version.split(".")
    assert after.version == f"{major}.{int(minor) + 1}.0"
    assert after.dataset is not None
    assert (after.dataset.path, after.dataset.sha256) == (dataset, "d" * 64)
    assert after.model_copy(update={"dataset": None, "version": before.version}) == before
    assert after.sha256() != before.sha256()


def test_where_the_dataset_lies_is_not_part_of_the_hash(tmp_path: Path) -> None:
    manifest = _manifest(all_original=True)
    hashes = {
        load_config(
            derive_config(_OKLA, tmp_path / name, manifest, tmp_path, version="3.0.0")
        ).sha256()
        for name in ("here", "there")
    }
    assert len(hashes) == 1


def test_a_training_from_scratch_needs_every_original_example(tmp_path: Path) -> None:
    with pytest.raises(Blocked, match="it would forget the rest"):
        derive_config(_OKLA, tmp_path, _manifest(all_original=False), tmp_path, version=None)
    assert list(tmp_path.iterdir()) == []


def test_an_adapter_learns_from_the_mix_and_finds_its_base_again(tmp_path: Path) -> None:
    source = tmp_path / "configs" / "lora.yaml"
    source.parent.mkdir()
    source.write_text(
        yaml.safe_dump(
            {"kind": "lora", "name": "okla-lora", "version": "1.4.2", "base": "../base",
             "dataset": "../old"}
        ),
        encoding="utf-8",
    )  # fmt: skip
    dataset = tmp_path / "set"
    path = derive_config(
        source, dataset, _manifest(all_original=False), tmp_path / "out", version=None
    )
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert document["version"] == "1.5.0"
    assert Path(document["base"]).resolve() == (tmp_path / "base").resolve()
    assert document["dataset"] == str(dataset)


def test_what_is_no_configuration_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "c.yaml"
    source.write_text("- a\n- b\n", encoding="utf-8")
    with pytest.raises(BadRecord, match="no training configuration"):
        derive_config(source, tmp_path, _manifest(all_original=True), tmp_path, version=None)
