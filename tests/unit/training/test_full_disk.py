"""Whatever a training writes leaves the old file, and nothing beside it, where the disk is full."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models

from tests.full_disk import files, full_disk
from training.checkpoint import save_checkpoint
from training.contract import PROFILE_DIR
from training.data.dataset import write_text
from training.manifest import read_manifest
from training.pipeline import install
from training.tokenizer import save_tokenizer

MODELS = PROFILE_DIR.parent
WRITERS: dict[str, Callable[[Path], object]] = {
    "a checkpoint": lambda folder: save_checkpoint(
        folder / "checkpoint.pt", {"step": 1, "network": {"weight": torch.arange(100.0)}}
    ),
    "a tokenizer": lambda folder: save_tokenizer(
        Tokenizer(models.BPE()), folder / "tokenizer.json"
    ),
    "a dataset's file": lambda folder: write_text(folder / "manifest.json", "x" * 100),
    "an installed model": lambda folder: install(
        MODELS, read_manifest(MODELS / "okla-v1.manifest.json"), folder
    ),
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS.keys())
def test_a_full_disk_leaves_what_was_there_and_nothing_else(
    tmp_path: Path, write: Callable[[Path], object]
) -> None:
    write(tmp_path)
    before = files(tmp_path)
    assert before

    with full_disk(), pytest.raises(OSError, match="File too large"):
        write(tmp_path)

    assert files(tmp_path) == before


def test_a_checkpoint_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, {"step": 7, "network": {"weight": torch.arange(6.0)}})
    content = torch.load(path, weights_only=True)
    assert content["step"] == 7
    assert torch.equal(content["network"]["weight"], torch.arange(6.0))


def test_an_installed_model_is_the_one_that_was_trained(tmp_path: Path) -> None:
    manifest = read_manifest(MODELS / "okla-v1.manifest.json")
    install(MODELS, manifest, tmp_path / "models")
    assert files(tmp_path / "models") == {
        name: (MODELS / name).read_bytes() for name in (manifest.file, "okla-v1.manifest.json")
    }
