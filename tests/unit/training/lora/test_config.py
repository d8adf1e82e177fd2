"""LoRA configurations."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from training.errors import ConfigError
from training.lora.config import LoraConfig, Quant, load_config

GOOD: dict[str, Any] = {
    "kind": "lora",
    "name": "okla-lora",
    "version": "1.0.0",
    "license": "Apache-2.0",
    "base": "../base",
    "dataset": "data",
    "optim": {"n_steps": 10},
}


def written(folder: Path, **changes: Any) -> Path:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(GOOD | changes), encoding="utf-8")
    return path


CONFIGS = Path(__file__).parents[4] / "training" / "configs" / "lora"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda p: p.stem)
def test_shipped_configurations_load_and_are_named_after_their_file(path: Path) -> None:
    assert load_config(path).name == path.stem


def test_folders_are_relative_to_the_file(tmp_path: Path) -> None:
    config = load_config(written(tmp_path))
    assert config.dataset == tmp_path / "data"
    assert config.base == tmp_path / "../base"


def test_defaults_are_those_of_the_documentation(tmp_path: Path) -> None:
    config = load_config(written(tmp_path))
    assert (config.adapter.rank, config.adapter.alpha) == (16, 32)
    assert config.adapter.target_modules == "all-linear"
    assert config.quant is Quant.AUTO


def test_the_hash_is_the_same_wherever_the_file_lies(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    here, there = load_config(written(tmp_path)), load_config(written(tmp_path / "other"))
    assert here.sha256() == there.sha256()
    assert here.sha256() != load_config(written(tmp_path, seed=7)).sha256()
    assert here.sha256() != load_config(written(tmp_path, dataset="data2")).sha256()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param(
            {"quant": "int3"}, "quant: Input should be 'none', 'nf4' or 'auto'", id="quant"
        ),
        pytest.param({"sed": 1}, "sed: Extra inputs", id="unknown-key"),
        pytest.param({"adapter": {"rank": 0}}, r"adapter\.rank", id="rank"),
        pytest.param({"version": "one"}, "version", id="version"),
        pytest.param(
            {"optim": {"n_steps": 1, "batch_size": 8, "micro_batch_size": 3}},
            "batch_size 8 is no multiple of micro_batch_size 3",
            id="micro-batch",
        ),
        pytest.param({"kind": "dora"}, "kind", id="kind"),
    ],
)
def test_a_wrong_configuration_is_refused_by_name(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(written(tmp_path, **changes))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml"):
        load_config(tmp_path / "none.yaml")


def test_a_configuration_cannot_be_changed(tmp_path: Path) -> None:
    config: LoraConfig = load_config(written(tmp_path))
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 1  # type: ignore[misc]
