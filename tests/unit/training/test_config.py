"""Training configurations."""

from pathlib import Path

import pytest

from training.config import load_config
from training.errors import ConfigError

CONFIGS = Path(__file__).parents[3] / "training" / "configs"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("okla-*.yaml")), ids=lambda p: p.stem)
def test_shipped_configurations_load_and_are_named_after_their_file(path: Path) -> None:
    assert load_config(path).name == path.stem


def test_the_hash_follows_the_content(tmp_path: Path) -> None:
    text = (CONFIGS / "okla-v1.yaml").read_text(encoding="utf-8")
    same, other = tmp_path / "same.yaml", tmp_path / "other.yaml"
    same.write_text(f"# another comment\n{text}", encoding="utf-8")
    other.write_text(text.replace("seed: 42", "seed: 43"), encoding="utf-8")
    shipped = load_config(CONFIGS / "okla-v1.yaml").sha256()
    assert load_config(same).sha256() == shipped
    assert load_config(other).sha256() != shipped


def sha256_of(folder: Path, *, optim: str = "", tokenizer: str = "") -> str:
    path = folder / "config.yaml"
    path.write_text(
        "{name: tiny, version: 0.0.1, description: '', data: {}, "
        f"tokenizer: {{vocab_size: 512{tokenizer}}}, optim: {{n_steps: 1{optim}}}}}",
        encoding="utf-8",
    )
    return load_config(path).sha256()


@pytest.mark.parametrize(
    ("usual", "other"),
    [
        ({"optim": ", warm_start: bag"}, {"optim": ", warm_start: pairs"}),
        ({"optim": ", reader_rate: 1.0"}, {"optim": ", reader_rate: 0.5"}),
        ({"optim": ", n_given_intents: 0"}, {"optim": ", n_given_intents: 9"}),
        ({"tokenizer": ", n_phrases: 0"}, {"tokenizer": ", n_phrases: 8"}),
    ],
)
def test_an_option_that_came_later_changes_the_hash_only_where_it_is_used(
    usual: dict[str, str], other: dict[str, str], tmp_path: Path
) -> None:
    # What it was before there was a choice: manifests name it.
    before = "6215618892dfe742a3205471be1c73bdac6642feda4c888b16133f8714b2d55c"
    assert sha256_of(tmp_path, **usual) == sha256_of(tmp_path) == before
    assert sha256_of(tmp_path, **other) != before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("hidden_size: 256", "hidden_size: 320"), "multiple of 256"),
        (("n_heads: 4", "n_heads: 3"), "n_heads"),
        (("batch_size: 12", "batch_size: 0"), "batch_size"),
        (("seed: 42", "sed: 42"), "sed"),
        (("version: 1.4.0", "version: one"), "version"),
        (("registers: [formal, casual]", "registers: [posh]"), "registers"),
    ],
)
def test_a_wrong_configuration_is_refused_by_name(
    tmp_path: Path, change: tuple[str, str], message: str
) -> None:
    text = (CONFIGS / "okla-v1.yaml").read_text(encoding="utf-8")
    assert change[0] in text
    path = tmp_path / "config.yaml"
    path.write_text(text.replace(*change), encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        load_config(path)


def test_where_a_base_lies_is_no_part_of_the_hash(tmp_path: Path) -> None:
    text = (CONFIGS / "okla-v1.yaml").read_text(encoding="utf-8")
    moved, other = tmp_path / "moved.yaml", tmp_path / "other.yaml"
    moved.write_text(text.replace("var/train/okla-v1-first  #", "/elsewhere  #"), encoding="utf-8")
    assert load_config(moved).sha256() == load_config(CONFIGS / "okla-v1.yaml").sha256()
    digest = load_config(CONFIGS / "okla-v1.yaml").base
    assert digest is not None
    other.write_text(text.replace(digest.network_sha256, "f" * 64), encoding="utf-8")
    assert load_config(other).sha256() != load_config(moved).sha256()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml"):
        load_config(tmp_path / "none.yaml")
