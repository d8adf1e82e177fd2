"""Original data with its evaluation suites, generated once."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from training.data.catalog import Split
from training.data.generator import DataConfig, generate
from training.data.suites import WrittenSuite, to_line, written_items
from training.retrain.examples import Example, read_examples
from training.retrain.guards import Trusted

_N_TRAIN = 5_000


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset folder: train.jsonl and the golden suite."""
    folder = tmp_path_factory.mktemp("base")
    _write(folder / "train.jsonl", (c.to_json() for c in generate(_config(), Split.TRAIN)))
    (folder / "suites").mkdir()
    _write(folder / "suites" / "golden.jsonl", map(to_line, written_items(WrittenSuite.GOLDEN)))
    return folder


@pytest.fixture(scope="session")
def small_base(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A third of it, for tests of commands."""
    folder = tmp_path_factory.mktemp("small-base")
    for name, n_lines in (("train.jsonl", 620), ("suites/golden.jsonl", 400)):
        lines = (base / name).read_text(encoding="utf-8").split("\n")
        (folder / name).parent.mkdir(exist_ok=True)
        step = max(1, len(lines) // n_lines) if name != "train.jsonl" else 1
        _write(folder / name, iter(lines[: n_lines * step : step]))
    return folder


@pytest.fixture(scope="session")
def known(base: Path) -> list[Example]:
    """The original training data."""
    return read_examples(base / "train.jsonl")


@pytest.fixture(scope="session")
def trusted(known: list[Example]) -> Trusted:
    """The original training data as the guards see it."""
    return Trusted(known)


@pytest.fixture(scope="session")
def unseen(tmp_path_factory: pytest.TempPathFactory) -> list[Example]:
    """Conversations with phrases that the original data does not have, as customers bring."""
    path = tmp_path_factory.mktemp("unseen") / "train.jsonl"
    _write(path, (c.to_json() for c in generate(_config(), Split.HELDOUT)))
    return read_examples(path)


def _config() -> DataConfig:
    return DataConfig(n_train=_N_TRAIN)


def _write(path: Path, lines: Iterator[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
